"""Find which part of a shared host is the job's: by the CPU time that it uses, by the CPUs that SLURM gave it, or by
its GPUs.

The part that is *reserved* is fixed, and embodied carbon and modelled power follow it; the part that is *used* changes,
and splits what counters measure. Both answer the same question, so they bound each other's range.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from carbon_plugin.spec.numbers.range import Range

SHARE_SPREAD = 0.5
"""The relative half-range of a reserved share: a job uses more or less than its part of CPUs or GPUs (our
convention).
"""

_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq")
_BUSY = frozenset(_FIELDS) - {"idle", "iowait"}
"""The fields of /proc/stat that are work of this machine; stolen time is not, and guest time is part of user time."""


class HostShare(Struct, frozen=True, kw_only=True):
    """One instance holds a part of a host, 0 to 1, and the sentence that the ledger carries."""

    part: Range
    sentence: str


WHOLE = HostShare(part=Range.exactly(1.0), sentence="the whole host")

ShareSource = Callable[[], HostShare]
"""A function that returns the share of the stretch since its last call."""


def slurm_share(environ: Mapping[str, str], logical_cores: int) -> HostShare | None:
    """Return the job's part of the node's CPUs by SLURM's variables, or None outside of SLURM.

    It is read from SLURM_CPUS_ON_NODE, else from SLURM_JOB_CPUS_PER_NODE. The second lists nodes as "72(x2),36": it
    tells this node's number only where all nodes are alike.
    """
    stated = environ.get("SLURM_CPUS_ON_NODE", "")
    name = "SLURM_CPUS_ON_NODE"
    if not stated.isdigit():
        name = "SLURM_JOB_CPUS_PER_NODE"
        alike = re.fullmatch(r"(\d+)(\(x\d+\))?", environ.get(name, ""))
        stated = alike[1] if alike else ""
    if not stated.isdigit() or int(stated) < 1:
        return None
    if int(stated) >= logical_cores:
        return HostShare(part=Range.exactly(1.0), sentence=f"the whole host is charged: all its CPUs ({name})")
    return _ranged(
        int(stated) / logical_cores, f"the host is charged by its CPUs, {stated} of {logical_cores} ({name})"
    )


def gpu_share(ours: float, total: int) -> HostShare:
    """Return the job's part of the node's GPUs."""
    return _ranged(
        ours / total, f"the host is charged by its GPUs, {ours:g} of {total}: the others may be another job's"
    )


def _ranged(share: float, sentence: str) -> HostShare:
    part = Range(share, share * (1 - SHARE_SPREAD), min(1.0, share * (1 + SHARE_SPREAD)))
    return HostShare(part=part, sentence=sentence)


class UsedShare:
    """One instance gives the job's part of the host's busy CPU time since the last call: cgroup v2 cpu.stat over
    /proc/stat.
    """

    def __init__(self, cgroup: Path, root: Path, reserved: HostShare) -> None:
        self._stat = cgroup / "cpu.stat"
        self._machine = root / "proc/stat"
        self._reserved = reserved
        self._last = self._look()

    def __call__(self) -> HostShare:
        """Return the share of the stretch, or the reserved share where the files do not answer or nothing ran."""
        last, now = self._last, self._look()
        self._last = now or last
        if last is None or now is None or now[1] <= last[1]:
            return self._reserved
        used = min(1.0, max(0.0, (now[0] - last[0]) / (now[1] - last[1])))
        reserved = self._reserved.part
        return HostShare(part=Range(used, reserved.low, reserved.high).ordered(), sentence="by CPU time")

    def _look(self) -> tuple[float, float] | None:
        """Return the CPU seconds of the job and of the whole machine so far, or None where they cannot be read."""
        try:
            fields = dict(line.split(maxsplit=1) for line in self._stat.read_text().splitlines())
            words = self._machine.read_text().split(maxsplit=len(_FIELDS) + 1)[1:]
            busy = sum(int(word) for name, word in zip(_FIELDS, words, strict=False) if name in _BUSY)
            return int(fields["usage_usec"]) * 1e-6, busy / os.sysconf("SC_CLK_TCK")
        except (OSError, KeyError, ValueError):
            return None


def fixed(share: HostShare) -> ShareSource:
    """Return a source of the same share at all times."""
    return lambda: share


def used_share(reserved: HostShare, root: Path = Path("/")) -> UsedShare | None:
    """Return the job's changing share of a host that it shares with others, or None where its cgroup is not known.

    Under SLURM it is the cgroup of the job, in a container that of the container. The root cgroup of a machine, or that
    of a login session, belongs to no job.
    """
    cgroup = _job_cgroup(root)
    if cgroup is None or not (cgroup / "cpu.stat").is_file():
        return None
    return UsedShare(cgroup, root, reserved)


def _job_cgroup(root: Path) -> Path | None:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if own is None:
        return None
    base, parts = root / "sys/fs/cgroup", [part for part in own.split("/") if part]
    for depth, part in enumerate(parts, start=1):
        if re.fullmatch(r"job_\d+", part):
            return base.joinpath(*parts[:depth])
    in_container = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    in_container = in_container or "kubepods" in own or "KUBERNETES_SERVICE_HOST" in os.environ
    return base.joinpath(*parts) if in_container else None
