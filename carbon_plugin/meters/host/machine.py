"""Describe this machine: boot id, CPU, cores, memory, and whether a container or a cgroup limits what the job sees.

Everything is read from /proc and /sys below a root that can be replaced; nothing is measured here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

_CONTAINER_CGROUPS = ("docker", "kubepods", "containerd", "libpod", "lxc")


class HostInfo(Struct, frozen=True, kw_only=True):
    """One instance describes a host as seen from this process.

    `boot_id` is unique per boot of a kernel and shared by all its containers; None where the kernel hides it.
    `physical_cores` and `logical_cores` are those of the machine, `allowed_cores` what affinity and cgroup quota leave
    of them. `memory_limit_bytes` is the limit of the cgroup, None without one. `container` names the runtime if there
    is a hint of one.
    """

    boot_id: str | None
    hostname: str
    cpu_name: str
    logical_cores: int
    physical_cores: int
    allowed_cores: float
    memory_bytes: int
    memory_limit_bytes: int | None
    container: str | None
    virtual_machine: bool

    @property
    def key(self) -> str:
        """Return the host's key in the ledger: the boot id, else the hostname, which two hosts may share."""
        return self.boot_id or f"hostname-{self.hostname}"

    @property
    def usable_memory_bytes(self) -> int:
        """Return the memory in bytes that this job can use: the smaller of the machine's and the cgroup's."""
        return min(self.memory_bytes, self.memory_limit_bytes or self.memory_bytes)


def read_host_info(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> HostInfo:
    """Return a description of this host. Missing files give the most careful answer and no error."""
    cpuinfo = _cpuinfo(root)
    logical = max(1, sum(1 for name, _ in cpuinfo if name == "processor") or (os.cpu_count() or 1))
    fields = dict(cpuinfo)
    cgroups = _cgroup_folders(root)
    return HostInfo(
        boot_id=_text(root / "proc/sys/kernel/random/boot_id"),
        hostname=socket.gethostname(),
        cpu_name=fields.get("model name") or fields.get("Model") or fields.get("Processor") or "unknown CPU",
        logical_cores=logical,
        physical_cores=_physical_cores(cpuinfo) or logical,
        allowed_cores=_allowed_cores(logical, cgroups),
        memory_bytes=_memory_bytes(root),
        memory_limit_bytes=_memory_limit(cgroups),
        container=_container(root, environ),
        virtual_machine="hypervisor" in fields.get("flags", "").split(),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _cpuinfo(root: Path) -> list[tuple[str, str]]:
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    return [(name.strip(), value.strip()) for name, colon, value in (line.partition(":") for line in lines) if colon]


def _physical_cores(cpuinfo: list[tuple[str, str]]) -> int:
    """Return the number of distinct (socket, core) pairs, or 0 where the kernel does not tell them, as on Arm."""
    cores: set[tuple[str, str]] = set()
    socket_id = "0"
    for name, value in cpuinfo:
        if name == "physical id":
            socket_id = value
        elif name == "core id":
            cores.add((socket_id, value))
    return len(cores)


def _memory_bytes(root: Path) -> int:
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    import psutil

    return int(psutil.virtual_memory().total)


def _cgroup_folders(root: Path) -> list[Path]:
    """Return the folders that may hold this process's limits, nearest first: cgroup v2, then the v1 controllers."""
    base = root / "sys/fs/cgroup"
    folders = []
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, own = (*line.split(":", 2), "", "")[:3]
        inside = own.lstrip("/")
        for controller in controllers.split(",") if controllers else [""]:
            folders += [base / controller / inside, base / controller]
    return [*folders, base]


def _allowed_cores(logical: int, cgroups: list[Path]) -> float:
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical)
    quotas = [quota for quota in map(_quota_cores, cgroups) if quota is not None]
    return min([float(logical), allowed, *quotas])


def _quota_cores(folder: Path) -> float | None:
    """Return the CPU quota of one cgroup in cores, or None without a limit. cgroup v2 keeps it in one file,
    v1 in two.
    """
    v1 = (_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))
    words = (_text(folder / "cpu.max") or "").split() or [word or "" for word in v1]
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return int(words[0]) / int(words[1])


def _memory_limit(cgroups: list[Path]) -> int | None:
    limits = [_text(folder / name) for folder in cgroups for name in ("memory.max", "memory.limit_in_bytes")]
    # cgroup v1 writes "no limit" as a number near 2**63.
    numbers = [int(limit) for limit in limits if limit and limit.isdigit() and int(limit) < 1 << 60]
    return min(numbers, default=None)


def _container(root: Path, environ: Mapping[str, str]) -> str | None:
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "kubernetes"
    for variable, runtime in (("APPTAINER_NAME", "apptainer"), ("SINGULARITY_NAME", "singularity")):
        if variable in environ:
            return runtime
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    cgroup = _text(root / "proc/self/cgroup") or ""
    return next((name for name in _CONTAINER_CGROUPS if name in cgroup), None)
