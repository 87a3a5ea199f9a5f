"""From when on a training is charged for the reservation that it runs in: several may follow one another in one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping


class ReservedTime:
    """The reservation of one process, shared out among its trainings (a notebook's cells, the trials of a search).

    Each is charged from the end of the one before, the first from the start of the reservation; one that begins while
    another runs is charged for its own time only. So no moment before a training is charged twice. All ranks keep
    count, because any of them may record the next training.
    """

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._charged_until_unix_s = 0.0

    def begin(self, training: object, environ: Mapping[str, str]) -> float:
        """A training begins; returns since when it is charged, Unix s."""
        since_s = time.time() if self._running else max(reserved_since(environ), self._charged_until_unix_s)
        self._running.add(training)
        return since_s

    def end(self, training: object) -> None:
        """A training ended, however. Safe to call twice."""
        if training in self._running:
            self._running.remove(training)
            self._charged_until_unix_s = time.time()

    def forget(self) -> None:
        """In a forked child: the parent's trainings are not this process's."""
        self._running.clear()


def reserved_since(environ: Mapping[str, str]) -> float:
    """When the reservation began, Unix s: SLURM's job start, else the start of the launcher or of this process."""
    import psutil

    stated = environ.get("SLURM_JOB_START_TIME", "")
    if stated.isdecimal():
        return float(stated)
    own = psutil.Process()
    with contextlib.suppress(psutil.Error):  # the launcher may be another user's, and hidden
        launcher = own.parent() if "TORCHELASTIC_RUN_ID" in environ else None
        if launcher is not None:
            return float(launcher.create_time())
    return float(own.create_time())


RESERVED_TIME = ReservedTime()
"""That of this process."""
os.register_at_fork(after_in_child=RESERVED_TIME.forget)
