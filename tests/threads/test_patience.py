"""Only time in which this process runs counts as waiting, however long it stands still in between."""

from __future__ import annotations

import threading

import pytest

from carbon_plugin.monitor import thread as monitor_thread
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.thread import MonitorThread, Wake
from carbon_plugin.threads.own_thread import Answer
from carbon_plugin.threads.patience import PIECE_S, wait_while_running


class StandingStill:
    """Waits of which each ends too late, as where the process was stopped in the middle, and after some of which the
    other thread has come to its end."""

    def __init__(self, needed: float) -> None:
        self.asked_s: list[float] = []
        self._needed = needed

    def wait(self, within_s: float) -> None:
        """Note a wait."""
        self.asked_s.append(within_s)

    def happened(self) -> bool:
        """Return whether the other thread had its waits."""
        return len(self.asked_s) >= self._needed


def test_wait_that_ends_too_late_counts_as_a_short_one():
    process = StandingStill(needed=5)

    assert wait_while_running(process.wait, process.happened, 1.0)
    assert process.asked_s == [PIECE_S] * 5


def test_what_never_happens_is_waited_for_as_long_as_stated():
    process = StandingStill(needed=float("inf"))

    assert not wait_while_running(process.wait, process.happened, 10.05)
    assert sum(process.asked_s) == pytest.approx(10.05)


@pytest.mark.parametrize("within_s", [0.0, -1.0])
def test_without_patience_nothing_is_waited_for(within_s: float):
    process = StandingStill(needed=1)

    assert not wait_while_running(process.wait, process.happened, within_s)
    assert process.asked_s == []


class Idle:
    """A body with nothing to do."""

    poll_interval_s = None

    def open(self) -> None:
        """Do nothing."""

    def tick(self, *, due: bool) -> None:
        """Do nothing."""

    def close(self, reason: str) -> None:
        """Do nothing."""


def test_end_of_the_monitor_thread_is_waited_for_while_the_process_stands_still(monkeypatch: pytest.MonkeyPatch):
    process = StandingStill(needed=3)

    class Thread:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None: ...

        def join(self, within_s: float) -> None:
            process.wait(within_s)

        def is_alive(self) -> bool:
            return not process.happened()

    monkeypatch.setattr(monitor_thread.threading, "Thread", Thread)
    thread = MonitorThread(Idle(), Guard(lambda *_: None), Wake(), cadence_s=10.0, least_s=5.0)
    thread.start()

    assert thread.close("closed", 10.0)


def test_answer_is_waited_for_while_the_process_stands_still(monkeypatch: pytest.MonkeyPatch):
    process = StandingStill(needed=3)
    monkeypatch.setattr(threading.Event, "wait", lambda _, within_s: process.wait(within_s))
    monkeypatch.setattr(threading.Event, "is_set", lambda _: process.happened())

    assert Answer(lambda: None).wait(1.0)
