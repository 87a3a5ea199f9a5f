"""Reserved time of a process that trains several times: every moment is charged to one training."""

from __future__ import annotations

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.monitor import reserved
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.reserved import ReservedTime
from carbon_plugin.monitor.settings import MonitorOptions

STARTED_S = 1_000.0
ALLOCATED = {"SLURM_JOB_START_TIME": str(int(STARTED_S))}


@pytest.fixture
def clock(monkeypatch):
    """Sets the wall clock of the module."""
    now = [STARTED_S + 15]
    monkeypatch.setattr(reserved.time, "time", lambda: now[0])
    return lambda unix_s: now.__setitem__(0, unix_s)


def test_trainings_of_one_process_share_its_reservation(clock):
    process = ReservedTime()

    assert process.begin("first", ALLOCATED) == STARTED_S
    clock(1_030.0)
    process.end("first")
    clock(1_040.0)
    assert process.begin("second", ALLOCATED) == 1_030.0  # the time between two belongs to the later one


def test_training_that_begins_beside_another_is_charged_for_its_own_time(clock):
    process = ReservedTime()
    process.begin("outer", ALLOCATED)
    clock(1_030.0)

    assert process.begin("inner", ALLOCATED) == 1_030.0
    clock(1_050.0)
    process.end("inner")
    clock(1_060.0)
    assert process.begin("third", ALLOCATED) == 1_060.0  # the outer one still runs
    process.end("outer")
    process.end("third")
    clock(1_070.0)
    assert process.begin("fourth", ALLOCATED) == 1_060.0


def test_end_that_comes_twice_counts_once(clock):
    process = ReservedTime()
    process.begin("first", ALLOCATED)
    clock(1_030.0)
    process.end("first")
    clock(1_040.0)
    process.end("first")

    assert process.begin("second", ALLOCATED) == 1_030.0


def test_forked_child_begins_with_its_own_start(clock):
    process = ReservedTime()
    process.begin("the parent's", ALLOCATED)
    process.forget()

    assert process.begin("the child's", ALLOCATED) == STARTED_S


def trained(run_dir) -> None:
    monitor = CarbonMonitor(run_dir=run_dir, window_s=0.5, options=MonitorOptions(min_window_s=0.25))
    monitor.start()
    monitor.step_end(tokens=1)
    monitor.close()


@pytest.mark.parametrize("directories", [("a", "b", "c"), ("a", "a", "a")], ids=["runs", "attempts of one run"])
def test_time_before_a_training_is_charged_once(tmp_path, directories):
    charged_until_s = None
    for directory in directories:
        trained(tmp_path / directory)
        latest = read_run(tmp_path / directory).files[-1]
        if charged_until_s is not None:
            assert manifest_of(latest.records).reserved_since_unix_s == pytest.approx(charged_until_s, abs=0.5)
        charged_until_s = summarise(tmp_path / directory).period.end_unix_s
