"""Calls into a GPU driver, one after the other on a thread of their own, because any of them may hang.

Whoever asks waits for a stated time and no longer. What is asked while a call hangs waits behind it, and is told at
once that the driver is busy if the hang is already longer than the time that it would wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from carbon_plugin.errors import MeterError

T = TypeVar("T")


class DriverBusyError(MeterError):
    """The driver has not answered in time."""


class Answer(Generic[T]):
    """What a piece of work will give."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether the work has ended."""
        return self._done.is_set()

    def wait(self, within_s: float) -> bool:
        """Wait for the end of the work, at most so long; whether it came."""
        return self._done.wait(within_s)

    def result(self) -> T:
        """What the work gave, or the exception that it raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def run(self) -> None:
        """Do the work; for the driver's thread."""
        try:
            self._value = self._work()
        except BaseException as error:  # raised again where the result is asked for
            self._error = error
        self._done.set()


class DriverThread:
    """The thread that calls one opened driver. It is a daemon, and ends when it is told to."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Answer[object] | None] = SimpleQueue()
        self._busy_since_s: float | None = None
        threading.Thread(target=self._run, name="carbon-plugin-driver", daemon=True).start()

    @property
    def busy_s(self) -> float:
        """For how long the present call has been running."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def submit(self, work: Callable[[], T]) -> Answer[T]:
        """Queue a piece of work."""
        answer = Answer(work)
        self._queue.put(answer)  # type: ignore[arg-type]
        return answer

    def call(self, work: Callable[[], T], within_s: float) -> T:
        """The result of a piece of work. Raises `DriverBusyError` where it does not come in time."""
        if self.busy_s > within_s:
            raise self.busy()
        answer = self.submit(work)
        if not answer.wait(within_s):
            raise self.busy(within_s)
        return answer.result()

    def busy(self, waited_s: float = 0.0) -> DriverBusyError:
        """What to say of a driver that does not answer, after a wait."""
        return DriverBusyError(f"the driver has not answered for {max(self.busy_s, waited_s):.0f} s")

    def end(self) -> None:
        """No more work will come: the thread ends after what it has."""
        self._queue.put(None)

    def _run(self) -> None:
        while (answer := self._queue.get()) is not None:
            self._busy_since_s = time.monotonic()
            answer.run()
            self._busy_since_s = None
