"""The training thread's counter, and wall-clock time that joins windows."""

from __future__ import annotations

import threading
import time as time_module

import pytest

from carbon_plugin.monitor.clock import MAX_SLEW, TrainingClock, WallClock


class Time:
    """Clocks that a test moves."""

    def __init__(self) -> None:
        self.monotonic_s, self.unix_s, self.boot_s = 100.0, 1_700_000_000.0, 5000.0

    def pass_(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.sleep_(seconds)

    def sleep_(self, seconds: float) -> None:
        """Let the machine sleep: its monotonic clock stands still."""
        self.unix_s += seconds
        self.boot_s += seconds


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


def test_tokens_and_steps_agree_whenever_another_thread_looks(clock, monkeypatch):
    # A busy machine may keep the training thread between the two for longer than a look is repeated.
    monkeypatch.setattr("carbon_plugin.monitor.clock._MOST_LOOKS", 10**6)
    seen: set[tuple[int, int]] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            mark = clock.mark
            seen.add((mark.steps, mark.tokens))

    monkeypatch.setattr(clock, "_now", lambda: time_module.sleep(1e-5) or 0.0)  # the other one has its turn there
    reader = threading.Thread(target=look)
    reader.start()
    try:
        while len(seen) < 100:
            clock.step_end(7)
            time_module.sleep(1e-3)  # the time of a step, in which both agree
    finally:
        done.set()
        reader.join()

    assert {tokens - 7 * steps for steps, tokens in seen} == {0}


def test_a_clock_that_was_left_counts_nothing_more(clock):
    kept = clock.step_end
    kept(5)
    clock.leave()
    kept(7)

    assert (clock.mark.steps, clock.mark.tokens) == (1, 5)


def test_a_failure_of_the_count_is_told_and_not_raised(clock):
    error, told = RuntimeError("ours"), []

    def fails() -> None:
        raise error

    clock.attended, clock.failed = fails, told.append
    clock.step_end()

    assert told == [error]
    assert clock.mark.steps == 1


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


@pytest.fixture
def wall(time) -> WallClock:
    return WallClock(now=lambda: time.monotonic_s, unix=lambda: time.unix_s, boot=lambda: time.boot_s)


def test_wall_clock_that_is_slewed_is_followed_slowly(time, wall):
    time.pass_(1000)
    time.unix_s += 0.7
    before = wall.unix_s(time.monotonic_s)

    assert wall.adjust() == 0

    assert wall.unix_s(time.monotonic_s) - before == pytest.approx(1000 * MAX_SLEW, abs=1e-5)
    assert wall.ahead_s == pytest.approx(0.7 - 1000 * MAX_SLEW, abs=1e-5)


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0, 365 * 86400.0])
def test_wall_clock_that_is_set_is_not_followed_and_what_it_is_ahead_is_known(time, wall, step_s):
    before = wall.unix_s(time.monotonic_s)
    time.unix_s += step_s
    for _ in range(100):
        time.pass_(10)
        wall.adjust()

    assert wall.unix_s(time.monotonic_s) - before == pytest.approx(1000)
    assert wall.ahead_s == pytest.approx(step_s, abs=1e-5)


def test_sleep_of_the_machine_is_a_gap_and_no_set_clock(time, wall):
    before = wall.unix_s(time.monotonic_s)
    time.sleep_(600)

    assert wall.adjust() == 600

    assert wall.unix_s(time.monotonic_s) - before == 600
    assert wall.ahead_s == 0
    assert wall.boot_s(time.monotonic_s) == time.boot_s


@pytest.mark.parametrize("stopped_at", ["the start", "an adjustment"])
def test_process_that_is_stopped_between_two_clocks_sees_no_sleep_and_no_step(time, stopped_at):
    stops = iter([6.0] if stopped_at == "the start" else [0.0, 6.0])

    def boot() -> float:
        time.pass_(next(stops, 0.0))
        return time.boot_s

    wall = WallClock(now=lambda: time.monotonic_s, unix=lambda: time.unix_s, boot=boot)
    time.pass_(10.0)

    assert wall.adjust() == 0.0
    assert wall.ahead_s == pytest.approx(0.0)
    assert wall.now_unix_s() == pytest.approx(time.unix_s)
