"""Identify the launch of a job that this process belongs to. The processes of one launch on one host have the same name
for it, and no other launch has that name.

A restart in the same run directory is another launch, even while a process of the one before still hangs. Where two
processes of one launch name it differently, each meters what it sees, and the audit counts that once. Nothing is lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

LAUNCH_VARIABLE = "CARBON_PLUGIN_LAUNCH"
"""This package sets the variable for processes that this one launches later, as Lightning starts its other ranks. Its
value is "<pid>:<launch>"."""
PROCESS_VARIABLE = "CARBON_PLUGIN_RUN_PROCESS"
"""The variable in which `carbon-plugin run` writes the number of its process, which the command takes over."""
_OF_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "LOCAL_RANK")
"""The first of these variables that is set tells the processes of a rank from those of its launcher. The order matters
because torchrun runs within a task."""
_OF_LAUNCH = (
    "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
_MAX_WRAPPERS = 8
_trainings: Counter[str] = Counter()


def launch_of(environ: Mapping[str, str], *, alone: bool) -> str:
    """Return the name of this process's launch. `alone` says that no launcher has told this process of other ranks."""
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
    """Set the variable by which processes that this one starts without a launcher know that they belong to its
    launch."""
    if alone:
        environ[LAUNCH_VARIABLE] = f"{os.getpid()}:{launch_of(environ, alone=True)}"


def tell_command(environ: Mapping[str, str]) -> None:
    """Tell the command of `carbon-plugin run` on this machine that one of its processes is measured (see
    `integrations/startup/`). It does nothing elsewhere."""
    command = environ.get(PROCESS_VARIABLE, "")
    if command and command != str(os.getpid()):
        # It may have ended, or the system has no such names.
        with contextlib.suppress(OSError, AttributeError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(b"measured", f"\0carbon-plugin-run-{command}")


def next_training(run_id: str) -> int:
    """Return the number of a training of this process in a run, from 1 on. A training that follows another is a launch
    of its own."""
    _trainings[run_id] += 1
    return _trainings[run_id]


def launcher_pid(environ: Mapping[str, str]) -> int:
    """Return the id of the process that started the ranks of this host. It is the nearest ancestor that is not itself
    within a rank; a shell that wraps each rank is within it."""
    own = next((f"{name}={environ[name]}".encode() for name in _OF_RANK if name in environ), None)
    pid = os.getppid()
    for _ in range(_MAX_WRAPPERS):
        if own not in _initial_environ(pid):
            break
        pid = _parent_of(pid)
    return pid


def process_mark(pid: int) -> str:
    """Return a name for a process: its id and its start in clock ticks since boot. The two together are never used
    twice."""
    fields = _stat(pid)
    return f"{pid}-{fields[19] if len(fields) > 19 else 0}"


def _initial_environ(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:  # the process is another user's, or the system has no /proc
        return set()


def _parent_of(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _stat(pid: int) -> list[str]:
    """Return the fields of a process's state that follow its name."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
