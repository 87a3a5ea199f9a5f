"""An exception of a signal handler of the script is the script's, wherever the signal meets our code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from carbon_plugin.errors import SpecError
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


class Reported:
    """Whatever a guard has reported for the ledger."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.guard = Guard(lambda _, sentence: self.sentences.append(sentence))


def unreadable(code: int) -> str:
    """Fail as reading a profile does where the system refuses to open its file."""
    try:
        raise OSError(code, os.strerror(code), "h100.yaml")
    except OSError as error:
        raise SpecError(f"h100.yaml: cannot be read: {error.strerror}") from error


def test_part_that_could_open_no_file_is_run_again_and_says_so_once(caplog: pytest.LogCaptureFixture):
    reported = Reported()

    answers = [reported.guard.run("part", partial(unreadable, errno.EMFILE), "missed") for _ in range(2)]
    reported.guard.run("another part", partial(unreadable, errno.ENFILE), None)

    assert answers == ["missed", "missed"]
    assert reported.guard.run("part", lambda: "done", "missed") == "done"
    assert reported.guard.failures == {}
    assert [sentence.partition(":")[0] for sentence in reported.sentences] == ["part", "another part"]
    assert caplog.text.count("training goes on") == 1


def test_part_that_fails_for_another_reason_or_runs_once_is_off():
    reported = Reported()

    reported.guard.run("missing", partial(unreadable, errno.ENOENT), None)
    reported.guard.run("once", partial(unreadable, errno.EMFILE), None, once=True)

    assert reported.guard.failures.keys() == {"missing", "once"}
    assert reported.guard.run("once", lambda: "done", "off") == "off"


WAITING = """
import resource, threading, time
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.thread import MonitorThread, Wake

class Body:
    poll_interval_s, left = 0.01, False
    opened, failed, ticked, closed = (threading.Event() for _ in range(4))
    def open(self):
        self.opened.set()
    def tick(self, *, due):
        if not self.failed.is_set():
            self.failed.set()
            open("/dev/null")
        self.ticked.set()
    def close(self, reason):
        self.closed.set()

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
guard, body = Guard(lambda *_: None), Body()
thread = MonitorThread(body, guard, Wake(), cadence_s=60, least_s=60)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
thread.start()
early = body.opened.wait(0.5)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
body.opened.wait()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
body.failed.wait()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
body.ticked.wait()
thread.close("closed", 60)
print(early, guard.failures, body.closed.is_set())
"""


def test_monitor_waits_until_the_process_can_open_files_and_goes_on_where_it_cannot_for_a_while():
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, check=True, timeout=240)

    assert done.stdout == "False {} True\n"
