"""Reserved time of a process that trains several times: every moment is charged to one training."""

from __future__ import annotations

import time

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.processes import reserved
from carbon_plugin.monitor.processes.reserved import ReservedTime
from carbon_plugin.monitor.settings.options import MonitorOptions

UPTIME_S = 100_000.0
STARTED_UNIX_S = 1_700_000_000
ALLOCATED = {"SLURM_JOB_START_TIME": str(STARTED_UNIX_S)}


class Clocks:
    """The clocks of the module: `at` seconds after the job was allocated; the wall clock is ahead by `ahead_s`."""

    def __init__(self) -> None:
        self.at_s, self.ahead_s = 15.0, 0.0


@pytest.fixture
def clocks(monkeypatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(reserved.time, "time", lambda: STARTED_UNIX_S + clocks.at_s + clocks.ahead_s)
    monkeypatch.setattr(reserved, "boot_clock_s", lambda: UPTIME_S + clocks.at_s)
    return clocks


@pytest.mark.parametrize("ahead_s", [0.0, -3600.0, 3600.0])
def test_trainings_of_one_process_share_its_reservation(clocks, ahead_s):
    process = ReservedTime()

    assert process.begin("first", ALLOCATED).before_s == 15
    clocks.at_s, clocks.ahead_s = 30.0, ahead_s
    process.end("first")
    clocks.at_s, clocks.ahead_s = 40.0, 0.0
    assert process.begin("second", ALLOCATED).before_s == 10  # the time between two belongs to the later one


def test_training_that_begins_beside_another_is_charged_for_its_own_time(clocks):
    process = ReservedTime()
    process.begin("outer", ALLOCATED)
    clocks.at_s = 30.0

    assert process.begin("inner", ALLOCATED).before_s == 0
    clocks.at_s = 50.0
    process.end("inner")
    clocks.at_s = 60.0
    assert process.begin("third", ALLOCATED).before_s == 0  # the outer one still runs
    process.end("outer")
    process.end("third")
    clocks.at_s = 70.0
    assert process.begin("fourth", ALLOCATED).before_s == 10


def test_end_that_comes_twice_counts_once(clocks):
    process = ReservedTime()
    process.begin("first", ALLOCATED)
    clocks.at_s = 30.0
    process.end("first")
    clocks.at_s = 40.0
    process.end("first")

    assert process.begin("second", ALLOCATED).before_s == 10


def test_forked_child_begins_with_its_own_start(clocks):
    process = ReservedTime()
    process.begin("the parent's", ALLOCATED)
    process.forget()

    assert process.begin("the child's", ALLOCATED).before_s == 15


@pytest.mark.parametrize(("ahead_s", "where"), [(365 * 86400.0, "before this host was started"), (-7200, "future")])
def test_allocation_that_the_clock_makes_impossible_is_not_charged(clocks, monkeypatch, ahead_s, where):
    monkeypatch.setattr(reserved, "_age_s", lambda pid: 12.0)
    clocks.ahead_s = ahead_s

    charged = ReservedTime().begin("training", ALLOCATED)

    assert charged.before_s == 12
    assert where in charged.note


def trained(run_dir) -> float:
    """Train, and return the unix time after the end."""
    monitor = CarbonMonitor(run_dir=run_dir, window_s=0.5, options=MonitorOptions(min_window_s=0.25))
    monitor.start()
    monitor.step_end(tokens=1)
    monitor.close()
    return time.time()


@pytest.mark.parametrize("directories", [("a", "b", "c"), ("a", "a", "a")], ids=["runs", "attempts of one run"])
def test_time_before_a_training_is_charged_once(tmp_path, directories):
    rounding_s = 0.1  # two clocks, one of which may count in hundredths
    last = None
    for directory in directories:
        ended_s = trained(tmp_path / directory)
        latest = read_run(tmp_path / directory).files[-1]
        if last is not None:  # what closing the last one took after its record belongs to nobody
            since_s = manifest_of(latest.records).reserved_since_unix_s
            assert last[0] - rounding_s <= since_s <= last[1] + rounding_s
        last = summarise(tmp_path / directory).period.end_unix_s, ended_s
