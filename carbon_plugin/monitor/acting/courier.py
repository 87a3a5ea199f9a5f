"""Deliver messages on a thread of their own, so that neither the training nor the metering waits for a service."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from carbon_plugin.monitor.thread import Wake
from carbon_plugin.printable import one_line

logger = logging.getLogger(__name__)
MOST_WAITING = 100
CLOSE_S = 3.0
"""The end of a training waits so long for messages that are on their way, s."""
Wait = Callable[[float], bool]
Task = Callable[[Wait], None]
"""A delivery. It is given a function that waits so many seconds, and says whether to go on: not once the run has
ended."""


class Courier:
    """Runs tasks one after the other on a daemon thread, which starts with the first one. `failed` takes a sentence
    about each task that raised. The first one of each name is a warning, too."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._tasks: deque[tuple[str, Task]] = deque(maxlen=MOST_WAITING)
        self._failed = failed
        self._wake: Wake | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._ends_s: float | None = None
        self._busy = False
        self._warned: set[str] = set()

    def send(self, what: str, task: Task) -> None:
        """Queue a task. `what` names it in the sentence about a failure."""
        if self._ends_s is not None or os.getpid() != self._pid:
            return
        self._tasks.append((what, task))
        self.deliver()

    def deliver(self) -> None:
        """Begin with what is queued. Where no file can be opened at this moment, it waits for a later call."""
        if os.getpid() != self._pid:
            return
        if self._wake is None and self._tasks:
            with contextlib.suppress(OSError):
                wake = Wake()  # it has open files, which most trainings can do without
                self._thread = threading.Thread(
                    target=self._main, args=(wake,), name="carbon-plugin-courier", daemon=True
                )
                self._thread.start()
                self._wake = wake
        if self._wake is not None:
            self._wake.put()

    def close(self) -> None:
        """Wait a short time for messages on their way, and accept no more."""
        if self._ends_s is None:
            self._ends_s = time.monotonic() + CLOSE_S
        self.deliver()
        if self._thread is not None and os.getpid() == self._pid:
            self._thread.join(CLOSE_S + 0.5)

    def _main(self, wake: Wake) -> None:
        while True:
            if not self._tasks:
                if self._ends_s is not None:
                    break
                wake.wait(60.0)
                continue
            what, task = self._tasks.popleft()
            try:
                task(partial(self._pause, wake))
            except Exception as error:  # a service or a function of the user, of which the training must not know
                logger.debug("what happened to %s", what, exc_info=error)
                said = f"{what}: {type(error).__name__}: {error}"
                self._failed(said)
                if what not in self._warned:
                    self._warned.add(what)
                    logger.warning("carbon_plugin: training goes on without %s", one_line(said))
        wake.close()

    def _pause(self, wake: Wake, seconds: float) -> bool:
        """Wait, and return whether there is time for another try before the run has ended."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            if self._ends_s is not None and end_s > self._ends_s:
                return False
            wake.wait(min(left_s, 1.0))
        return True
