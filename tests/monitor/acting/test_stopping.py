"""Ranks agree on a step to stop at, through files or a store, and none is left alone, whoever is late."""

from __future__ import annotations

import threading
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.monitor.acting import noticeboards
from carbon_plugin.monitor.acting.noticeboards import FolderBoard, Noticeboard, StoreBoard
from carbon_plugin.monitor.acting.stop_agreement import NEVER, StopAgreement
from carbon_plugin.monitor.acting.stopping import FEWEST_AHEAD, Stopper, StopRequest, steps_ahead
from carbon_plugin.monitor.clock import TrainingClock


class Rank:
    """One rank with its clock: `train` does steps, as its training thread, and says at which one it stopped."""

    def __init__(self, place: Path | Any, rank: int, of: int, base: int = 0) -> None:
        self.now_s = 0.0
        self.clock = TrainingClock(lambda: None, 5.0, now=lambda: self.now_s)
        self.clock.base_step = base
        self.agreement = StopAgreement(boards_of(place), self.clock, rank=rank, world_size=of)

    def train(self, steps: int) -> int | None:
        for _ in range(steps):
            self.now_s += 0.1
            self.clock.step_end()
            if self.agreement.reached(self.agreement.step):
                return self.agreement.step
        return None


def boards_of(place: Path | Any) -> list[Noticeboard]:
    return [FolderBoard(place / "stop")] if isinstance(place, Path) else [StoreBoard(lambda: place, "training/0")]


def ranks_of(place: Path | Any, count: int, **kwargs: int) -> list[Rank]:
    return [Rank(place, number, count, **kwargs) for number in range(count)]


@pytest.fixture(params=["folder", "store"])
def place(request, tmp_path) -> Path | Any:
    """Return the place where the ranks agree: a run directory, or a real store of torch."""
    if request.param == "folder":
        return tmp_path
    return pytest.importorskip("torch.distributed").HashStore()


def test_all_ranks_stop_after_the_same_step_ahead(place):
    ranks = ranks_of(place, 3, base=100)
    assert [rank.train(4) for rank in ranks] == [None] * 3

    ranks[0].agreement.propose("too much", 6)
    for rank in ranks[1:]:
        rank.agreement.look()
    ranks[0].agreement.gather()
    for rank in ranks[1:]:
        rank.agreement.look()

    assert [rank.train(50) for rank in ranks] == [110] * 3
    assert ranks[1].agreement.decided.reason == "too much"
    assert [rank.train(1) for rank in ranks] == [111] * 3  # and whoever asks later is told again


def test_a_rank_that_cannot_end_its_training_refuses_and_says_why(place):
    ranks = ranks_of(place, 3)
    ranks[2].agreement.hindrance = lambda: "has no handler of SIGTERM"

    ranks[0].agreement.propose("too much", 6)
    for rank in ranks[1:]:
        rank.agreement.look()
    ranks[0].agreement.gather()
    for rank in ranks:
        rank.agreement.look()

    assert ranks[0].agreement.refusal == "rank 2 has no handler of SIGTERM"
    assert [rank.train(50) for rank in ranks] == [None] * 3


def test_rank_0_says_once_that_it_cannot_end_its_training_and_proposes_nothing(place):
    (rank,) = ranks_of(place, 1)
    said: list[StopRequest] = []
    stopper = Stopper(rank.agreement, 1.0, said.append, rank.clock)
    rank.agreement.hindrance = lambda: "has no handler of SIGTERM"
    stopper.ask("the budget is exceeded")
    for _ in range(3):
        rank.train(2)
        stopper.tick()

    assert [request.kind for request in said] == ["budget_stop_failed"]
    assert said[0].message == "training goes on, because rank 0 has no handler of SIGTERM"
    assert not rank.agreement.is_open

    rank.agreement.hindrance = lambda: None  # the script has installed one since
    rank.train(2)
    stopper.tick()

    assert rank.agreement.is_open


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_rank_that_never_looked_keeps_all_others_going(place, order):
    ranks = ranks_of(place, 3)
    ranks[0].agreement.propose("too much", 5)
    ranks[1].agreement.look()  # and rank 2 does not
    ranks[0].agreement.gather()

    assert ranks[0].agreement.missing == (2,)
    assert [ranks[number].train(20) for number in order] == [None] * 3
    assert all(rank.agreement.at_step == NEVER for rank in ranks)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_decision_that_a_rank_has_not_seen_yet_binds_it_at_that_step(place, order):
    ranks = ranks_of(place, 3)
    ranks[0].agreement.propose("too much", 5)
    for rank in ranks[1:]:
        rank.agreement.look()
    ranks[0].agreement.gather()  # nobody looks after this

    assert [ranks[number].train(20) for number in order] == [5, 5, 5]


