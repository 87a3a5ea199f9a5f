"""The training thread's counter, and wall-clock time that joins windows."""

from __future__ import annotations

import pytest

from carbon_plugin.monitor.clock import TrainingClock
from carbon_plugin.monitor.wall import MAX_SLEW, WallClock


class Time:
    """Two clocks that a test moves."""

    def __init__(self) -> None:
        self.monotonic_s, self.unix_s = 100.0, 1_700_000_000.0

    def pass_(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.unix_s += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def woken() -> list[int]:
    return []


@pytest.fixture
def clock(time, woken) -> TrainingClock:
    return TrainingClock(lambda: woken.append(1), 5.0, now=lambda: time.monotonic_s)


def test_first_step_ends_the_start_up(clock, time):
    time.pass_(3)
    clock.step_end()

    (transition,) = clock.drain(1e9)

    assert (transition.phase, transition.monotonic_s, transition.mark.steps) == ("train", 103.0, 1)


def test_tokens_are_summed_or_left_to_the_monitor(clock):
    clock.step_end(500)
    clock.step_end()
    clock.step_end(700)

    assert (clock.mark.steps, clock.mark.tokens, clock.mark.uncounted) == (3, 1200, 1)


def test_phase_wakes_the_monitor_only_if_a_window_is_long_enough(clock, time, woken):
    clock.step_end()
    time.pass_(4)
    clock.enter("evaluation")
    assert woken == []

    time.pass_(2)
    clock.enter("train")
    assert woken == [1]


def test_phase_that_does_not_change_is_no_transition(clock):
    clock.enter("evaluation")
    assert clock.enter("evaluation") == "evaluation"

    assert len(clock.drain(1e9)) == 1


def test_drain_leaves_what_came_later(clock, time):
    clock.enter("evaluation")
    time.pass_(10)
    clock.enter("train")

    assert [t.phase for t in clock.drain(105.0)] == ["evaluation"]
    assert [t.phase for t in clock.drain(200.0)] == ["train"]


def test_wall_clock_follows_a_slewed_clock_and_joins_windows_over_a_step(time):
    wall = WallClock(now=lambda: time.monotonic_s, unix=lambda: time.unix_s)
    time.pass_(10)
    time.unix_s += 3600  # somebody set the clock
    before = wall.unix_s(time.monotonic_s)

    remaining = wall.adjust()

    assert wall.unix_s(time.monotonic_s) - before == pytest.approx(10 * MAX_SLEW, abs=1e-5)
    assert remaining == pytest.approx(3600 - 10 * MAX_SLEW, abs=1e-5)
