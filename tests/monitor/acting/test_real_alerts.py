"""Two real ranks in step, under a simulated driver, are slowed in five ways, and each time the cause is named."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.ledger.reader import LedgerFile, read_run
from carbon_plugin.ledger.records import Event, Span, Window
from tests.monitor.conftest import started

SCENARIOS = ("gpu", "host", "network", "data", "evaluation")
SECRET = "a secret of the tests"


class Receiver:
    """A real HTTP server that refuses the first message and takes all later ones."""

    def __init__(self) -> None:
        self.messages: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name that http.server calls
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.messages.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(503 if len(receiver.messages) == 1 else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Slowed:
    """A job of two ranks in a scenario."""

    def __init__(self, start: Any, folder: Path, scenario: str, webhook: str) -> None:
        self.folder, self.scenario, self.run_dir = folder / scenario, scenario, folder / scenario / "run"
        self.folder.mkdir()
        faults = f"fault=1:throttle@0=64;armed={self.folder / 'inject'}" if scenario == "gpu" else ""
        common = {
            "spec": f"gpus=2;power=600;{faults}", "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "TMPDIR": self.folder,
            "CARBON_PLUGIN_WEBHOOK_SECRET": SECRET, **({"JOB_WEBHOOK": webhook} if scenario == "gpu" else {}),
        }  # fmt: skip
        for rank in range(2):
            start("alerts.py", scenario, self.run_dir, self.folder, **common, RANK=rank, LOCAL_RANK=rank)

    def files(self) -> list[LedgerFile]:
        return read_run(self.run_dir).files if any(self.run_dir.glob("node-*.jsonl")) else []

    def records(self, kind: type) -> list[Any]:
        return [record for file in self.files() for record in file.records if isinstance(record, kind)]

    def alerts(self) -> list[Event]:
        return [event for event in self.records(Event) if event.kind == "alert"]

    @property
    def is_ordinary(self) -> bool:
        """Return whether the baseline is on record: eight spans of one ledger, or eight evaluations. Those of the GPUs'
        clocks come after it.
        """
        if self.scenario == "evaluation":
            phases = [window.phase for window in self.records(Window)]
            return sum(phase == "evaluation" for phase in phases) >= 8
        # A rank that began before local rank 0 has a ledger of its own until then.
        spans = ([r for r in file.records if isinstance(r, Span)] for file in self.files())
        return max(map(len, spans), default=0) >= 8 and (self.folder / "seen").exists()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def jobs(simulated_nvml, monitor_launcher, tmp_path_factory, receiver) -> Iterator[dict[str, Slowed]]:
    folder = tmp_path_factory.mktemp("slowed")
    with started(simulated_nvml, monitor_launcher, folder) as start:
        found = {scenario: Slowed(start, folder, scenario, receiver.address) for scenario in SCENARIOS}
        waiting, end_s = set(found), time.monotonic() + 240
        while waiting and time.monotonic() < end_s:
            time.sleep(0.3)  # reading costs the ranks their CPU
            for scenario in sorted(waiting):
                job = found[scenario]
                if not (job.folder / "inject").exists():
                    if job.is_ordinary:
                        (job.folder / "before").write_text(str(len(job.alerts())))
                        (job.folder / "inject").touch()
                elif job.alerts():
                    (job.folder / "stop").touch()  # before anything else can happen to it
                    waiting.discard(scenario)
        for job in found.values():
            (job.folder / "stop").touch()
        yield found


def the_alert(job: Slowed) -> Event:
    """Return the first alert. Another one may follow where this test is held up before it ends the job."""
    return job.alerts()[0]


def test_nothing_is_said_before_anything_happens(jobs):
    assert {scenario: (job.folder / "before").read_text() for scenario, job in jobs.items()} == dict.fromkeys(
        SCENARIOS, "0"
    )


def test_a_throttled_gpu_is_named_with_its_clock_its_reason_and_its_temperature(jobs):
    alert = the_alert(jobs["gpu"])

    suspect = alert.data["suspect"]
    assert (alert.data["quantity"], alert.data["term"]) == ("step_time", "compute")
    assert alert.data["ratio"] > 4
    assert suspect["gpu"].endswith("0001")
    assert (suspect["rank"], suspect["held_back_by"]) == (1, ["temperature (hardware)"])
    assert (suspect["sm_clock_mhz"], suspect["peers_sm_clock_mhz"], suspect["temperature_c"]) == (1200, 1755, 87)
    # 600 W, and not milliwatts. On a busy machine a reading of the meter comes later than a window is long.
    assert 6 < suspect["power_w"] < 60_000
    assert "is held back by temperature (hardware): SM clock 1,200 MHz (the others 1,755 MHz)" in alert.message


def test_a_slow_host_is_named_by_the_rank_that_the_others_wait_for(jobs):
    alert = the_alert(jobs["host"])

    assert alert.data["term"] == "host"
    assert (alert.data["suspect"]["rank"], alert.data["suspect"]["gpu"]) == (1, None)
    assert "rank 1 of node 0" in alert.message


def test_a_slow_network_is_what_remains_when_all_ranks_wait(jobs):
    alert = the_alert(jobs["network"])

    assert alert.data["term"] == "communication"
    assert "suspect" not in alert.data


def test_data_starvation_is_named_with_its_rank(jobs):
    alert = the_alert(jobs["data"])

    assert alert.data["term"] == "data"
    assert alert.data["suspect"]["rank"] == 1


def test_evaluation_that_grows_is_named(jobs):
    alert = the_alert(jobs["evaluation"])

    assert (alert.data["quantity"], alert.data["term"]) == ("evaluation_share", "evaluation")
    assert alert.data["ratio"] > 1.5


def test_the_webhook_gets_the_alert_signed_and_again_after_a_refusal(jobs, receiver):
    alert = the_alert(jobs["gpu"])
    end_s = time.monotonic() + 240
    while len(receiver.messages) < 2 and time.monotonic() < end_s:
        time.sleep(0.05)

    (first, body), (headers, again), *_ = receiver.messages
    signed = hmac.new(SECRET.encode(), headers["x-carbon-plugin-timestamp"].encode() + b"." + again, hashlib.sha256)
    assert headers["x-carbon-plugin-signature"] == f"sha256={signed.hexdigest()}"
    assert first["x-carbon-plugin-delivery"] == headers["x-carbon-plugin-delivery"]
    assert body == again
    document = json.loads(again)
    assert (document["text"], document["kind"], document["data"]) == (alert.message, "alert", alert.data)
    assert document["run"]["run_id"]
