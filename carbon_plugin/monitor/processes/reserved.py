"""Find from when on a training is charged for its reservation. Several trainings may follow one another in one
reservation.

All times are ages by the clock that counts since the machine was started, so that setting the wall clock changes
nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from carbon_plugin.monitor.clock import boot_clock_s

_CLOCKS_AGREE_S = 60.0


class Charged(Struct, frozen=True):
    """Holds the time before the start of a training that the training is charged for, s, and a sentence about it for
    the ledger.
    """

    before_s: float
    note: str | None = None


class ReservedTime:
    """Shares the reservation of one process among its trainings (a notebook's cells, the trials of a search).

    The first training is charged from the start of the reservation, each later one from the end of the one before. A
    training that begins while another runs is charged for its own time only. So no moment before a training is charged
    twice. All ranks keep count, because any of them may record the next training.
    """

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._charged_until_s: float | None = None

    def begin(self, training: object, environ: Mapping[str, str]) -> Charged:
        """Begin a training, and return for how long before this moment it is charged."""
        if self._running:
            charged = Charged(0.0)
        else:
            charged = reserved_before(environ)
            if self._charged_until_s is not None:
                charged = Charged(min(charged.before_s, boot_clock_s() - self._charged_until_s), charged.note)
        self._running.add(training)
        return charged

    def end(self, training: object) -> None:
        """Note that a training has ended, in whatever way. A second call does nothing."""
        if training in self._running:
            self._running.remove(training)
            self._charged_until_s = boot_clock_s()

    def forget(self) -> None:
        """Drop the parent's trainings in a forked child, because they are not this process's."""
        self._running.clear()


def reserved_before(environ: Mapping[str, str]) -> Charged:
    """Return for how long the reservation has been running: since SLURM's job start, or else since the start of the
    launcher or of this process.

    A job start in the future, or before the machine was started, is not used: the clock of this host, or of the
    scheduler, is wrong.
    """
    stated = environ.get("SLURM_JOB_START_TIME", "")
    if not stated.isdecimal():
        return Charged(_launched_before_s(environ))
    before_s = time.time() - float(stated)
    if -_CLOCKS_AGREE_S <= before_s <= boot_clock_s() + _CLOCKS_AGREE_S:
        return Charged(max(0.0, before_s))
    where = "in the future" if before_s < 0 else "before this host was started"
    return Charged(
        _launched_before_s(environ),
        f"SLURM_JOB_START_TIME is {where} by the clock of this host, so the reservation is counted from the start of "
        "the process",
    )


def _launched_before_s(environ: Mapping[str, str]) -> float:
    """Return how many seconds ago the launcher was started if it can be seen, else how many seconds ago this process
    was."""
    if "TORCHELASTIC_RUN_ID" in environ:
        launcher_s = _age_s(os.getppid())
        if launcher_s is not None:
            return launcher_s
    return _age_s(os.getpid()) or 0.0


def _age_s(pid: int) -> float | None:
    """Return how many seconds ago a process was started, or None if that is hidden."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])  # since the machine was started, whatever the wall clock says
        return max(0.0, boot_clock_s() - ticks / os.sysconf("SC_CLK_TCK"))
    import psutil

    with contextlib.suppress(psutil.Error):
        return max(0.0, time.time() - float(psutil.Process(pid).create_time()))
    return None


RESERVED_TIME = ReservedTime()
"""The reservation of this process."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RESERVED_TIME.forget)
