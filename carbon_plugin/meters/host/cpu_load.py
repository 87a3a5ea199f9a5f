"""Measure how busy the CPU is on behalf of the job: core-seconds of its process tree, else of the whole machine.

They are read from /proc through psutil on the monitor thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Protocol

import psutil

_REFRESH_S = 60.0
"""The interval in seconds at which new members of the tree are looked for: listing all processes of a machine costs
milliseconds.
"""


_BUSY_KINDS = ("user", "nice", "system", "irq", "softirq")
"""The kinds of busy time. Windows tells the first and the third, which contains its interrupts."""


class CpuLoad(Protocol):
    """A load tells the core-seconds spent so far; `scope` says by which processes."""

    scope: str

    def busy_s(self) -> float:
        """Return the core-seconds since some fixed moment, which never fall."""
        ...


class MachineLoad:
    """The load is the busy time of all cores of the machine, whoever uses them."""

    scope = "the whole machine"

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._busy_s = 0.0

    def busy_s(self) -> float:
        """Return all core-seconds but idle time and waiting for disks, of the kinds of time that this system tells,
        since the first call that could read them."""
        with contextlib.suppress(OSError):  # the process has no file left to open: the next call catches up
            times = psutil.cpu_times()
            since_boot_s = sum(float(getattr(times, kind, 0.0)) for kind in _BUSY_KINDS)
            if self._since_s is None:  # a first call that fails must not bring the time since boot to the second
                self._since_s = since_boot_s
            self._busy_s = since_boot_s - self._since_s
        return self._busy_s


class ProcessTreeLoad:
    """The load is the CPU time of a process and of everything below it, including children that have ended.

    A child's time is added to its parent's when the parent waits for it, so that the sum over the living tree is
    complete; a member that is found late brings all its time with it.
    """

    scope = "the job's processes"

    def __init__(self, root_pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = psutil.Process(root_pid)
        self._clock = clock
        self._members: dict[int, psutil.Process] = {}
        self._refreshed_s = 0.0
        self._busy_s = 0.0
        self._refresh()

    def busy_s(self) -> float:
        """Return the core-seconds of the tree.

        Members that have just ended and are not waited for yet count at the next call.
        """
        if self._clock() - self._refreshed_s > _REFRESH_S:
            self._refresh()
        total_s = 0.0
        for pid, process in list(self._members.items()):
            try:
                times = process.cpu_times()
            except psutil.Error:
                del self._members[pid]
                continue
            except OSError:  # this process has no file left to open: the next call catches up
                continue
            total_s += times.user + times.system + times.children_user + times.children_system
        self._busy_s = max(self._busy_s, total_s)
        return self._busy_s

    def _refresh(self) -> None:
        self._refreshed_s = self._clock()
        try:
            living = [self._root, *self._root.children(recursive=True)]
        except (psutil.Error, OSError):
            return
        self._members = {process.pid: self._members.get(process.pid, process) for process in living}


def job_root_pid(local_ranks: int) -> int:
    """Return the id of the process whose tree is the job on this node.

    With several local ranks it is our parent, the launcher or script that started them all; else it is this process.
    """
    return os.getpid() if local_ranks == 1 or os.getppid() <= 1 else os.getppid()


def open_cpu_load(root_pid: int, clock: Callable[[], float] = time.monotonic) -> CpuLoad:
    """Return the load of a process tree, or that of the machine where the process cannot be seen."""
    try:
        return ProcessTreeLoad(root_pid, clock)
    except psutil.Error:
        return MachineLoad()
