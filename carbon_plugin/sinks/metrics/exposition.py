"""Turn rows of runs, and devices of a node, into metrics of Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from carbon_plugin.sinks.metrics.metric import METRICS, Rising, values_of
from carbon_plugin.sinks.row import DeviceFigures, Row, at_rest

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_RUN = ("run_id", "run")
_DEVICE = ("device", "model", "rung", "host")
_DETAILS = ("programme", "role", "run_dir", "host")


class Exposition:
    """Holds the latest rows of runs and the latest figures of the devices of a node, and describes them at each scrape.

    `labels` are put on every metric. It is a collector of `prometheus_client`.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._lock = threading.Lock()
        self._runs: dict[str, tuple[Row, bool, bool]] = {}
        self._devices: tuple[str, tuple[DeviceFigures, ...]] = ("", ())
        self._rising = Rising()

    def show_run(self, row: Row, *, whole: bool = True, active: bool = True) -> None:
        """Show a row of a run. `whole` says that its figures are those of the whole run, and not only of its devices on
        this node.
        """
        with self._lock:
            self._runs[row.run.run_id] = (row if active else at_rest(row), whole, active)

    def end_run(self, run_id: str) -> None:
        """Mark a run as ended. Its last figures stay, without power and projection."""
        with self._lock:
            if run_id in self._runs:
                row, whole, _ = self._runs[run_id]
                self._runs[run_id] = (at_rest(row), whole, False)

    def drop_run(self, run_id: str) -> None:
        """Stop showing a run."""
        with self._lock:
            self._runs.pop(run_id, None)

    def show_devices(self, hostname: str, devices: Iterable[DeviceFigures]) -> None:
        """Show the energy that the devices of this node have used since the exporter began, and their power."""
        with self._lock:
            self._devices = (hostname, tuple(devices))

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family with its samples."""
        with self._lock:
            runs, (hostname, devices) = list(self._runs.values()), self._devices
        yield from self._of_runs([(row, active) for row, _, active in runs])
        yield from self._of_whole_runs([row for row, whole, _ in runs if whole])
        named = [(_run_of(row), row.run.hostname, device) for row, _, _ in runs for device in row.devices]
        yield from self._of_devices("run_device", _RUN, "for the run so far", named)
        unnamed: list[tuple[tuple[str, ...], str, DeviceFigures]] = [((), hostname, device) for device in devices]
        yield from self._of_devices("device", (), "since the exporter began", unnamed)

    def _family(self, kind: str, name: str, text: str, names: tuple[str, ...]) -> Any:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        family = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}[kind]
        return family(f"carbon_plugin_{name}", text + ".", labels=(*names, *self._labels))

    def _add(self, family: Any, values: tuple[str, ...], value: float) -> None:
        family.add_metric((*values, *self._labels.values()), value)

    def _of_runs(self, runs: list[tuple[Row, bool]]) -> Iterator[Metric]:
        info = self._family("gauge", "run_info", "What describes the run, always 1", (*_RUN, *_DETAILS))
        active = self._family("gauge", "run_active", "1 while the training goes on, then 0", _RUN)
        window = self._family(
            "gauge", "last_window_timestamp_seconds", "When the last window of the run ended, Unix time", _RUN
        )
        for row, is_active in runs:
            run = row.run
            details = (run.programme or "", run.role or "", str(run.run_dir), run.hostname)
            self._add(info, (*_run_of(row), *details), 1.0)
            self._add(active, _run_of(row), float(is_active))
            self._add(window, _run_of(row), row.at_unix_s)
        yield from (family for family in (info, active, window) if family.samples)

    def _of_whole_runs(self, rows: list[Row]) -> Iterator[Metric]:
        step = self._family("gauge", "step", "Last optimizer step of the run", _RUN)
        planned = self._family("gauge", "planned_steps", "Optimizer steps that the whole run is to have", _RUN)
        families = {
            one.prometheus_name: self._family(
                "counter" if one.counter else "gauge",
                one.prometheus_name.removeprefix("carbon_plugin_"),
                one.help,
                _RUN,
            )
            for one in METRICS
        }
        for row in rows:
            self._add(step, _run_of(row), float(row.step))
            if row.run.total_steps is not None:
                self._add(planned, _run_of(row), float(row.run.total_steps))
            for family, value in values_of(row.metrics):
                name = family.prometheus_name
                shown = self._rising.value((name, row.run.run_id), value) if family.counter else value
                self._add(families[name], _run_of(row), shown)
        yield from (family for family in (step, planned, *families.values()) if family.samples)

    def _of_devices(
        self,
        prefix: str,
        names: tuple[str, ...],
        since: str,
        devices: list[tuple[tuple[str, ...], str, DeviceFigures]],
    ) -> Iterator[Metric]:
        labels = (*names, *_DEVICE)
        energy = self._family(
            "counter", f"{prefix}_energy_joules", f"Energy that a device of this node has used {since}", labels
        )
        power = self._family("gauge", f"{prefix}_power_watts", "Power of a device of this node, latest", labels)
        for run, host, device in devices:
            values = (*run, device.key, device.name, device.rung, host)
            self._add(energy, values, self._rising.value((prefix, *values), device.energy_j))
            self._add(power, values, device.power_w)
        yield from (family for family in (energy, power) if family.samples)


def as_text(exposition: Exposition) -> str:
    """Return all metrics as Prometheus reads them."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(exposition)
    return str(generate_latest(registry).decode())


def _run_of(row: Row) -> tuple[str, ...]:
    return row.run.run_id, row.run.name
