"""A training whose record does not come to its end in time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.monitor import measurement
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.node.recorder import NodeRecorder


def test_end_that_is_not_waited_for_is_told_and_comes_later_if_the_program_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    asked, answers, close = threading.Event(), threading.Event(), NodeRecorder.close

    def hang(recorder: NodeRecorder, reason: str) -> None:
        asked.set()
        answers.wait()
        close(recorder, reason)

    monkeypatch.setattr(NodeRecorder, "close", hang)
    monkeypatch.setattr(measurement, "CLOSE_TIMEOUT_S", 0.2)
    monitor = CarbonMonitor(run_dir=tmp_path / "run", site="FRA", quiet=True)
    monitor.start()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "carbon-plugin"]
    monitor.close()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    asked.wait()
    before = verify_run(tmp_path / "run")
    answers.set()
    thread.join()

    assert ["its closing record" in line and str(tmp_path / "run") in line for line in told] == [True]
    assert (before.state, verify_run(tmp_path / "run").state) == ("incomplete", "unsealed")
