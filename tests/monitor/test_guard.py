"""An exception of a signal handler of the script is the script's, wherever the signal meets our code."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.monitor import CarbonMonitor


class StopNow(Exception):
    """What the script raises to end its training."""


class Handler:
    """A handler of the script in several shapes."""

    def method(self, *_: object) -> None:
        """Raise, as a method."""
        self.stop()

    def stop(self) -> None:
        """Raise."""
        raise StopNow

    __call__ = method


def function(*_: object) -> None:
    """Raise, as a function."""
    raise StopNow


HANDLERS = {"function": function, "method": Handler().method, "object": Handler(), "partial": partial(function, 1)}


@pytest.fixture(params=HANDLERS)
def signalled(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Provide a function that sends this process a signal, whose handler raises."""
    before = signal.signal(signal.SIGUSR1, HANDLERS[request.param])
    yield lambda *_: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_exception_of_a_handler_passes_a_step_and_the_training_is_measured_on(
    signalled: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with CarbonMonitor(run_dir=tmp_path / "run", quiet=True) as monitor:
        clock = monitor._counting
        assert clock is not None
        clock.attend, clock.attended = True, signalled
        with pytest.raises(StopNow):
            monitor.step_end()
        clock.attended = None
        monitor.step_end()

        assert monitor.active
        assert monitor.step == 2
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_exception_of_a_handler_passes_whatever_a_guard_runs(signalled: Callable[..., None]):
    told: list[str] = []
    guard = Guard(lambda part, sentence: told.append(sentence))

    with pytest.raises(StopNow):
        guard.run("closing", signalled, None)

    assert (guard.failures, told) == ({}, [])


def test_exception_of_our_own_code_does_not_pass_beside_a_handler(signalled: Callable[..., None]):
    guard = Guard(lambda part, sentence: None)

    assert guard.run("closing", lambda: 1 / 0, "otherwise") == "otherwise"
    assert list(guard.failures) == ["closing"]
