"""A pause is made only where the what-if saves after the cost of idling, and by all ranks until the same moment."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from msgspec.structs import replace

from carbon_plugin.footprint.series.trace import Trace, make_trace
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Event, Window
from carbon_plugin.monitor.acting.pausing import NO_PAUSE, PausePlan, RestOfRun, agree_on_pause, worth_pausing
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.work import MonitorWork

HOUR_S = 3600.0
REST = RestOfRun(remaining_s=2 * HOUR_S, running_w=1000.0, idle_w=100.0, pue=1.2, embodied_kg_per_s=0.0)


def grid(*g_per_kwh: float) -> Trace:
    moments = HOUR_S * np.arange(len(g_per_kwh), dtype=np.float64)
    return make_trace(moments, np.array(g_per_kwh, dtype=np.float64), source="grid")


def test_a_pause_ends_with_the_dirty_hours_and_saves_what_the_schedules_differ_by():
    plan = worth_pausing(grid(500, 500, 100, 100, 100), REST, now_unix_s=0.0, above_g_per_kwh=300, most_s=1e6)

    assert plan is not None
    assert plan.until_unix_s == 2 * HOUR_S
    assert plan.saved_kg == pytest.approx(1.2 * (2.0 * 0.5 - (2.0 * 0.1 + 0.2 * 0.5)))


@pytest.mark.parametrize(
    ("trace", "rest", "most_s"),
    [
        (grid(200, 500, 100, 100, 100), REST, 1e6),  # it is clean enough now
        (grid(500, 500, 480, 480, 480), REST, 1e6),  # it never gets clean
        (grid(500, 500, 280, 280, 280), replace(REST, idle_w=900.0), 1e6),  # idling costs more than is saved
        (grid(500, 500, 100, 100, 100), replace(REST, embodied_kg_per_s=1e-3), 1e6),  # so does the reservation
        (grid(500, 500, 100, 100, 100), REST, HOUR_S),  # the pause would be too long
        (grid(500, 500, 100), REST, 1e6),  # the forecast ends before the work
    ],
)
def test_there_is_no_pause_where_it_does_not_save(trace, rest, most_s):
    assert worth_pausing(trace, rest, now_unix_s=0.0, above_g_per_kwh=300, most_s=most_s) is None


@pytest.mark.parametrize("plan", [PausePlan(until_unix_s=1234.5, saved_kg=1.0), None])
def test_all_ranks_have_the_decision_of_rank_0_whoever_comes_first(tmp_path, plan):
    found: dict[int, float] = {}

    def rank(number: int) -> None:
        found[number] = agree_on_pause(tmp_path, 7, plan if number == 0 else None, decides=number == 0)

    others = [threading.Thread(target=rank, args=(number,)) for number in (1, 2)]
    for thread in others:
        thread.start()
    rank(0)
    for thread in others:
        thread.join()

    assert set(found.values()) == {NO_PAUSE if plan is None else 1234.5}
    assert len(found) == 3


def test_without_a_decision_nobody_pauses(tmp_path):
    assert agree_on_pause(tmp_path, 7, None, decides=False, answer_s=0.0) == NO_PAUSE


def test_the_training_waits_until_the_grid_is_clean_and_the_record_says_why(tmp_path, monkeypatch):
    rest = replace(REST, remaining_s=2.0)
    monkeypatch.setattr(MonitorWork, "rest", property(lambda work: rest))
    monitor = CarbonMonitor(run_dir=tmp_path / "run", quiet=True)
    monitor.start()
    monitor.step_end()
    first = int(time.time())
    rows = [f"{datetime.fromtimestamp(first + s, UTC).isoformat()},{500 if s < 3 else 100}" for s in range(20)]
    (tmp_path / "grid.csv").write_text("\n".join(["datetime,g_per_kwh", *rows]) + "\n")

    paused_s = monitor.pause_where_it_saves(300, forecast=tmp_path / "grid.csv")
    ended_s = time.time()
    again_s = monitor.pause_where_it_saves(300, forecast=tmp_path / "grid.csv")  # it is clean now
    monitor.step_end()
    monitor.close()

    assert 0 < paused_s <= 3
    assert ended_s >= first + 3
    assert again_s == 0.0
    (file,) = read_run(tmp_path / "run").files
    (event,) = (one for one in file.records if isinstance(one, Event) and one.kind == "paused")
    assert "above 300 g/kWh: the rest of the run emits" in event.message
    assert "idle" in {one.phase for one in file.records if isinstance(one, Window)}
