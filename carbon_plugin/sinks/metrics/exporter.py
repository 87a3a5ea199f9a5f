"""Answer Prometheus over HTTP, on the loopback interface unless another address is asked for."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from carbon_plugin.errors import WatchError
from carbon_plugin.sinks.metrics.exposition import Exposition
from carbon_plugin.sinks.row import Row
from carbon_plugin.sinks.sink import Sink

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 9440
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OURS = {"run_id", "run", "device", "model", "rung", "host", "programme", "role", "run_dir"}


class Endpoint(Struct, frozen=True, kw_only=True):
    """One endpoint is the address at which an exporter answers, with the labels that it puts on every metric."""

    address: str = LOOPBACK
    port: int = DEFAULT_PORT
    labels: Mapping[str, str] = {}


def endpoint_of(text: str) -> Endpoint:
    """Return the endpoint that an address such as "prometheus://0.0.0.0:9440?team=nlp" names.

    Raises `WatchError` for an address that cannot be used.
    """
    expected = 'an address such as "prometheus://127.0.0.1:9440?team=nlp"'
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise WatchError(f"log is {text!r}, and its port is no number up to 65535: expected {expected}") from error
    if parts.path or parts.fragment or parts.username or not parts.netloc:
        raise WatchError(f"log is {text!r}, expected {expected}")
    bare = next((one for one in parts.query.split("&") if parts.query and not one.partition("=")[2]), None)
    if bare is not None:
        raise WatchError(f"log is {text!r}, and the label {bare!r} has no value: expected {expected}")
    labels = dict(parse_qsl(parts.query, keep_blank_values=True))
    check_labels(labels, f"log is {text!r}")
    return Endpoint(address=parts.hostname or LOOPBACK, port=DEFAULT_PORT if port is None else port, labels=labels)


def check_labels(labels: Mapping[str, str], where: str) -> None:
    """Raise `WatchError` for a label that Prometheus does not allow, or that a metric already has."""
    for name in labels:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            raise WatchError(f"{where}: the label {name!r} has other signs than letters, digits and underscores")
        if name in _OURS:
            raise WatchError(f"{where}: the label {name!r} is one that the metrics have already")


class Exporter:
    """Serves one exposition until it is closed, on threads of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        self.exposition = Exposition(endpoint.labels)
        registry = CollectorRegistry()
        registry.register(self.exposition)
        self._server, self._thread = start_http_server(endpoint.port, endpoint.address, registry)

    @property
    def port(self) -> int:
        """Return the port. The system chooses it where the endpoint has port 0."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        """Close the socket in a forked child, so that the port is free when the parent ends."""
        self._server.socket.close()


_LOCK = threading.Lock()
_RUNNING: dict[tuple[str, int], Exporter] = {}
"""One exporter an address, for all trainings of this process. It answers until the process ends, so that the last
totals are scraped, and its counters go on when another training begins."""


class PrometheusSink(Sink):
    """Shows the latest row at an endpoint. The endpoint stays until the process ends."""

    name = "prometheus"

    def __init__(self, target: str = "") -> None:
        self._endpoint = endpoint_of(f"prometheus:{target}") if target else Endpoint()
        self._exporter: Exporter | None = None
        self._run_id = ""

    def write(self, row: Row) -> None:
        """Show a row. The first one opens the endpoint."""
        if self._exporter is None:
            self._exporter = _running(self._endpoint)
        self._run_id = row.run.run_id
        self._exporter.exposition.show_run(row)

    def close(self, report: Path | None) -> None:
        """Mark the run as ended."""
        if self._exporter is not None:
            self._exporter.exposition.end_run(self._run_id)

    def forget(self) -> None:
        """Close the parent's socket in a forked child."""
        if self._exporter is not None:
            self._exporter.forget()


def _running(endpoint: Endpoint) -> Exporter:
    key = endpoint.address, endpoint.port
    with _LOCK:
        if key not in _RUNNING:
            _RUNNING[key] = Exporter(endpoint)
        return _RUNNING[key]
