"""A call of a function is seen from another thread while it goes on, and a training whose call has ended was left."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from carbon_plugin.monitor.clock import TrainingClock
from carbon_plugin.monitor.running import LEFT, Presence, RunningCall
from carbon_plugin.monitor.thread import MonitorThread, Wake
from tests.monitor.test_nodes import Body, thread_of


def elsewhere(look: Callable[[], bool]) -> bool:
    with ThreadPoolExecutor(1) as other:
        return other.submit(look).result()


def train(inside: Callable[[RunningCall], None]) -> None:
    def hook() -> None:
        inside(RunningCall(__name__, "train"))

    hook()


def seen(call: RunningCall) -> bool:
    return elsewhere(lambda: call.goes_on)


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_goes_on_until_it_returns_or_an_exception_passes_through_it(fails: bool) -> None:
    calls: list[RunningCall] = []

    def inside(call: RunningCall) -> None:
        calls.append(call)
        assert seen(call)
        if fails:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(inside)

    assert not seen(calls[0])


def test_of_calls_within_each_other_the_nearest_one_is_looked_at() -> None:
    def outer(_: RunningCall) -> None:
        inner: list[RunningCall] = []
        train(inner.append)
        assert not seen(inner[0])

    train(outer)


def test_a_call_ends_with_its_thread_and_one_that_is_not_there_never_does() -> None:
    calls: list[RunningCall] = []
    thread = threading.Thread(target=train, args=(calls.append,))
    thread.start()
    thread.join()

    assert not seen(calls[0])
    assert seen(RunningCall("transformers.trainer", "train"))


def test_a_training_was_left_when_two_looks_apart_see_neither_its_call_nor_a_step() -> None:
    calls: list[RunningCall] = []
    now_s = [0.0]
    clock = TrainingClock(lambda: None, 5.0)

    def look(at_s: float) -> bool:
        now_s[0] = at_s
        return presence.left()

    def inside(call: RunningCall) -> None:
        nonlocal presence
        calls.append(call)
        presence = Presence(call, clock, 5.0, now=lambda: now_s[0])
        assert not look(10)
        assert not look(20)

    presence = Presence(None, clock, 5.0)
    train(inside)

    assert not look(30)
    assert not look(34)
    clock.step_end()  # it goes on where nobody sees it
    assert not look(40)
    assert not look(44)
    assert look(45)


def test_the_record_of_a_training_that_was_left_is_closed_by_the_thread_itself() -> None:
    body = Body()
    body.left = True
    wake = Wake()
    thread: MonitorThread = thread_of(body, wake)
    thread.start()
    wake.put()

    assert thread._thread is not None
    thread._thread.join()
    assert body.closed == [LEFT]
    assert thread.close("exit", 60)
    assert body.closed == [LEFT]
