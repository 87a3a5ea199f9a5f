"""A cluster of eight H100 nodes with the embodied numbers of published footprints, plain factors, a local service."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from carbon_plugin.footprint.values import Factors, Intensity
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster, Host, Network, Node, ScaleUp
from carbon_plugin.spec.numbers.figure import Figure, Sourced


def _sourced(value: float, low: float | None = None, high: float | None = None) -> Sourced:
    return Sourced(value=value, low=low, high=high, source="sheet", confidence="read")


@pytest.fixture
def h100_cluster() -> Cluster:
    accelerator = Accelerator(
        name="h100-sxm",
        full_name="NVIDIA H100 SXM5 80 GB",
        vendor="nvidia",
        architecture="hopper",
        peak_flops={"bf16": _sourced(989.4e12)},
        memory_bytes=_sourced(80e9),
        memory_bandwidth_bytes_per_s=_sourced(3.35e12),
        tdp_w=_sourced(700),
        idle_power_w=_sourced(70),
        scaleup=ScaleUp(technology="nvlink4", bandwidth_bytes_per_s=_sourced(450e9), domain=8),
        scaleout_bandwidth_bytes_per_s=_sourced(50e9),
        embodied_kg=Sourced(value=164, low=125, high=275, source="pcf", confidence="read2"),
        sources={"sheet": "datasheet", "pcf": "NVIDIA HGX H100 PCF, July 2025"},
    )
    node = Node(
        name="dgx-h100",
        full_name="NVIDIA DGX H100",
        accelerator="h100-sxm",
        accelerators=8,
        host=Host(
            cpu="2x 56 cores",
            sockets=2,
            cpu_tdp_w=_sourced(350),
            dram_bytes=_sourced(2e12),
            ssd_bytes=_sourced(34.6e12),
            nics=10,
            base_power_w=_sourced(2000),
            overhead_fraction=_sourced(0.1),
            embodied_kg=Sourced(value=3200, low=1000, high=6000, source="model", confidence="derived"),
        ),
        network=Network(
            technology="infiniband",
            bandwidth_bytes_per_s=_sourced(50e9),
            power_w_per_device=_sourced(60),
            embodied_kg_per_device=_sourced(25, 10, 60),
        ),
        sources={"model": "bottom-up by DRAM, SSD, CPU", "sheet": "datasheet"},
    )
    return Cluster(accelerator=accelerator, node=node, nodes=8, devices_per_node=8)


@pytest.fixture(scope="session")
def make_factors() -> Callable[..., Factors]:
    """Return factors from (value, low, high) triples. A bare number has no range."""

    def make(
        intensity: object = 400.0, pue: object = 1.2, lifetime: object = 5.0, embodied: dict[str, object] | None = None
    ) -> Factors:
        return Factors(
            intensity=Intensity(
                zone="TST",
                zone_name="Testland",
                figure=_figure(intensity, "gCO2e/kWh"),
                year=2025,
                basis=None,
                licence="none",
                attribution="none",
            ),
            pue=_figure(pue, "kWh/kWh"),
            lifetime_years=_figure(lifetime, "year"),
            embodied_kg={scope: _figure(kg, "kgCO2e") for scope, kg in (embodied or {}).items()},
        )

    return make


def _figure(value: object, unit: str) -> Figure:
    central, low, high = value if isinstance(value, tuple) else (value, value, value)
    return Figure(central, low, high, unit, "assumed", "test")


@dataclass
class Answer:
    """What a local service says next. `drip_s` waits so long between the bytes of the body."""

    body: object = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drip_s: float = 0.0

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class LocalService:
    """A real HTTP server that answers by path and keeps the requests that it got (path with query, headers)."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # the name that http.server calls
                service.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                answer = service.answers.get(self.path.partition("?")[0], Answer(status=404))
                body = answer.encoded()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client went away
                    for position in range(0, len(body), 1 if answer.drip_s else max(1, len(body))):
                        self.wfile.write(body[position : position + 1] if answer.drip_s else body)
                        self.wfile.flush()
                        time.sleep(answer.drip_s)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[LocalService]:
    local = LocalService()
    yield local
    local.close()


@pytest.fixture(scope="session")
def answer() -> type[Answer]:
    return Answer
