"""Count what the GPUs have used since this process began, until it is clear which process of the host meters which GPU.

Two readings of a counter tell what was used between them, so nothing is lost by waiting. Nothing is recorded here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec.structs import replace

from carbon_plugin.meters.gpu.driver import Inventory
from carbon_plugin.meters.gpu.open import GpuMeters, open_gpu_meters
from carbon_plugin.meters.gpu.selection import DeviceSelection
from carbon_plugin.meters.protocol import Reading, Unavailable
from carbon_plugin.monitor.clock import TrainingClock, last_mark
from carbon_plugin.spec.numbers.range import ZERO, Range


class Baseline:
    """Holds the first readings of every GPU that the driver shows. They count from `start_s` on, the moment of the
    first of them by the host's monotonic clock.

    `mark` is the last step boundary before `start_s`: a driver may take seconds to answer, and steps go on meanwhile.
    `since_s` is the moment at which the training, and so the record, began.
    """

    def __init__(self, clock: TrainingClock) -> None:
        self.since_s = clock.start.monotonic_s
        marks = [clock.start, clock.mark]
        self._meter = _open()
        marks.append(clock.mark)
        self.shown: Inventory | Unavailable = self._meter.shown
        """What the drivers show to this process, or the reason why they show nothing."""
        self._first = {reading.key: reading for reading in self._meter.read()}
        self.start_s = min((reading.monotonic_s for reading in self._first.values()), default=time.monotonic())
        self.mark = last_mark(self.start_s, [*marks, clock.mark])

    def poll(self) -> None:
        """Read the GPUs without a counter, because their power must be read often."""
        if self._meter.poll_interval_s is not None:
            self._meter.read()

    def from_start(self, readings: Sequence[Reading]) -> list[Reading]:
        """Return the first readings of other meters as they would be if those meters had been opened with the first
        readings made here.

        A modelled device is assumed to have drawn its present power since the start. A process may be held up between
        those readings and the ones made here, and what was used meanwhile is after the start by both. It may also be
        held up between the first readings of two GPUs, each of which keeps the moment of its own.
        """
        now = {reading.key: reading for reading in self._meter.read()}
        return [self._from_start(reading, now.get(reading.key)) for reading in readings]

    def close(self) -> None:
        """Release the driver."""
        self._meter.close()

    def _from_start(self, reading: Reading, now: Reading | None) -> Reading:
        first, energy = self._first.get(reading.key), reading.energy
        began_s = self.start_s if first is None else first.monotonic_s
        if energy is None:
            return replace(reading, monotonic_s=began_s)
        if now is None or first is None:
            used_j = (reading.power_w or 0.0) * max(0.0, reading.monotonic_s - began_s)
            used = energy.scaled(used_j / energy.value) if energy.value > 0 else Range.exactly(used_j)
        else:
            used = (now.energy or ZERO).since(first.energy or ZERO).less(0.0)
            lasted_s = now.monotonic_s - first.monotonic_s
            used = used.scaled(min(1.0, (reading.monotonic_s - first.monotonic_s) / lasted_s) if lasted_s > 0 else 1.0)
        estimated = min(1.0, reading.estimated_j / energy.value) if energy.value > 0 else 0.0
        moved = reading.moved(began_s, energy.since(used), reading.estimated_j - used.value * estimated)
        return moved if first is None else replace(moved, late_s=max(moved.late_s, first.late_s))


def _open() -> GpuMeters:
    """Return a meter of everything that the drivers show: whole GPUs, and the slices of GPUs that are divided into
    slices."""
    meter = open_gpu_meters(environ={})
    if not any(gpu.slices for gpu in meter.inventory.gpus):
        return meter
    uuids = [part.uuid for gpu in meter.inventory.gpus for part in gpu.slices]
    uuids += [gpu.uuid for gpu in meter.inventory.gpus if not gpu.slices]
    meter.close()
    selection = DeviceSelection(uuids=tuple(uuids), source="explicit", reason="until it is clear who meters what")
    return open_gpu_meters(selection)
