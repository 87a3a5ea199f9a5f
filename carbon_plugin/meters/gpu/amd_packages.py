"""Group the devices that ROCm computes on into packages, because a package has one energy counter.

The two dies of an MI250X, and the compute partitions of an MI300X, are separate devices to ROCm.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

_TWO_DIES = "MI250"
"""The MI250 and MI250X have two dies in a package, each of them a device of ROCm."""


class RocmDevice(Struct, frozen=True, kw_only=True):
    """One device that ROCm can compute on: a GPU, a die or a partition.

    `measures` says whether its own counter or power answers with more than 0.
    """

    handle: Any
    index: int
    uuid: str
    name: str
    address: str
    measures: bool


def in_packages(devices: list[RocmDevice]) -> list[list[RocmDevice]]:
    """Return the devices of each package, every device with a UUID of its own."""
    return _grouped(_with_own_uuids(devices))


def has_two_dies(device: RocmDevice) -> bool:
    """Return whether the device is of a package with two dies."""
    return _TWO_DIES in device.name


def _with_own_uuids(devices: list[RocmDevice]) -> list[RocmDevice]:
    """Return the devices, with a number added to a UUID that several partitions of a GPU share."""
    seen: dict[str, int] = {}
    own = []
    shared = [device.uuid for device in devices]
    for device in devices:
        number = seen[device.uuid] = seen.get(device.uuid, -1) + 1
        several = shared.count(device.uuid) > 1
        own.append(replace(device, uuid=f"{device.uuid}-{number}") if several else device)
    return own


def _grouped(devices: list[RocmDevice]) -> list[list[RocmDevice]]:
    """Return the devices of each package.

    Partitions are functions of one PCI device. The two dies of an MI250X have PCI devices of their own; the second
    follows the first and has neither counter nor power, because the management unit of the first tells them for both
    (rocm_smi.py of ROCm, checkIfSecondaryDie).
    """
    in_order = sorted(devices, key=lambda device: device.address)
    packages: list[list[RocmDevice]] = []
    for _, group in groupby(in_order, key=lambda device: device.address.rpartition(".")[0]):
        own = list(group)
        first = packages[-1][0] if packages and len(packages[-1]) == 1 else None
        silent_die = len(own) == 1 and has_two_dies(own[0]) and not own[0].measures
        if silent_die and first is not None and first.name == own[0].name and first.measures:
            packages[-1] += own
        else:
            packages.append(own)
    return packages
