"""A thread that takes turns pauses after a while of work, and no other thread does."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest

from carbon_plugin.threads import turns
from carbon_plugin.threads.own_thread import OwnThread

A_LOOK = 0.6
"""Every look at the clock takes this part of a turn."""


class Clocks:
    """Holds a clock that goes on at every look, and the pauses as (name of the thread, seconds).

    `share` is the part of the time that the training thread spends on a core, None after that thread has ended.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.share: float | None = None
        self.pauses: list[tuple[str, float]] = []

    def monotonic(self) -> float:
        """Return the time."""
        self.now_s += A_LOOK * turns.TURN_S
        return self.now_s

    def clock_gettime(self, number: int) -> float:
        """Return the CPU time of the training thread."""
        assert number == TRAINING
        if self.share is None:
            raise OSError
        return self.share * self.now_s

    def sleep(self, seconds: float) -> None:
        """Note a pause."""
        self.pauses.append((threading.current_thread().name, seconds))


TRAINING = -6
"""The number of the clock of the training thread."""


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Return the clocks that the turns are taken by."""
    found = Clocks()
    for name in ("monotonic", "clock_gettime", "sleep"):
        monkeypatch.setattr(turns.time, name, getattr(found, name))
    return found


def run(work: Callable[[], object]) -> None:
    """Run some work on a thread called "background"."""
    thread = threading.Thread(target=work, name="background")
    thread.start()
    thread.join()


def test_only_a_thread_that_takes_turns_pauses(clocks: Clocks) -> None:
    def background() -> None:
        turns.take_turns()
        for _ in range(5):
            turns.give_way()

    run(background)
    for _ in range(5):
        turns.give_way()

    assert clocks.pauses == [("background", turns.PAUSE_S)] * 2


def test_a_thread_that_the_training_waits_for_pauses_no_more(clocks: Clocks) -> None:
    def background() -> None:
        turns.take_turns()
        turns.stop_taking_turns()
        for _ in range(5):
            turns.give_way()

    run(background)

    assert clocks.pauses == []


def test_a_thread_that_works_for_another_goes_on_with_its_turn(clocks: Clocks) -> None:
    helper = OwnThread("helper")

    def pieces(count: int) -> None:
        for _ in range(count):
            turns.give_way()

    def background() -> None:
        turns.take_turns()
        pieces(1)  # the turn is over after the next piece, whoever does it
        helper.call(lambda: pieces(1), 60.0)

    run(background)
    helper.call(lambda: pieces(5), 60.0)  # this thread takes no turns
    helper.end()

    assert clocks.pauses == [("helper", turns.PAUSE_S)]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, None])
def test_a_turn_goes_on_while_the_training_computes_without_the_interpreter(
    share: float | None, clocks: Clocks
) -> None:
    clocks.share = share
    paused_after: list[int] = []

    def background() -> None:
        turns.take_turns(TRAINING)
        for piece in range(1, 9):
            before = len(clocks.pauses)
            turns.give_way()
            if len(clocks.pauses) > before:
                paused_after.append(piece)

    run(background)

    longest = math.ceil(turns.LONGEST_TURN_S / (A_LOOK * turns.TURN_S))
    assert paused_after == ([longest] if share == 1.0 else [2, 4, 6, 8])


def test_the_clock_of_a_thread_can_be_read_on_another_one() -> None:
    number = turns.own_clock()
    assert number is not None
    before_s = time.thread_time()
    told_s: list[float] = []

    run(lambda: told_s.append(time.clock_gettime(number)))

    assert before_s <= told_s[0] <= time.thread_time()


def test_pauses_are_no_work(clocks: Clocks) -> None:
    found: list[float] = []

    def background() -> None:
        turns.take_turns()
        begun_s = turns.worked_s()
        for _ in range(5):
            turns.give_way()
        found.append(turns.worked_s() - begun_s)

    run(background)

    looks = 5 + 1  # each pause takes one more look, which is not counted
    assert len(clocks.pauses) == 3
    assert found == [pytest.approx(looks * A_LOOK * turns.TURN_S)]
