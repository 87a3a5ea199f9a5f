"""Run the one daemon thread. It wakes in time for each window, at moments that are the same on all nodes, and ends with
the training."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from functools import partial
from typing import Protocol

from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.running import LEFT
from carbon_plugin.sinks.quiet import leave_signals_to_the_training
from carbon_plugin.threads.patience import wait_while_running
from carbon_plugin.threads.turns import own_clock, stop_taking_turns, take_turns

_LEAST_WAIT_S = 0.001
_FILES = 16
"""So many files can be opened beside those of the training when the work begins (our convention)."""
_FILES_AGAIN_S = 0.5
"""While they cannot, this is tried again after so many seconds."""


class Wake:
    """Wakes a waiting thread.

    A `threading.Event` has a lock. A signal handler of the training may change the phase in the middle of a change of
    phase and would then wait for that lock forever; this class has no such lock. It waits by the monotonic clock on
    every build of Python. A queue or a lock waits until a moment of the wall clock where `sem_clockwait` is missing,
    and an hour too long if that clock is set back by an hour.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def put(self) -> None:
        """Wake the thread, now or when it waits next."""
        with contextlib.suppress(OSError):  # a full socket wakes the thread already, and a closed one has no thread
            self._writer.send(b"\0")

    def wait(self, within_s: float) -> bool:
        """Wait for at most this many seconds, and return whether the thread was woken. Several calls of `put` count as
        one."""
        if not _readable(self._reader, within_s):
            return False
        with contextlib.suppress(OSError):
            while self._reader.recv(4096):
                pass
        return True

    def can_open(self, files: int) -> bool:
        """Return whether the process can open so many files more at this moment."""
        opened: list[int] = []
        try:
            for _ in range(files):
                opened.append(os.dup(self._reader.fileno()))
        except OSError:
            return False
        finally:
            for fd in opened:
                os.close(fd)
        return True

    def close(self) -> None:
        """Release both ends."""
        for end in (self._reader, self._writer):
            with contextlib.suppress(OSError):  # the script has closed what it did not open
                end.close()


def _readable(reader: socket.socket, within_s: float) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([reader], [], [], within_s)[0])
    poll = select.poll()  # unlike select, it has no limit on file descriptors
    poll.register(reader, select.POLLIN)
    return bool(poll.poll(1000 * within_s))


class Body(Protocol):
    """Defines the work that the thread runs."""

    @property
    def poll_interval_s(self) -> float | None:
        """Return the longest wait that the meters allow, s, or None if any wait is allowed."""
        ...

    def open(self) -> None:
        """Begin the work. It raises where no file can be opened, and a further call goes on from there."""
        ...

    def tick(self, *, due: bool) -> None:
        """Do the work of one wake-up. `due` is False when only the meters are to be read."""
        ...

    @property
    def left(self) -> bool:
        """Return whether the training was left by the last tick, although nobody has ended it."""
        ...

    def close(self, reason: str) -> None:
        """End the work in an orderly way."""
        ...


class MonitorThread:
    """Runs a body until `close`. It waits by the monotonic clock, so that setting the wall clock has no effect on a
    wait.

    A window lasts about `cadence_s`, as `wait_s` says, and at least `least_s`, unless `wake` ends it.
    """

    def __init__(self, body: Body, guard: Guard, wake: Wake, *, cadence_s: float, least_s: float) -> None:
        self._body = body
        self._guard = guard
        self._cadence_s = cadence_s
        self._least_s = least_s
        self._wake = wake
        self._training = own_clock()  # the training thread makes this object
        self._reason: str | None = None
        self._awaited = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._main, name="carbon-plugin", daemon=True)
        self._thread.start()

    def close(self, reason: str, timeout_s: float) -> bool:
        """Ask for an orderly end, wait for it at most `timeout_s` seconds in which this process runs (a driver may
        hang), and return whether it came."""
        self._awaited = timeout_s > 0
        if self._reason is None:
            self._reason = reason
        self._wake.put()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        return wait_while_running(thread.join, lambda: not thread.is_alive(), timeout_s)

    def forget(self) -> None:
        """Drop thread and wake in a forked child. The child has no such thread, and its locks may be held forever."""
        self._thread = None
        self._wake = Wake()

    def _main(self) -> None:
        leave_signals_to_the_training()
        take_turns(self._training)
        wake = self._wake
        self._guard.run("monitor", self._run, None, once=True)
        failure = self._guard.failures.get("monitor")
        if failure is not None:
            self._guard.run("closing", lambda: self._body.close(f"failed: {failure}"), None)
        wake.close()

    def _run(self) -> None:
        # What is used until then follows from the first readings, so that waiting loses nothing.
        while not self._opened():
            self._wake.wait(_FILES_AGAIN_S)
        edge_s = self._next_edge_s()
        while self._reason is None:
            left_s = max(edge_s - time.monotonic(), _LEAST_WAIT_S)
            poll_s = self._body.poll_interval_s
            woken = self._wake.wait(left_s if poll_s is None else min(left_s, poll_s))
            if self._reason is None:
                due = woken or time.monotonic() >= edge_s
                self._guard.attempt("monitor", partial(self._body.tick, due=due), None)
                if due:
                    edge_s = self._next_edge_s()
                if self._body.left and self._reason is None:
                    self._reason = LEFT
        if self._awaited:
            stop_taking_turns()
        self._body.close(self._reason)

    def _opened(self) -> bool:
        """Begin the work, and return whether it has begun. While no file can be opened it is begun later, at the end of
        the training at the latest."""
        if self._reason is not None:
            self._guard.attempt("monitor", self._begun, False)  # what is refused now is asked for again by the closing
            return True
        return self._wake.can_open(_FILES) and self._guard.attempt("monitor", self._begun, False)

    def _begun(self) -> bool:
        self._body.open()
        return True

    def _next_edge_s(self) -> float:
        """Return when the next window ends, by the monotonic clock."""
        return time.monotonic() + wait_s(time.time(), cadence_s=self._cadence_s, least_s=self._least_s)


def wait_s(now_unix_s: float, *, cadence_s: float, least_s: float) -> float:
    """Return how long the window that begins now is to last, s.

    It ends at a multiple of the cadence on the wall clock, so that the small disturbance happens on all nodes at once.
    It lasts at least `least_s`, or half a cadence where that is less: a window that begins a little late because of the
    reading before it must not miss its edge and last twice as long.
    """
    left_s = -now_unix_s % cadence_s
    return left_s if left_s >= min(least_s, cadence_s / 2) else left_s + cadence_s
