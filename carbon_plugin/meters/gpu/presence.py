"""Find out without a driver whether this machine or this job has GPUs, to report GPUs that nothing can meter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.meters.gpu.driver import GpuVendor, Inventory
from carbon_plugin.meters.gpu.selection import DeviceSelection
from carbon_plugin.meters.gpu.vendors import vendor_of
from carbon_plugin.meters.protocol import Unavailable, UnreadGpus

_SLURM_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")

_ONLY_BY_A_DRIVER = ("hangs", "version_mismatch", "permission")
"""The problems that only a driver that is there can cause; a missing library or kernel module does not show a
driver.
"""

UNANSWERED = "nvml_gpu_unanswered"
"""The kind of the problem of GPUs that the driver counts and that do not answer it, or that are named and
not counted.
"""


def shows_driver(problem: Unavailable, environ: Mapping[str, str]) -> bool:
    """Return whether `problem` shows that a driver is present, so that there may be GPUs although nothing tells how
    many.

    A job to which a variable gives no GPUs has none.
    """
    vendor = vendor_of(problem.kind)
    of_a_driver = problem.kind in {f"{vendor.code}_{kind}" for kind in _ONLY_BY_A_DRIVER}
    return of_a_driver and _given(environ, vendor) is None


def unanswered_gpus(inventory: Inventory, chosen: DeviceSelection, environ: Mapping[str, str]) -> UnreadGpus | None:
    """Return the job's GPUs that do not answer the driver, or that are named and that it does not count, else None."""
    counted = len(inventory.gpus) + len(inventory.problems)
    count, evidence = len(inventory.problems), f"the driver counts {counted}, and {len(inventory.gpus)} answer"
    given = _given(environ, _vendor_of_all(inventory))
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
    look_with = _vendor_of_all(inventory).look_with
    problem = Unavailable(
        kind=UNANSWERED,
        reason="; ".join(sentences),
        advice=f"see whether {look_with} can read it as this user"
        if denied
        else f"{look_with} and the kernel log say more; a GPU that is lost needs a reset or a reboot",
    )
    return _unread(problem, max(0, count), evidence)


def unread_gpus(
    problem: Unavailable, environ: Mapping[str, str], *, container: bool, root: Path = Path("/")
) -> UnreadGpus | None:
    """Return the GPUs that `problem` keeps from being metered, or None where nothing shows any.

    What was given to the job is looked at first: a variable of the scheduler or of CUDA, then the device files. The PCI
    bus is looked at last and not in a container, which sees the bus of its host whether or not it was given the GPUs.
    """
    vendor = vendor_of(problem.kind)
    given = _given(environ, vendor)
    if given is not None:
        name, words = given
        return _unread(problem, len(words), f"{name} lists {len(words)}")
    files = _device_files(vendor, root)
    if files:
        return _unread(problem, files, f"there are {files} device files {vendor.device_file_name}")
    cards = 0 if container else _cards(vendor, root)
    return _unread(problem, cards, f"the PCI bus lists {cards} from {vendor.maker}", usable=False)


def shows_gpus(vendor: GpuVendor, root: Path) -> bool:
    """Return whether device files or the PCI bus show GPUs of a vendor."""
    return _device_files(vendor, root) > 0 or _cards(vendor, root) > 0


def _device_files(vendor: GpuVendor, root: Path) -> int:
    """Return how many GPUs of the vendor have a device file."""
    pattern = re.compile(vendor.device_files)
    return sum(bool(pattern.fullmatch(path.name)) for path in (root / "dev").glob("*")) if vendor.device_files else 0


def _cards(vendor: GpuVendor, root: Path) -> int:
    return sum(_is_gpu(path, vendor) for path in (root / "sys/bus/pci/devices").glob("*"))


def _vendor_of_all(inventory: Inventory) -> GpuVendor:
    """Return the vendor of the GPUs that answer, or the first in the list of vendors where there are none."""
    return vendor_of(inventory.gpus[0].vendor if inventory.gpus else "")


def _unread(problem: Unavailable, count: int, evidence: str, *, usable: bool = True) -> UnreadGpus | None:
    return UnreadGpus(count=count, evidence=evidence, problem=problem, usable=usable) if count else None


def _given(environ: Mapping[str, str], vendor: GpuVendor) -> tuple[str, list[str]] | None:
    """Return the variable that tells which GPUs the job was given, with its items, or None where no variable does."""
    selecting = [name for names in reversed(vendor.visible_devices) for name in names]
    for name in (*_SLURM_VARIABLES, *selecting, *vendor.container_variables):
        words = _listed(environ.get(name))
        if words is not None:
            return name, words
    return None


def _listed(value: str | None) -> list[str] | None:
    """Return the items of a list of GPUs, or None where the variable does not tell which they are."""
    if value is None or value.strip() == "all":
        return None
    words = [word.strip() for word in value.split(",")]
    return [] if words[0] in ("", "-1", "void", "none", "NoDevFiles") else words


def _is_gpu(device: Path, vendor: GpuVendor) -> bool:
    try:
        maker, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
    except OSError:
        return False
    return maker == vendor.pci_vendor and kind.startswith(vendor.pci_classes)
