"""Only time in which this process runs counts as waiting, however long it stands still in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from carbon_plugin.monitor import thread as monitor_thread
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.thread import MonitorThread, Wake
from carbon_plugin.threads.own_thread import Answer
from carbon_plugin.threads.patience import MOST_S, wait_while_running


class Process:
    """A process whose waits take longer than they should, and another thread that needs some of them to its end."""

    def __init__(self, needed: float, *, late_s: float) -> None:
        self.waits = 0
        self.now_s = 0.0
        self._needed = needed
        self._late_s = late_s

    def wait(self, within_s: float) -> None:
        """Wait, and wake up late."""
        self.waits += 1
        self.now_s += within_s + self._late_s

    def happened(self) -> bool:
        """Return whether the other thread has come to its end."""
        return self.waits >= self._needed


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Process]:
    """Make a process, whose clock is the clock of the waits."""

    def make(needed: float, *, late_s: float = 60.0) -> Process:
        made = Process(needed, late_s=late_s)
        monkeypatch.setattr(time, "monotonic", lambda: made.now_s)
        return made

    return make


def test_time_for_which_the_process_stands_still_does_not_count(process: Callable[..., Process]):
    stopped = process(needed=15)

    assert wait_while_running(stopped.wait, stopped.happened, 10.0)
    assert stopped.now_s > 15 * 60


@pytest.mark.parametrize("late_s", [0.0, 0.1, 0.2])
def test_what_never_happens_is_waited_for_as_long_as_stated(late_s: float, process: Callable[..., Process]):
    busy = process(needed=float("inf"), late_s=late_s)

    assert not wait_while_running(busy.wait, busy.happened, 10.0)
    assert 10.0 <= busy.now_s <= 10.5


def test_wait_ends_where_the_process_stands_still_again_and_again(process: Callable[..., Process]):
    stopped = process(needed=float("inf"))

    assert not wait_while_running(stopped.wait, stopped.happened, 10.0)
    assert stopped.waits == 10.0 / MOST_S


@pytest.mark.parametrize("within_s", [0.0, -1.0])
def test_without_patience_nothing_is_waited_for(within_s: float, process: Callable[..., Process]):
    stopped = process(needed=1)

    assert not wait_while_running(stopped.wait, stopped.happened, within_s)
    assert stopped.waits == 0


class Idle:
    """A body with nothing to do."""

    poll_interval_s = None

    def open(self) -> None:
        """Do nothing."""

    def tick(self, *, due: bool) -> None:
        """Do nothing."""

    def close(self, reason: str) -> None:
        """Do nothing."""


def test_end_of_the_monitor_thread_is_waited_for_while_the_process_stands_still(
    process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
):
    stopped = process(needed=3)

    class Thread:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None: ...

        def join(self, within_s: float) -> None:
            stopped.wait(within_s)

        def is_alive(self) -> bool:
            return not stopped.happened()

    monkeypatch.setattr(monitor_thread.threading, "Thread", Thread)
    thread = MonitorThread(Idle(), Guard(lambda *_: None), Wake(), cadence_s=10.0, least_s=5.0)
    thread.start()

    assert thread.close("closed", 10.0)


def test_answer_is_waited_for_while_the_process_stands_still(
    process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
):
    stopped = process(needed=2)
    monkeypatch.setattr(threading.Event, "wait", lambda _, within_s: stopped.wait(within_s))
    monkeypatch.setattr(threading.Event, "is_set", lambda _: stopped.happened())

    assert Answer(lambda: None).wait(1.0)
