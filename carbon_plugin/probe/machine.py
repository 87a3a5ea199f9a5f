"""Describe this machine: CPU, memory, disk, device, and the power limits that firmware and driver state.

Torch is imported when the functions are called, and not when this module is imported.
"""

from __future__ import annotations

import datetime
import logging
import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from carbon_plugin.probe.result import Machine

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

POWERCAP = Path("/sys/class/powercap")


def describe_machine(device: torch.device, *, ranks: int, backend: str | None) -> Machine:
    """Return this machine as `device` of this process sees it. `ranks` processes measure over `backend`."""
    import torch

    dram = float(psutil.virtual_memory().total)
    gpu = device.type == "cuda"
    cpu = cpu_name()
    return Machine(
        kind="gpu" if gpu else "cpu",
        device=torch.cuda.get_device_name(device) if gpu else cpu,
        device_memory_bytes=float(torch.cuda.get_device_properties(device).total_memory) if gpu else dram,
        devices=torch.cuda.device_count() if gpu else ranks,
        cpu=cpu,
        cpu_architecture=platform.machine(),
        sockets=cpu_sockets(),
        cores=cpu_cores(),
        cpu_power_limit_w=cpu_power_limit_w(),
        gpu_power_limit_w=_gpu_power_limit_w(device) if gpu else None,
        dram_bytes=dram,
        disk_bytes=float(shutil.disk_usage("/").total),
        torch_version=str(torch.__version__),
        threads=torch.get_num_threads(),
        ranks=ranks,
        backend=backend,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the brand string of the CPU, or its architecture where the kernel does not state one."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in names if name), f"{platform.machine()} CPU")


def cpu_cores() -> int:
    """Return the number of physical cores that this process may use.

    Affinity is counted in hardware threads, and the result is at most the number of all cores.
    """
    usable = len(os.sched_getaffinity(0))
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def cpu_sockets(root: Path = Path("/sys/devices/system/cpu")) -> int:
    """Return the number of CPU packages, at least 1."""
    packages = {path.read_text().strip() for path in root.glob("cpu[0-9]*/topology/physical_package_id")}
    return max(1, len(packages))


def cpu_power_limit_w(root: Path = POWERCAP) -> float | None:
    """Return the long-term power limit of all packages together in W, or None where the firmware states none."""
    limits = []
    for name in sorted(root.glob("intel-rapl:*/name")):
        limit = name.with_name("constraint_0_power_limit_uw")
        if name.read_text().strip().startswith("package-") and limit.is_file():
            try:
                limits.append(float(limit.read_text()) / 1e6)
            except (OSError, ValueError) as error:
                log.debug("no power limit in %s: %s", limit, error)
    return sum(limits) or None


def _gpu_power_limit_w(device: torch.device) -> float | None:
    """Return the default power limit of the device in W, or None where NVML is missing or does not state one."""
    import pynvml  # type: ignore[import-untyped]
    import torch

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)) / 1e3
    except pynvml.NVMLError as error:
        log.debug("no power limit of %s: %s", device, error)
        return None
