"""Send each row over OTLP/HTTP, with the SDK of OpenTelemetry.

Devices have the names and attributes of the semantic conventions for hardware (`hw.energy`, `hw.power`,
`hw.host.energy`, `hw.host.power`, with `hw.id`, `hw.name` and `hw.type`). What they have no name for is below
`carbon_plugin.`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from carbon_plugin.errors import WatchError
from carbon_plugin.sinks.metrics.metric import METRICS, UCUM, Rising, values_of
from carbon_plugin.sinks.row import DeviceFigures, Row
from carbon_plugin.sinks.sink import NotTakenError, Sink

_TIMEOUT_S = 2
"""A row waits so long for the collector, and so does the end of a training."""
_HOST = "host"


class OtlpSink(Sink):
    """Sends metrics to a collector: the one that the target names, such as "otlp://localhost:4318", or else the one in
    the variables OTEL_EXPORTER_OTLP_*.
    """

    name = "otlp"

    def __init__(self, target: str = "") -> None:
        self._url = _url(target)
        self._provider: Any = None
        self._row: Row | None = None
        self._rising = Rising()
        self._taken = False
        self._closing = False

    def write(self, row: Row) -> None:
        """Send a row. Raises `NotTakenError` if the collector does not accept it. Nothing is lost then, because all
        sums count from the beginning.
        """
        self._row = row
        if self._provider is None:
            self._open(row)
        self._provider.force_flush(1000 * _TIMEOUT_S)
        if not self._taken:
            raise NotTakenError("the collector does not take the metrics; they are sent again with each row")

    def close(self, report: Path | None) -> None:
        """Release the exporter. The last row was sent when it was written."""
        if self._provider is not None:
            self._closing = True  # the SDK would send everything once more and wait for it
            self._provider.shutdown()
            self._closing = False
        self._provider = self._row = None

    def _open(self, row: Row) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource

        sink = self

        class Exporter(OTLPMetricExporter):  # type: ignore[misc]
            """Remembers whether the collector accepted the metrics."""

            def export(self, *args: Any, **kwargs: Any) -> Any:
                if sink._closing:
                    return MetricExportResult.SUCCESS
                result = super().export(*args, **kwargs)
                sink._taken = result is MetricExportResult.SUCCESS
                return result

        exporter = Exporter(endpoint=self._url, timeout=_TIMEOUT_S)
        # The exporter logs several lines whenever a collector is away; the user gets one warning of ours instead.
        logging.getLogger(OTLPMetricExporter.__module__).addFilter(_not_of_this_thread())
        # Rows come when a window ends, so that the reader needs no interval of its own.
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
        resource = Resource.create({"service.name": "carbon_plugin", "host.name": row.run.hostname})
        # The provider is this sink's own. The one that the program may have set stays as it is.
        self._provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("carbon_plugin")
        for family in METRICS:
            make = meter.create_observable_counter if family.counter else meter.create_observable_gauge
            make(family.otel_name, [self._reader_of(family.key)], unit=UCUM[family.unit], description=family.help)
        meter.create_observable_gauge("carbon_plugin.step", [self._steps], description="Last optimizer step of the run")
        for prefix, of_host in (("hw", False), ("hw.host", True)):
            meter.create_observable_counter(
                f"{prefix}.energy", [self._energies(of_host)], unit="J", description="Energy used for the run so far"
            )
            meter.create_observable_gauge(
                f"{prefix}.power", [self._powers(of_host)], unit="W", description="Power over the last window"
            )

    def _reader_of(self, key: str) -> Callable[[Any], Iterable[Any]]:
        def read(_: Any) -> Iterable[Any]:
            from opentelemetry.metrics import Observation

            row = self._row
            for family, value in values_of(row.metrics) if row is not None else ():
                if family.key == key and row is not None:
                    shown = self._rising.value((key, row.run.run_id), value) if family.counter else value
                    yield Observation(shown, _run(row))

        return read

    def _steps(self, _: Any) -> Iterable[Any]:
        from opentelemetry.metrics import Observation

        if self._row is not None:
            yield Observation(self._row.step, _run(self._row))

    def _energies(self, of_host: bool) -> Callable[[Any], Iterable[Any]]:
        def read(_: Any) -> Iterable[Any]:
            from opentelemetry.metrics import Observation

            for row, device in _devices(self._row, of_host):
                energy_j = self._rising.value(("energy", row.run.run_id, device.key), device.energy_j)
                yield Observation(energy_j, _attributes(row, device))

        return read

    def _powers(self, of_host: bool) -> Callable[[Any], Iterable[Any]]:
        def read(_: Any) -> Iterable[Any]:
            from opentelemetry.metrics import Observation

            for row, device in _devices(self._row, of_host):
                yield Observation(device.power_w, _attributes(row, device))

        return read


def _not_of_this_thread() -> Callable[[logging.LogRecord], bool]:
    ours = threading.get_ident()
    return lambda record: record.thread != ours


def _url(target: str) -> str | None:
    """Return the address of the collector's metrics, or None where the environment names it. Raises `WatchError` for an
    unusable address.
    """
    if not target:
        return None
    expected = 'an address such as "otlp://localhost:4318", or "otlp:https://host/path"'
    try:
        parts = urlsplit(f"http:{target}" if target.startswith("//") else target)
        has_port = parts.port is not None
    except ValueError as error:
        raise WatchError(f"log is {'otlp:' + target!r}, expected {expected}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WatchError(f"log is {'otlp:' + target!r}, expected {expected}")
    path = parts.path if parts.path.strip("/") else "/v1/metrics"
    port = "" if has_port or parts.scheme == "https" else ":4318"
    return f"{parts.scheme}://{parts.netloc}{port}{path}"


def _devices(row: Row | None, of_host: bool) -> list[tuple[Row, DeviceFigures]]:
    """Return the devices that are parts of a host, or the others. A facility is no hardware of a host."""
    if row is None:
        return []
    of_rung = [device for device in row.devices if device.rung != "facility"]
    return [(row, device) for device in of_rung if (device.rung == _HOST) == of_host]


def _run(row: Row) -> dict[str, str]:
    return {"carbon_plugin.run.id": row.run.run_id, "carbon_plugin.run.name": row.run.name}


def _attributes(row: Row, device: DeviceFigures) -> dict[str, str]:
    kind = {} if device.rung == _HOST else {"hw.type": device.rung}
    return {"hw.id": device.key, "hw.name": device.name, **kind, **_run(row)}
