"""The one daemon thread: wakes in time for a window, aligned across nodes, and never outlives its welcome."""

from __future__ import annotations

import signal
import threading
import time
from queue import Empty, SimpleQueue
from typing import Protocol

from carbon_plugin.monitor.guard import Guard

Wake = SimpleQueue[None]
"""Something in it wakes the thread. Unlike an event it has no lock that a signal handler of the training, which may
change the phase in the middle of a change of phase, could wait for without end."""

# Signals are the training's: they are delivered to its thread, not to this one. No handler is touched.
# Not every system has all of them.
_QUIET_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM")
_QUIET = {getattr(signal, name) for name in _QUIET_NAMES if hasattr(signal, name)}
_LEAST_WAIT_S = 0.001


class Body(Protocol):
    """What the thread runs. `poll_interval_s` is the longest wait that the meters allow, None for any."""

    @property
    def poll_interval_s(self) -> float | None:
        """Seconds, or None."""
        ...

    def open(self) -> None:
        """Start."""
        ...

    def tick(self, *, due: bool) -> None:
        """Work; `due` is False when only the meters must be read."""
        ...

    def close(self, reason: str) -> None:
        """End in an orderly way."""
        ...


class MonitorThread:
    """Runs a body until `close`. It waits by the monotonic clock, whatever is done to the wall clock. A window lasts
    about `cadence_s`, as `wait_s` says, and at least `least_s`, unless `wake` ends it."""

    def __init__(self, body: Body, guard: Guard, wake: Wake, *, cadence_s: float, least_s: float) -> None:
        self._body = body
        self._guard = guard
        self._cadence_s = cadence_s
        self._least_s = least_s
        self._wake = wake
        self._reason: str | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._main, name="carbon-plugin", daemon=True)
        self._thread.start()

    def close(self, reason: str, timeout_s: float) -> bool:
        """Ask for an orderly end and wait for it, at most `timeout_s` (a driver may hang); whether it came."""
        if self._reason is None:
            self._reason = reason
        self._wake.put(None)
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def forget(self) -> None:
        """In a forked child there is no thread; its locks may be held forever and are not touched."""
        self._thread = None
        self._wake = SimpleQueue()

    def _main(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, _QUIET)
        self._guard.run("monitor", self._run, None)
        failure = self._guard.failures.get("monitor")
        if failure is not None:
            self._guard.run("closing", lambda: self._body.close(f"failed: {failure}"), None)

    def _run(self) -> None:
        self._body.open()
        edge_s = self._next_edge_s()
        while self._reason is None:
            left_s = max(edge_s - time.monotonic(), _LEAST_WAIT_S)
            poll_s = self._body.poll_interval_s
            woken = self._woken(left_s if poll_s is None else min(left_s, poll_s))
            if self._reason is None:
                due = woken or time.monotonic() >= edge_s
                self._body.tick(due=due)
                if due:
                    edge_s = self._next_edge_s()
        self._body.close(self._reason)

    def _woken(self, within_s: float) -> bool:
        try:
            self._wake.get(timeout=within_s)
        except Empty:
            return False
        while not self._wake.empty():  # several wishes are one; nobody else takes
            self._wake.get()
        return True

    def _next_edge_s(self) -> float:
        """When the next window ends, by the monotonic clock."""
        return time.monotonic() + wait_s(time.time(), cadence_s=self._cadence_s, least_s=self._least_s)


def wait_s(now_unix_s: float, *, cadence_s: float, least_s: float) -> float:
    """How long the window that begins now is to last, s.

    It ends at a multiple of the cadence on the wall clock, so that the disturbance, small as it is, happens on all
    nodes at once. It lasts at least `least_s`, or half a cadence where that is less: a window that begins a little late
    because of the reading before it must not miss its edge and last twice as long.
    """
    left_s = -now_unix_s % cadence_s
    return left_s if left_s >= min(least_s, cadence_s / 2) else left_s + cadence_s
