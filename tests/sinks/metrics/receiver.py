"""A receiver of OTLP over HTTP that decodes and keeps what it is sent."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """Keeps the metrics of each request: {(name, hw.id): (value, unit, attributes, monotonic)}."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusing = False
        self.paths: list[str] = []
        self.resources: list[dict[str, str]] = []
        self.requests: list[dict[tuple[str, str], tuple[float, str, dict[str, str], bool]]] = []

    @property
    def address(self) -> str:
        return f"//127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        if self.server.refusing:
            self.send_response(400)
            self.end_headers()
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        message = ExportMetricsServiceRequest.FromString(body)
        found = {}
        for resource in message.resource_metrics:
            self.server.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    data: Any = getattr(metric, metric.WhichOneof("data"))
                    for point in data.data_points:
                        attributes = {a.key: a.value.string_value for a in point.attributes}
                        value = getattr(point, point.WhichOneof("value"))
                        monotonic = bool(getattr(data, "is_monotonic", False))
                        key = metric.name, attributes.get("hw.id", "")
                        found[key] = (value, metric.unit, attributes, monotonic)
        self.server.paths.append(self.path)
        self.server.requests.append(found)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...
