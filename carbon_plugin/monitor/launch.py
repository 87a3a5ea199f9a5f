"""Which launch of a job this process belongs to: what its processes on one host have in common and no other launch has.

A restart in the same run directory is another launch, even while a process of the one before still hangs. Where two
processes of one launch take it for two, each meters what it sees and the audit counts that once; nothing is lost.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

LAUNCH_VARIABLE = "CARBON_PLUGIN_LAUNCH"
"""Set by us for processes that this one launches later, as Lightning starts its other ranks: "<pid>:<launch>"."""
_OF_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "LOCAL_RANK")
"""What tells a rank's processes from its launcher's: the first one that is set, because torchrun runs within a task."""
_OF_LAUNCH = (
    "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
_MAX_WRAPPERS = 8
_trainings: Counter[str] = Counter()


def launch_of(environ: Mapping[str, str], *, alone: bool) -> str:
    """The launch of this process. `alone` says that no launcher has told it of other ranks."""
    pid, _, inherited = environ.get(LAUNCH_VARIABLE, "").partition(":")
    if inherited and pid in (str(os.getpid()), str(os.getppid())):
        return inherited
    if alone:
        return f"process {process_mark(os.getpid())}"
    stated = [f"{name}={environ[name]}" for name in _OF_LAUNCH if name in environ]
    # A step of SLURM has one name in all its containers, which may not see its launcher.
    of_step = "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ and "TORCHELASTIC_RUN_ID" not in environ
    return " ".join([*stated, *([] if of_step else [f"launcher {process_mark(launcher_pid(environ))}"])])


def hand_down(environ: dict[str, str] | os._Environ[str], *, alone: bool) -> None:
    """Let processes that this one starts without a launcher know that they belong to it."""
    if alone:
        environ[LAUNCH_VARIABLE] = f"{os.getpid()}:{launch_of(environ, alone=True)}"


def next_training(run_id: str) -> int:
    """Number of a training of this process in a run, from 1 on: one that follows another has a launch of its own."""
    _trainings[run_id] += 1
    return _trainings[run_id]


def launcher_pid(environ: Mapping[str, str]) -> int:
    """The process that started the ranks of this host: the nearest ancestor that is not itself within a rank, as a
    shell is that wraps each of them."""
    own = next((f"{name}={environ[name]}".encode() for name in _OF_RANK if name in environ), None)
    pid = os.getppid()
    for _ in range(_MAX_WRAPPERS):
        if own not in _initial_environ(pid):
            break
        pid = _parent_of(pid)
    return pid


def process_mark(pid: int) -> str:
    """A process by its number and its start, in clock ticks since boot: together they are never used twice."""
    fields = _stat(pid)
    return f"{pid}-{fields[19] if len(fields) > 19 else 0}"


def _initial_environ(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:  # another user's, or a system without /proc
        return set()


def _parent_of(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _stat(pid: int) -> list[str]:
    """Fields of a process's state, after its name."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
