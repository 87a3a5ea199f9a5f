"""A rank that waits to know what it meters: it may take over from a leader that is lost, or be refused a file."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.ledger.held.expected import LEFT
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Close, Window
from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.monitor import thread, work
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.node import baseline, duty, recording
from carbon_plugin.monitor.node.duty import Duty, Task
from carbon_plugin.monitor.node.recorder import NodeRecorder
from carbon_plugin.monitor.processes.leader import Election
from tests.monitor.launching import wait_until

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


def test_rank_that_can_open_no_file_when_it_is_to_meter_begins_as_soon_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    open_meters, decide, decided, run_dir = recording.open_host_meters, Duty.decide, [], tmp_path / "run"
    refusals = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def open_later(*args: Any, **kwargs: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return open_meters(*args, **kwargs)

    def looking(self: Duty, *, now: bool = False) -> list[duty.Task]:
        decided.append(decide(self, now=now))
        return decided[-1]

    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(recording, "open_host_meters", open_later)
    monkeypatch.setattr(Duty, "decide", looking)
    monkeypatch.setattr(duty, "FIRST_LEAD_S", float("inf"))
    with CarbonMonitor(run_dir=run_dir, site="FRA", quiet=True) as monitor:
        wait_until(lambda: bool(decided))  # it has begun, and waits for local rank 0, which does not come
        monkeypatch.setattr(duty, "FIRST_LEAD_S", 0.0)
        wait_until(lambda: any(run_dir.glob("*.jsonl")))
        for _ in range(STEPS):
            monitor.step_end()

    wait_until(lambda: any(isinstance(record, Close) for file in read_run(run_dir).files for record in file.records))
    (file,) = read_run(run_dir).files
    assert refusals == []
    assert decided[0] == []
    assert sum(record.steps for record in file.records if isinstance(record, Window)) == STEPS
    assert verify_run(run_dir).all_problems == []


def test_what_can_be_opened_only_when_the_training_has_ended_is_recorded_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    open_meters, refused = recording.open_host_meters, threading.Semaphore(0)
    refusals = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)) for _ in range(2)]

    def open_later(*args: Any, **kwargs: Any) -> Any:
        if refusals:
            refused.release()
            raise refusals.pop()
        return open_meters(*args, **kwargs)

    monkeypatch.setattr(recording, "open_host_meters", open_later)
    monkeypatch.setattr(thread, "_FILES_AGAIN_S", 3600.0)
    with CarbonMonitor(run_dir=tmp_path / "run", site="FRA", quiet=True) as monitor:
        refused.acquire()  # the next attempt is that of the end, which is refused too
        for _ in range(STEPS):
            monitor.step_end()

    (file,) = read_run(tmp_path / "run").files
    assert refusals == []
    assert sum(record.steps for record in file.records if isinstance(record, Window)) == STEPS
    assert [record.reason for record in file.records if isinstance(record, Close)] == ["closed"]


def test_alerts_and_budgets_begin_as_soon_as_what_they_need_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    open_acting, opened = work.ActingWork, []
    refusals = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)) for _ in range(2)]

    def open_later(*args: Any) -> Any:
        if refusals:
            raise refusals.pop()
        opened.append(open_acting(*args))
        return opened[-1]

    monkeypatch.setattr(work, "ActingWork", open_later)
    with CarbonMonitor(run_dir=tmp_path / "run", site="FRA", quiet=True) as monitor:
        wait_until(lambda: bool(opened))
        monitor.step_end()

    (file,) = read_run(tmp_path / "run").files
    assert (len(opened), refusals) == (1, [])
    assert [record.reason for record in file.records if isinstance(record, Close)] == ["closed"]


@pytest.mark.parametrize(("place", "name"), [(recording, "open_host_meters"), (NodeRecorder, "cut")])
def test_what_a_rank_metered_before_local_rank_0_is_recorded_as_soon_as_it_can_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
):
    done, run_dir, lasted_s = getattr(place, name), tmp_path / "run", []
    refusals = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)) for _ in range(2)]

    def do_later(*args: Any, **kwargs: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return done(*args, **kwargs)

    def decide(self: Duty, *, now: bool = False) -> list[Task]:
        """Decide what a rank decides that began before local rank 0, which meters everything from now on."""
        if self.decided:
            return []
        self.decided = True
        end_s = time.monotonic()
        lasted_s.append(end_s - self._start_s)
        return [Task(gpus=(), host=True, until_s=end_s)]

    for variable, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(place, name, do_later)
    monkeypatch.setattr(Duty, "decide", decide)
    with CarbonMonitor(run_dir=run_dir, site="FRA", quiet=True) as monitor:
        wait_until(lambda: any(b'"type":"close"' in path.read_bytes() for path in run_dir.glob("*.jsonl")))
        monitor.step_end()

    (file,) = read_run(run_dir).files
    assert refusals == []
    assert [record.reason for record in file.records if isinstance(record, Close)] == [LEFT]
    assert sum(record.duration_s for record in file.records if isinstance(record, Window)) == pytest.approx(lasted_s[0])
    assert verify_run(run_dir).all_problems == []


def test_steps_before_local_rank_0_are_counted_once_where_the_driver_answers_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened, stepped, ended, stepped_on = (threading.Event() for _ in range(4))
    open_drivers, run_dir = baseline._open, tmp_path / "run"

    def open_late() -> Any:
        opened.set()
        stepped.wait()  # the training has begun, and goes on, before the first reading
        return open_drivers()

    def decide(self: Duty, *, now: bool = False) -> list[Task]:
        """Decide late that local rank 0 meters everything from a moment before the last steps."""
        if self.decided:
            return []
        self.decided = True
        end_s = time.monotonic()
        ended.set()
        stepped_on.wait()
        return [Task(gpus=(), host=True, until_s=end_s)]

    for variable, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(baseline, "_open", open_late)
    monkeypatch.setattr(Duty, "decide", decide)
    with CarbonMonitor(run_dir=run_dir, site="FRA", quiet=True) as monitor:
        for wait_for, done in ((opened, stepped), (ended, stepped_on)):
            wait_for.wait()
            for _ in range(STEPS):
                monitor.step_end()
            done.set()

    (file,) = read_run(run_dir).files
    assert sum(record.steps for record in file.records if isinstance(record, Window)) == STEPS
    assert verify_run(run_dir).all_problems == []
