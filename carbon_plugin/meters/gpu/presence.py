"""Whether this machine or this job has GPUs, seen without any driver: for GPUs that nothing can meter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.meters.gpu.nvml import HANGS
from carbon_plugin.meters.gpu.nvml_driver import Inventory
from carbon_plugin.meters.gpu.selection import DeviceSelection
from carbon_plugin.meters.protocol import Unavailable, UnreadGpus

_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")
"""PCI classes of a VGA and of a 3D controller; the audio part of a card has another one."""

_OF_A_DRIVER = (HANGS, "nvml_version_mismatch", "nvml_permission")
"""Problems that only a driver can cause that is there; a library or a kernel module that is missing shows nothing."""

UNANSWERED = "nvml_gpu_unanswered"
"""Kind of the problem of GPUs that the driver counts and that do not answer it, or that are named and not counted."""


def shows_driver(problem: Unavailable, environ: Mapping[str, str]) -> bool:
    """Whether `problem` shows that a driver is there, so that there may be GPUs although nothing tells how many. A job
    to which a variable gives no GPUs has none."""
    return problem.kind in _OF_A_DRIVER and _given(environ) is None


def unanswered_gpus(inventory: Inventory, chosen: DeviceSelection, environ: Mapping[str, str]) -> UnreadGpus | None:
    """The job's GPUs that do not answer the driver, or that are named and that it does not even count; None where all
    answer."""
    counted = len(inventory.gpus) + len(inventory.problems)
    count, evidence = len(inventory.problems), f"the driver counts {counted}, and {len(inventory.gpus)} answer"
    given = _given(environ)
    if chosen.missing:
        count, evidence = len(chosen.missing), f"{chosen.reason}; {evidence}"
    elif chosen.source == "explicit" or not inventory.problems:
        return None
    elif given is not None:
        name, words = given
        count = min(len(words), counted) - len(chosen.uuids) - chosen.hidden
        evidence = f"{name} lists {len(words)}; {evidence}"
    sentences = [sentence for _, sentence in inventory.problems[:1]]
    uncounted = chosen.missing[len(inventory.problems) :]
    if uncounted:
        sentences.append(f"the driver counts no GPU with the name {' or '.join(uncounted)}")
    denied = not uncounted and all(code != "lost" for code, _ in inventory.problems)
    problem = Unavailable(
        kind=UNANSWERED,
        reason="; ".join(sentences),
        advice="see whether nvidia-smi can read it as this user"
        if denied
        else "nvidia-smi and the kernel log say more; a GPU that is lost needs a reset or a reboot",
    )
    return _unread(problem, max(0, count), evidence)


def unread_gpus(
    problem: Unavailable, environ: Mapping[str, str], *, container: bool, root: Path = Path("/")
) -> UnreadGpus | None:
    """The GPUs that `problem` keeps from being metered; None where nothing shows any.

    What was given to the job comes first: a variable of the scheduler or of CUDA, then the device files. The PCI bus is
    asked last and not in a container, which sees the bus of its host whether or not it was given the GPUs.
    """
    given = _given(environ)
    if given is not None:
        name, words = given
        return _unread(problem, len(words), f"{name} lists {len(words)}")
    files = [path.name for path in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    if files:
        return _unread(problem, len(files), f"there are {len(files)} device files /dev/nvidiaN")
    cards = 0 if container else sum(map(_is_gpu, (root / "sys/bus/pci/devices").glob("*")))
    return _unread(problem, cards, f"the PCI bus lists {cards} from NVIDIA", usable=False)


def _unread(problem: Unavailable, count: int, evidence: str, *, usable: bool = True) -> UnreadGpus | None:
    return UnreadGpus(count=count, evidence=evidence, problem=problem, usable=usable) if count else None


def _given(environ: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """The variable that tells which GPUs the job was given, and its items; None where none does."""
    for name in _VARIABLES:
        words = _listed(environ.get(name))
        if words is not None:
            return name, words
    return None


def _listed(value: str | None) -> list[str] | None:
    """The items of a list of GPUs; None where the variable does not tell which they are."""
    if value is None or value.strip() == "all":
        return None
    words = [word.strip() for word in value.split(",")]
    return [] if words[0] in ("", "-1", "void", "none", "NoDevFiles") else words


def _is_gpu(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
    except OSError:
        return False
    return vendor == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASSES)