def test_whoever_comes_first_decides_for_all_when_rank_0_is_late(place):
    ranks = ranks_of(place, 2)
    ranks[0].agreement.propose("too much", 5)
    ranks[1].agreement.look()

    assert ranks[1].train(5) is None  # it is at the step and knows of no decision
    ranks[0].agreement.gather()  # and only now rank 0 sees the acknowledgements

    assert ranks[0].train(20) is None
    assert ranks[0].agreement.tries == 1


def test_a_rank_that_is_past_the_step_refuses_it(place):
    ranks = ranks_of(place, 2)
    ranks[1].train(9)
    ranks[0].agreement.propose("too much", 5)
    ranks[1].agreement.look()
    ranks[0].agreement.look()

    assert [rank.train(20) for rank in ranks] == [None, None]


def test_ranks_that_count_other_steps_never_stop(place):
    ranks = [Rank(place, 0, 2, base=0), Rank(place, 1, 2, base=3)]
    ranks[0].agreement.propose("too much", 9)
    ranks[1].agreement.look()
    ranks[0].agreement.gather()

    assert [rank.train(20) for rank in ranks] == [None, None]
    assert ranks[0].agreement.refusal == "rank 1 began to count at step 3, and rank 0 at step 0"


def test_what_an_earlier_attempt_agreed_on_counts_for_nothing(tmp_path):
    before = ranks_of(tmp_path, 1)[0]
    before.agreement.propose("too much", 5)
    before.agreement.gather()
    assert before.train(20) == 5

    after = Rank(tmp_path, 0, 1, base=5)
    after.agreement.look()
    assert after.train(20) is None

    proposal = after.agreement.propose("again", 4)
    after.agreement.gather()
    assert (proposal.at_step, after.train(20)) == (29, 29)


def test_a_folder_that_is_gone_stops_a_rank_that_has_agreed(tmp_path):
    ranks = ranks_of(tmp_path, 1)
    ranks[0].agreement.propose("too much", 5)
    (tmp_path / "stop").rename(tmp_path / "elsewhere")

    assert ranks[0].train(20) == 5


def test_ranks_that_see_no_common_folder_agree_in_the_store_at_the_next_try(tmp_path):
    store = pytest.importorskip("torch.distributed").HashStore()
    ranks = ranks_of(tmp_path / "0", 2)
    for number, rank in enumerate(ranks):
        both = [FolderBoard(tmp_path / str(number) / "stop"), StoreBoard(lambda: store, "training/0")]
        rank.agreement = StopAgreement(both, rank.clock, rank=number, world_size=2)

    ranks[0].agreement.propose("too much", 5)
    ranks[1].agreement.look()
    ranks[0].agreement.gather()
    assert [rank.train(5) for rank in ranks] == [None, None]

    ranks[0].agreement.propose("too much", 5)
    ranks[1].agreement.look()
    ranks[0].agreement.gather()
    assert [rank.train(20) for rank in ranks] == [10, 10]


def test_a_loop_that_never_asks_is_said_to_go_on_and_not_to_have_stopped(tmp_path):
    (rank,) = ranks_of(tmp_path, 1)
    said: list[StopRequest] = []
    stopper = Stopper(rank.agreement, 1.0, said.append, rank.clock)
    for _ in range(200):  # steps of a script that does not ask
        rank.now_s += 0.1
        rank.clock.step_end()
        stopper.ask("too much")
        stopper.tick()

    assert [request.kind for request in said] == ["budget_stop", "budget_stop_ignored"]
    assert "must ask for should_stop after each step" in said[1].message
    assert not rank.agreement.obeyed


