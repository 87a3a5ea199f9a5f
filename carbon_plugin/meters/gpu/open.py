"""Open the GPUs of a job of all vendors together and read them as one meter.

Without any driver this is a meter without devices, so that nobody has to ask whether there is one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.meters.gpu.driver import Gpu, GpuVendor, Inventory
from carbon_plugin.meters.gpu.meter import SLOW_CALL_S, GpuMeter, open_vendor_meter
from carbon_plugin.meters.gpu.selection import DeviceSelection, select_devices
from carbon_plugin.meters.gpu.session import (
    DriverSession,
    answers_late,
    end_session,
    open_late_session,
    open_sessions,
)
from carbon_plugin.meters.protocol import Note, Reading, Unavailable
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.numbers.amounts import plural, verb
from carbon_plugin.spec.numbers.range import Range


class GpuMeters:
    """The meter reads the GPUs of a job of all vendors. Make it with `open_gpu_meters`.

    `meters` are those of the vendors whose driver answers; `problems` say why the others do not. `shown` is what all
    drivers list, or the first problem where none answers. `selection` says which GPUs are the job's.
    """

    def __init__(
        self,
        meters: Sequence[GpuMeter],
        problems: Sequence[tuple[GpuVendor, Unavailable]],
        selection: DeviceSelection,
        reopen: Callable[[Sequence[DriverSession], Sequence[Gpu]], tuple[DeviceSelection, list[GpuMeter]]],
    ) -> None:
        self.meters = list(meters)
        self.problems = [problem for _, problem in problems]
        self.selection = selection
        self._silent = [vendor for vendor, problem in problems if problem.kind == vendor.hangs]
        self._reopen = reopen
        self.notes = [*_selection_notes(selection, self.devices), *_meter_notes(self.meters)] if self.meters else []

    @property
    def answers(self) -> bool:
        """Return whether the driver of any vendor answers."""
        return bool(self.meters)

    @property
    def shown(self) -> Inventory | Unavailable:
        """Return what the drivers list together, or the first problem where none answers."""
        return merged([meter.inventory for meter in self.meters]) if self.meters else self.problems[0]

    @property
    def inventory(self) -> Inventory:
        """Return what the drivers list together, which is nothing where none answers."""
        return merged([meter.inventory for meter in self.meters])

    @property
    def devices(self) -> list[DeviceIdentity]:
        """Return all metered devices, vendor by vendor."""
        return [device for meter in self.meters for device in meter.devices]

    @property
    def bounds(self) -> dict[str, Bounds]:
        """Return what each device can draw, by its key."""
        return {key: bound for meter in self.meters for key, bound in meter.bounds.items()}

    @property
    def gpu_equivalents(self) -> float:
        """Return how many GPUs are metered, where a part of a GPU counts as its share of it."""
        return sum(meter.gpu_equivalents for meter in self.meters)

    @property
    def whole(self) -> list[Reading]:
        """Return the readings of whole GPUs from which the last `read` was made."""
        return [reading for meter in self.meters for reading in meter.whole]

    @property
    def poll_interval_s(self) -> float | None:
        """Return the longest interval between two reads in seconds, or None if any cadence is right."""
        return min((m.poll_interval_s for m in self.meters if m.poll_interval_s is not None), default=None)

    def read(self) -> list[Reading]:
        """Return one reading a device, in the order of `devices`. The list is empty after `close` and in a forked
        child.
        """
        return [reading for meter in self.meters for reading in meter.read()]

    def estimate(self, key: str) -> Range | None:
        """Return the power of a device, with its range, in a time before its first reading, W; None if nothing tells
        it.
        """
        return next((watts for meter in self.meters if (watts := meter.estimate(key)) is not None), None)

    def contexts(self) -> dict[str, GpuContext]:
        """Return what limits each device now, by its key. A device that does not answer is left out."""
        return {key: context for meter in self.meters for key, context in meter.contexts().items()}

    def take_late(self) -> list[GpuMeter]:
        """Meter the GPUs of drivers that have answered since they were opened, and return their meters."""
        taken: list[GpuMeter] = []
        for vendor in [vendor for vendor in self._silent if answers_late(vendor)]:
            self._silent.remove(vendor)
            session = open_late_session(vendor)
            if isinstance(session, DriverSession):
                self.selection, meters = self._reopen([session], self.inventory.gpus)
                self.problems = [problem for problem in self.problems if problem.kind != vendor.hangs]
                taken += meters
                self.meters += meters
        if taken:
            self.notes = [*_selection_notes(self.selection, self.devices), *_meter_notes(taken)]
        return taken

    def close(self) -> None:
        """Release all drivers. Safe to call twice."""
        for meter in self.meters:
            meter.close()


def open_gpu_meters(
    selection: DeviceSelection | None = None,
    *,
    reserved: Sequence[str | int] | None = None,
    accelerator: Accelerator | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.monotonic,
    slow_call_s: float = SLOW_CALL_S,
) -> GpuMeters:
    """Open meters on the job's GPUs of all vendors. Never raises for a driver that fails, see `GpuMeters.problems`.

    `selection` fixes the GPUs; without it `reserved` (UUIDs, prefixes, indices) or the environment decides, see
    `selection.select_devices`. A GPU that is reserved and does not answer is no device of the meter; it is in
    `selection.missing`. `accelerator` is the profile with which matching GPUs are marked.
    """

    def meters_of(sessions: Sequence[DriverSession], others: Sequence[Gpu]) -> tuple[DeviceSelection, list[GpuMeter]]:
        listed = merged([session.inventory for session in sessions])
        chosen = selection or select_devices([*others, *listed.gpus], environ, reserved, len(listed.problems))
        return chosen, [
            open_vendor_meter(session, chosen.uuids, accelerator=accelerator, clock=clock, slow_call_s=slow_call_s)
            for session in sessions
        ]

    sessions, problems = open_sessions()
    chosen, meters = meters_of(sessions, ())
    return GpuMeters(meters, problems, chosen, meters_of)


def list_gpus() -> Inventory | Unavailable:
    """Return what the drivers list without metering anything, for mapping ranks to GPUs and for `doctor`."""
    sessions, problems = open_sessions()
    for session in sessions:
        end_session(session)
    return merged([session.inventory for session in sessions]) if sessions else problems[0][1]


def merged(inventories: Sequence[Inventory]) -> Inventory:
    """Return several inventories as one."""
    return Inventory(
        driver_version=", ".join(one.driver_version for one in inventories),
        gpus=tuple(gpu for one in inventories for gpu in one.gpus),
        problems=tuple(problem for one in inventories for problem in one.problems),
    )


def _selection_notes(chosen: DeviceSelection, devices: Sequence[DeviceIdentity]) -> list[Note]:
    count = len(devices)
    sentence = f"{plural(count, 'GPU')} {verb(count, 'is', 'are')} taken as reserved: {chosen.reason}"
    return [Note("gpu_selection", sentence), *(Note("assumption", told) for told in chosen.assumptions)]


def _meter_notes(meters: Sequence[GpuMeter]) -> list[Note]:
    notes: list[Note] = []
    for meter in meters:
        notes += [Note(f"{meter.vendor.code}_problem", message) for _, message in meter.inventory.problems]
        notes += meter.notes
    return notes
