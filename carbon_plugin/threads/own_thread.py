"""Run calls that may hang on a thread of its own, one after the other, so that nobody waits longer than stated.

Work that is submitted while a call hangs waits behind it. If the hang is already longer than a caller would wait, the
caller is told at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from carbon_plugin.threads.patience import wait_while_running
from carbon_plugin.threads.turns import turn_of_this_thread

T = TypeVar("T")


class Answer(Generic[T]):
    """One instance holds a piece of work and its result."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._go_on = turn_of_this_thread()
        self._done = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Return whether the work has ended."""
        return self._done.is_set()

    def wait(self, within_s: float) -> bool:
        """Wait for the end of the work for at most `within_s` seconds in which this process runs; return whether it has
        ended."""
        return wait_while_running(self._done.wait, self._done.is_set, within_s)

    def result(self) -> T:
        """Return what the work gave, or raise the exception that it raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def run(self) -> None:
        """Do the work, in the turn of the thread that asked for it. Only the own thread calls this."""
        self._go_on()
        try:
            self._value = self._work()
        except BaseException as error:  # `result` raises it again
            self._error = error
        self._done.set()


class OwnThread:
    """One instance is a daemon thread for the calls of one resource that may hang. It ends when `end` is called.

    `name` is that of the thread.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Answer[object] | None] = SimpleQueue()
        self._busy_since_s: float | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def busy_s(self) -> float:
        """Return how many seconds the present call has been running, or 0 without one."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def submit(self, work: Callable[[], T]) -> Answer[T]:
        """Queue a piece of work, and return the object that will hold its result."""
        answer = Answer(work)
        self._queue.put(answer)  # type: ignore[arg-type]
        return answer

    def call(self, work: Callable[[], T], within_s: float) -> T:
        """Return the result of a piece of work. Raises what `busy` returns where it does not come within `within_s`
        seconds.
        """
        if self.busy_s > within_s:
            raise self.busy()
        answer = self.submit(work)
        if not answer.wait(within_s):
            raise self.busy(within_s)
        return answer.result()

    def busy(self, waited_s: float = 0.0) -> Exception:
        """Return the error for an answer that has not come after a wait: a `TimeoutError`, which is an `OSError`."""
        return TimeoutError(f"no answer for {max(self.busy_s, waited_s):.0f} s")

    def end(self) -> None:
        """End the thread after the work that is queued. No more work may follow."""
        self._queue.put(None)

    def _run(self) -> None:
        while (answer := self._queue.get()) is not None:
            self._busy_since_s = time.monotonic()
            answer.run()
            self._busy_since_s = None
