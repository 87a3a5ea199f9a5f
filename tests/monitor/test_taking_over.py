"""A rank that takes over from a leader which is lost while the rank still waits to know what it meters itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Window
from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.node import recording
from carbon_plugin.monitor.processes.leader import Election

STEPS = 100


def test_steps_since_the_first_reading_are_in_its_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opens, stepped, open_meters = threading.Event(), threading.Event(), recording.open_host_meters

    def open_late(*args: Any, **kwargs: Any) -> Any:
        opens.set()
        stepped.wait()
        return open_meters(*args, **kwargs)

    monkeypatch.setattr(recording, "open_host_meters", open_late)
    monkeypatch.setattr(Election, "follows", property(lambda _: True, lambda *_: None), raising=False)
    with CarbonMonitor(run_dir=tmp_path / "run", site="FRA", quiet=True) as monitor:
        opens.wait()  # the first readings have been made
        for _ in range(STEPS):
            monitor.step_end()
        stepped.set()

    (file,) = read_run(tmp_path / "run").files
    assert sum(record.steps for record in file.records if isinstance(record, Window)) == STEPS
    assert verify_run(tmp_path / "run").all_problems == []
