"""One training under a simulated driver, the agent of its node, and a real Prometheus server that scrapes the agent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import msgspec
import pytest

from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.spec.loading import build_run_spec
from tests.patience import PATIENCE_S
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
JOB = ROOT / "tests" / "monitor" / "jobs" / "live.py"
PLAN = {
    "name": "llama",
    "model": "llama3.2-1b",
    "cluster": {"accelerator": "h100-sxm", "nodes": 1, "devices_per_node": 1},
    "layout": {"micro_batch_size": 1, "recompute": "full"},
    "training": {"seq_len": 2048, "global_batch_size": 1, "steps": 10_000, "precision": "bf16"},
    "site": {"zone": "FRA"},
}
POWERS_W = [300.0, 400.0]
TWO_GPUS = "gpus=2;power=300,400"
SCRAPE_S = 0.5
"""Time between two scrapes, and the longest that one may take, s."""
AGENT = "from carbon_plugin.cli.main import main; main()"
SETTINGS = """
global: {{scrape_interval: {scrape_ms}ms, scrape_timeout: {scrape_ms}ms, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: carbon-plugin-agent
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def await_it(what: Callable[[], Any], said: str) -> Any:
    """Call a function again and again, and return its result as soon as that is true. The deadline is for what never
    comes, however slow the machine is.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline_s, f"never came: {said}"
        time.sleep(0.05)
    return found


class Server:
    """A Prometheus server."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        query = f"?{urlencode(parameters)}" if parameters else ""
        with urlopen(f"{self.address}/api/v1/{path}{query}", timeout=PATIENCE_S) as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        return document["data"]

    def values(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series."""
        data = self.ask("query", query=expression)
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def samples(self, series: str) -> list[list[tuple[float, float]]]:
        """Return the unix time and the value of each sample of each series."""
        data = self.ask("query", query=f"{series}[1h]")
        return [[(at_s, float(value)) for at_s, value in found["values"]] for found in data["result"]]

    def answers(self) -> bool:
        with contextlib.suppress(URLError, ConnectionError):
            return bool(self.ask("status/runtimeinfo"))
        return False


class Site:
    """`run_dir` of the training, `port` of the agent, the unix time before it was started, and the server, None where
    Prometheus is not installed.
    """

    def __init__(self, run_dir: Path, port: int, agent_started_s: float, server: Server | None) -> None:
        self.run_dir, self.port, self.agent_started_s, self.server = run_dir, port, agent_started_s, server

    def scrape(self) -> str:
        with contextlib.suppress(URLError, ConnectionError), urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            return answer.read().decode()
        return ""


@pytest.fixture(scope="session")
def site(simulated_nvml, tmp_path_factory) -> Iterator[Site]:
    """Start a node with two GPUs, a training that goes on until the tests are done, and its monitoring."""
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed; `make test` installs it")
    folder = tmp_path_factory.mktemp("site")
    (folder / "forecast.json").write_bytes(msgspec.json.encode(make_forecast(build_run_spec(PLAN))))
    port, server_port = free_port(), free_port()
    environ = simulated_nvml(TWO_GPUS, TMPDIR=str(folder), JOB_PLAN=str(folder / "forecast.json"))
    command = [
        sys.executable,
        "-c",
        AGENT,
        "agent",
        "--run-dir",
        str(folder),
        "--port",
        str(port),
        "--interval",
        "0.25",
    ]
    agent_started_s = time.time()
    processes = [
        subprocess.Popen([sys.executable, str(JOB), "close", str(folder / "run"), "600"], env=environ),
        subprocess.Popen([*command, "--label", "cluster=a"], env=environ),
    ]
    server = None
    if shutil.which("prometheus"):
        settings = folder / "prometheus.yml"
        settings.write_text(
            SETTINGS.format(rules=DEPLOY / "prometheus" / "alerts.yml", port=port, scrape_ms=int(1000 * SCRAPE_S))
        )
        arguments = {
            "config.file": settings,
            "storage.tsdb.path": folder / "data",
            "web.listen-address": f"127.0.0.1:{server_port}",
        }
        processes.append(
            subprocess.Popen(
                ["prometheus", *(f"--{name}={value}" for name, value in arguments.items())],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=os.environ,
            )
        )
        server = Server(server_port)
    try:
        yield Site(folder / "run", port, agent_started_s, server)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
