"""How busy the CPU is on behalf of the job: core-seconds of its process tree, else of the whole machine.

Read from /proc through psutil on the monitor thread, a few processes at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import psutil

_REFRESH_S = 60.0
"""Listing all processes of a machine costs milliseconds, so new members of the tree are looked for this seldom."""


_BUSY_KINDS = ("user", "nice", "system", "irq", "softirq")
"""Windows tells the first and the third, which contains its interrupts."""


class CpuLoad(Protocol):
    """Core-seconds spent so far; `scope` says by whom."""

    scope: str

    def busy_s(self) -> float:
        """Core-seconds since some fixed moment. Never falls."""
        ...


class MachineLoad:
    """Busy time of all cores of the machine, whoever uses them."""

    scope = "the whole machine"

    def busy_s(self) -> float:
        """All time but idle and waiting for disks, of the kinds of time that this system tells."""
        times = psutil.cpu_times()
        return sum(float(getattr(times, kind, 0.0)) for kind in _BUSY_KINDS)


class ProcessTreeLoad:
    """CPU time of a process and everything below it, ended children included.

    A child's time passes to its parent's account when it is waited for, so the sum over the living tree is
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
        """Sum over the tree; members that ended a moment ago and are not waited for yet count at the next call."""
        if self._clock() - self._refreshed_s > _REFRESH_S:
            self._refresh()
        total_s = 0.0
        for pid, process in list(self._members.items()):
            try:
                times = process.cpu_times()
            except psutil.Error:
                del self._members[pid]
                continue
            total_s += times.user + times.system + times.children_user + times.children_system
        self._busy_s = max(self._busy_s, total_s)
        return self._busy_s

    def _refresh(self) -> None:
        self._refreshed_s = self._clock()
        try:
            living = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return
        self._members = {process.pid: self._members.get(process.pid, process) for process in living}


def job_root_pid(environ: Mapping[str, str] = os.environ) -> int:
    """The process whose tree is the job on this node: under a launcher with several local ranks our parent, which
    started them all; else this process."""
    alone = environ.get("LOCAL_WORLD_SIZE", "1") == "1"
    return os.getpid() if alone or os.getppid() <= 1 else os.getppid()


def open_cpu_load(root_pid: int, clock: Callable[[], float] = time.monotonic) -> CpuLoad:
    """The load of a process tree, or of the machine where that process cannot be seen."""
    try:
        return ProcessTreeLoad(root_pid, clock)
    except psutil.Error:
        return MachineLoad()