def test_a_loop_that_asks_every_few_steps_has_obeyed(tmp_path):
    (rank,) = ranks_of(tmp_path, 1)
    rank.agreement.propose("too much", 5)
    rank.agreement.gather()
    for _ in range(8):
        rank.clock.step_end()

    assert rank.agreement.reached(rank.agreement.step)
    assert rank.agreement.obeyed


class Hanging:
    """A store whose server does not answer until it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def check(self, keys: list[str]) -> bool:
        self.answers.wait(60)
        return False


def test_nobody_waits_for_a_store_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(noticeboards, "ANSWER_S", 0.05)
    store = Hanging()
    rank = Rank(store, 1, 2)

    with pytest.raises(TimeoutError):
        rank.agreement.look()
    assert rank.train(20) is None
    with pytest.raises(TimeoutError):  # the first question still hangs
        rank.agreement.look()
    store.answers.set()
    rank.agreement.close()


def test_a_store_that_fails_is_not_asked_again():
    asked = []

    class Failing:
        def check(self, keys: list[str]) -> bool:
            asked.append(keys)
            raise RuntimeError("connection reset")

    rank = Rank(Failing(), 1, 2)
    with pytest.raises(OSError, match="the store of the job failed: connection reset"):
        rank.agreement.look()
    rank.agreement.look()

    assert len(asked) == 1
    assert rank.train(20) is None


def test_ranks_that_are_missing_are_found_among_many():
    store = pytest.importorskip("torch.distributed").HashStore()
    board = StoreBoard(lambda: store, "training/0")
    for rank in set(range(1000)) - {7, 512, 999}:
        board.acknowledge(3, rank)

    assert board.missing(3, range(1000)) == (7, 512, 999)
    for rank in (7, 512, 999):
        board.acknowledge(3, rank)
    assert board.missing(3, range(1000)) == ()


def test_rank_0_proposes_again_further_ahead_and_says_why(tmp_path):
    ranks = ranks_of(tmp_path, 2)
    said: list[StopRequest] = []
    stopper = Stopper(ranks[0].agreement, 1.0, said.append, ranks[0].clock)
    ranks[0].train(1)
    stopper.tick()
    stopper.ask("too much")
    steps = []
    for _ in range(12):
        stopper.tick()
        if ranks[0].agreement.is_open:
            steps.append(ranks[0].agreement.at_step - ranks[0].agreement.step)
            ranks[0].train(steps[-1])  # rank 1 is dead or has no monitor

    assert len(steps) == Stopper.MOST_TRIES
    assert steps == [int(4.0 * 2**tries / 0.1) + 1 for tries in range(Stopper.MOST_TRIES)]
    assert {request.kind for request in said} == {"budget_stop_failed"}
    assert "rank 1 had not answered" in said[0].message
    assert "no further step is proposed" in said[-1].message


@pytest.mark.parametrize(("step_time_s", "ahead"), [(0.01, 2201), (1.0, 23), (60.0, FEWEST_AHEAD)])
def test_a_step_is_so_far_ahead_that_each_rank_has_looked_twice(step_time_s, ahead):
    assert steps_ahead(step_time_s, 10.0, 0) == ahead
    assert steps_ahead(step_time_s, 10.0, 2) >= ahead


def test_a_rank_whose_folder_cannot_be_listed_says_so_once_and_agrees_on_what_comes_after(tmp_path, caplog):
    folder = tmp_path / "stop"
    folder.symlink_to(folder)  # a loop, which root cannot list either
    board = FolderBoard(folder)
    for _ in range(3):
        with pytest.raises(OSError, match="symbolic links"):
            board.newest()
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]

    folder.unlink()
    other = FolderBoard(folder)
    other.publish(b"missed")  # it cannot be told from one of an earlier attempt
    assert board.newest() is None
    number = other.publish(b"seen")

    assert str(folder) in warning.getMessage()
    assert board.newest() == (number, b"seen")
    assert [record for record in caplog.records if record.levelname == "WARNING"] == [warning]
