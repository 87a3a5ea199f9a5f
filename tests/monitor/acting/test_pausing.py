"""A pause is made only where the what-if saves after the cost of idling, and by all ranks until the same moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest
from msgspec.structs import replace

from carbon_plugin.footprint.series.trace import Trace, make_trace
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Event, Window
from carbon_plugin.monitor.acting.noticeboards import FolderBoard, Noticeboard, StoreBoard
from carbon_plugin.monitor.acting.pausing import (
    NO_PAUSE,
    PauseAgreement,
    PausePlan,
    RestOfRun,
    failure_of,
    worth_pausing,
)
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


@pytest.fixture(params=["folder", "store"])
def agreements(request, tmp_path) -> Callable[[int], list[PauseAgreement]]:
    """Return a function that makes the agreements of so many ranks. They meet in one folder, or in a real store of
    torch where they see no common folder.
    """
    store = pytest.importorskip("torch.distributed").HashStore() if request.param == "store" else None

    def boards(rank: int) -> list[Noticeboard]:
        if store is None:
            return [FolderBoard(tmp_path / "pause")]
        return [FolderBoard(tmp_path / str(rank) / "pause"), StoreBoard(lambda: store, "pause/0")]

    def made(count: int) -> list[PauseAgreement]:
        return [PauseAgreement(boards(rank), rank=rank, world_size=count) for rank in range(count)]

    return made


def agreed(
    ranks: Sequence[PauseAgreement], plan: PausePlan | None, step: int = 7, answer_s: float = 60.0
) -> list[float]:
    """Return what each of these ranks finds. The first one decides, and comes last."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        others = [pool.submit(rank.agree, step, None, answer_s=answer_s) for rank in ranks[1:]]
        first = ranks[0].agree(step, plan, answer_s=answer_s)
        return [first, *(other.result() for other in others)]


def test_all_ranks_have_the_decision_of_rank_0_at_each_checkpoint(agreements):
    ranks = agreements(3)

    assert agreed(ranks, None, step=7) == [NO_PAUSE] * 3
    assert agreed(ranks, PausePlan(until_unix_s=1234.5, saved_kg=1.0), step=14) == [1234.5] * 3
    assert agreed(ranks, PausePlan(until_unix_s=5678.5, saved_kg=1.0), step=21) == [5678.5] * 3
    assert agreed(ranks, None, step=28) == [NO_PAUSE] * 3


def test_nobody_pauses_where_a_rank_does_not_answer(agreements):
    ranks = agreements(3)

    assert agreed(ranks[:2], PausePlan(until_unix_s=1234.5, saved_kg=1.0), answer_s=0.5) == [NO_PAUSE] * 2
    assert 2 in ranks[0].missing  # and rank 1, where the machine holds it up for so long
    assert "because rank 2 had not answered" in failure_of((2,))


def test_a_rank_that_answers_too_late_does_not_pause_alone(agreements):
    ranks = agreements(2)

    assert ranks[0].agree(7, PausePlan(until_unix_s=1234.5, saved_kg=1.0), answer_s=0.0) == NO_PAUSE
    assert ranks[1].agree(7, None) == NO_PAUSE


def test_what_an_earlier_attempt_agreed_on_is_no_pause(tmp_path):
    def launch() -> list[PauseAgreement]:
        return [PauseAgreement([FolderBoard(tmp_path / "pause")], rank=rank, world_size=2) for rank in range(2)]

    assert agreed(launch(), PausePlan(until_unix_s=1234.5, saved_kg=1.0)) == [1234.5] * 2
    assert agreed(launch(), None) == [NO_PAUSE] * 2
    assert agreed(launch()[1:], None, answer_s=0.0) == [NO_PAUSE]


def test_the_training_waits_until_the_grid_is_clean_and_the_record_says_why(tmp_path, monkeypatch):
    rest = replace(REST, remaining_s=2.0)
    monkeypatch.setattr(MonitorWork, "rest", property(lambda work: rest))
    monitor = CarbonMonitor(run_dir=tmp_path / "run", quiet=True)
    monitor.start()
    monitor.step_end()
    while monitor._measurement is None or monitor._measurement.work.pause is None:  # its thread has begun
        time.sleep(0.01)
    for _ in range(20):  # a busy machine may let the dirty seconds go by before it looks
        first = int(time.time())
        rows = [f"{datetime.fromtimestamp(first + s, UTC).isoformat()},{500 if s < 3 else 100}" for s in range(20)]
        (tmp_path / "grid.csv").write_text("\n".join(["datetime,g_per_kwh", *rows]) + "\n")
        paused_s = monitor.pause_where_it_saves(300, forecast=tmp_path / "grid.csv")
        if paused_s:
            break
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


def test_a_pause_that_nobody_can_plan_is_told_once_with_what_is_not_known(tmp_path, caplog):
    monitor = CarbonMonitor(run_dir=tmp_path / "run", quiet=True)  # no site, no length
    monitor.start()
    monitor.step_end()
    while monitor._measurement is None or monitor._measurement.work.pause is None:  # its thread has begun
        time.sleep(0.01)

    paused_s = [monitor.pause_where_it_saves(300, forecast=tmp_path / "grid.csv") for _ in range(2)]
    monitor.close()

    assert paused_s == [0.0, 0.0]
    (said,) = (message for message in caplog.messages if "no pause" in message)
    assert "its length (total_steps=), its carbon (site=)" in said
    (file,) = read_run(tmp_path / "run").files
    assert sum(isinstance(one, Event) and one.kind == "pause_failed" for one in file.records) == 1
