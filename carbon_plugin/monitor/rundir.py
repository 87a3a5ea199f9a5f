"""The run directory when the user names none: one that all ranks of a launch agree on without talking.

Ranks of one host meet in a file of the host's temporary directory, keyed by their launcher. Ranks of several hosts
need an id from the scheduler; without one the user must name the directory.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.errors import SpecError
from carbon_plugin.monitor.ranks import Ranks

RUN_DIR_VARIABLE = "CARBON_PLUGIN_RUN_DIR"
INHERITED_VARIABLE = "CARBON_PLUGIN_INHERITED_RUN_DIR"
"""Set by us for processes that this one launches later, as Lightning starts its other ranks: "<pid>:<directory>"."""
RUNS = Path("runs")
_RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What `torchrun --standalone` makes up for every launch: no name that a user would look for."""


def choose_run_dir(name: str, ranks: Ranks, environ: Mapping[str, str]) -> Path:
    """The directory of this run, the same on every rank; it need not exist yet.

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
        return _agreed(name, os.getppid())
    chosen = _fresh(name)
    os.environ[INHERITED_VARIABLE] = f"{os.getpid()}:{chosen.absolute()}"
    return chosen


def _agreed(name: str, launcher: int) -> Path:
    """The directory that the first of a launcher's processes proposed."""
    meeting = scratch_dir() / f"launch-{launcher}-{_start_ticks(launcher)}-{name}"
    for _ in range(2):
        try:
            return Path(meeting.read_text(encoding="utf-8"))
        except FileNotFoundError:
            _propose(meeting, str(_fresh(name).absolute()))
    return Path(meeting.read_text(encoding="utf-8"))


def _propose(meeting: Path, content: str) -> None:
    """Publish whole content under a name, unless somebody was faster."""
    temporary = meeting.with_name(f".{meeting.name}.{uuid.uuid4().hex}")
    temporary.write_text(content, encoding="utf-8")
    try:
        os.link(temporary, meeting)
    except FileExistsError:
        return
    finally:
        temporary.unlink()


def _fresh(name: str) -> Path:
    """A directory named by the date, that nobody has yet."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (RUNS / (stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
    return next(path for path in candidates if not path.exists())


def scratch_dir() -> Path:
    """Our directory in the host's temporary one, for this user only; local to a host and gone with it."""
    path = Path(tempfile.gettempdir()) / f"carbon-plugin-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _start_ticks(pid: int) -> str:
    """When a process started, in clock ticks since boot: with its number a name that is never used twice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "0"
    return stat.rpartition(")")[2].split()[19]
