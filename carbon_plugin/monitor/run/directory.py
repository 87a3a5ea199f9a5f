"""Choose the run directory when the user names none, so that all ranks of a launch agree on it without communication.

Ranks of one host meet in a file of the host's temporary directory, keyed by their launcher. Ranks of several hosts need
an id from the scheduler. Without one the user must name the directory.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.errors import SpecError
from carbon_plugin.monitor.processes.launch import launcher_pid, process_mark
from carbon_plugin.monitor.processes.scratch import Folder, open_scratch
from carbon_plugin.monitor.ranks import Ranks

RUN_DIR_VARIABLE = "CARBON_PLUGIN_RUN_DIR"
INHERITED_VARIABLE = "CARBON_PLUGIN_INHERITED_RUN_DIR"
"""This package sets the variable for processes that this one launches later, as Lightning starts its other ranks. Its
value is "<pid>:<directory>"."""
RUNS = Path("runs")
KEPT_S = 3600.0
_LAUNCH, _READ = "launch-", ".read-"
_RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The id that `torchrun --standalone` makes up for every launch. No user would look for such a name."""
_TAKEN: set[Path] = set()
"""The directories that `_fresh` has returned. The list is needed because a directory is made only with its ledger."""


def choose_run_dir(name: str, ranks: Ranks, environ: Mapping[str, str]) -> Path:
    """Return the directory of this run, the same on every rank. It need not exist yet.

    In this order: the variable CARBON_PLUGIN_RUN_DIR, what a parent process chose, the SLURM job, the id given to
    torchrun, a new directory named by date. Raises `SpecError` when several nodes have nothing in common.
    """
    if stated := environ.get(RUN_DIR_VARIABLE):
        return Path(stated)
    parent, _, inherited = environ.get(INHERITED_VARIABLE, "").partition(":")
    if inherited and parent == str(os.getppid()):
        return Path(inherited)
    if job := environ.get("SLURM_JOB_ID"):
        return RUNS / f"{name}-{job}"
    rendezvous = environ.get("TORCHELASTIC_RUN_ID", "none")
    if rendezvous != "none" and not _RANDOM_ID.fullmatch(rendezvous):
        return RUNS / f"{name}-{rendezvous}"
    if ranks.nodes > 1:
        raise SpecError(
            f"run_dir: the {ranks.nodes} nodes of this job must share a directory and nothing names it; pass run_dir, "
            f"set {RUN_DIR_VARIABLE}, or launch with torchrun --rdzv-id"
        )
    if ranks.world_size > 1:
        return _agreed(name, ranks, environ)
    chosen = _fresh(name)
    os.environ[INHERITED_VARIABLE] = f"{os.getpid()}:{chosen.absolute()}"
    return chosen


def _agreed(name: str, ranks: Ranks, environ: Mapping[str, str]) -> Path:
    """Return the directory that the first of a launcher's processes proposed. It stays the same as long as the launcher
    may restart them.
    """
    scratch, launcher = open_scratch(), process_mark(launcher_pid(environ))
    if scratch is None:  # without a date, but the name is never used twice
        return RUNS / f"{name}-{launcher}"
    meeting = f"{_LAUNCH}{launcher}-{name}"
    try:
        _forget_dead_launchers(scratch)
        if scratch.read(meeting) is None:
            scratch.propose(meeting, os.fsencode(_fresh(name).absolute()))
        agreed = scratch.read(meeting)
        scratch.create(f"{meeting}{_READ}{ranks.rank}")
    finally:
        scratch.close()
    if agreed is None:
        raise OSError(errno.EEXIST, f"{meeting} in our temporary directory cannot be read")
    if environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        _remove_at_exit(meeting, ranks.local_world_size)
    return Path(os.fsdecode(agreed))


def _remove_at_exit(meeting: str, readers: int) -> None:
    """Remove the agreement when this process ends in an orderly way, if every process of the launch has read it.

    The next launch removes what killed processes have left.
    """
    pid = os.getpid()

    def remove() -> None:
        if os.getpid() != pid or getattr(sys, "last_type", None) is not None:
            return
        with contextlib.suppress(OSError):
            scratch = open_scratch()
            if scratch is None:
                return
            marks = [name for name in scratch.names() if name.startswith(meeting + _READ)]
            for name in [*marks, meeting] if len(marks) >= readers else []:
                scratch.remove(name)
            scratch.close()

    atexit.register(remove)


def _forget_dead_launchers(scratch: Folder) -> None:
    """Remove the agreements of launches whose processes were killed.

    A launcher in another container with the same temporary directory may live without being seen from here, so young
    agreements are kept.
    """
    now_s = time.time()
    for name in scratch.names():
        pid, _, started = name.removeprefix(_LAUNCH).partition("-")
        if not (name.startswith(_LAUNCH) and pid.isdecimal()):
            continue
        dead = not started.startswith(process_mark(int(pid)).partition("-")[2] + "-")
        with contextlib.suppress(OSError):
            if dead and scratch.age_s(name, now_s) > KEPT_S:
                scratch.remove(name)


def _fresh(name: str) -> Path:
    """Return a directory named by the date that does not exist and that no other training of this process has."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (RUNS / (stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
    free = next(path for path in candidates if path.absolute() not in _TAKEN and not path.exists())
    _TAKEN.add(free.absolute())
    return free
