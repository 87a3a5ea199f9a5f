"""Meter modelled devices: integrate the power of an equation over time, with its range, and label it "modelled"."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.host.cpu_load import CpuLoad
from carbon_plugin.meters.host.modelled import cpu_power
from carbon_plugin.meters.protocol import PowerSource, Reading
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.numbers.range import ZERO, Range

ANY_NODE = Bounds(ceiling_w=100e3, limit_w=None, source="the most of any node")


class ModelledPart(Struct, frozen=True):
    """One part is a device without a meter, with its power. An `estimate` replaces a measurement that
    should be there.
    """

    identity: DeviceIdentity
    power: PowerSource
    estimate: bool = False


class ModelMeter:
    """The meter integrates the power of its parts between reads. Nothing in it can fail, so it has no faults."""

    def __init__(self, parts: Sequence[ModelledPart], clock: Callable[[], float] = time.monotonic) -> None:
        self.devices = [part.identity for part in parts]
        self.bounds = {part.identity.key: ANY_NODE for part in parts}
        self.poll_interval_s: float | None = None
        self._pid = os.getpid()
        self._parts = list(parts)
        self._clock = clock
        self._last_s = clock()
        self._energies = [ZERO] * len(parts)
        self._closed = False

    def read(self) -> list[Reading]:
        """Return one reading a part. The list is empty after `close` and in a forked child."""
        if self._closed or os.getpid() != self._pid:
            return []
        now_s = self._clock()
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        readings = []
        for position, part in enumerate(self._parts):
            power = part.power(elapsed_s)
            joules = self._energies[position].plus(power.scaled(elapsed_s))
            self._energies[position] = joules
            readings.append(
                Reading(
                    key=part.identity.key,
                    monotonic_s=now_s,
                    energy=joules,
                    kind="modelled",
                    power_w=power.value,
                    estimated_j=joules.value if part.estimate else 0.0,
                )
            )
        return readings

    def close(self) -> None:
        """Stop reading. Safe to call twice."""
        self._closed = True


def constant(power: Range) -> PowerSource:
    """Return a source of the same power at all times."""
    return lambda _elapsed_s: power


class CpuPower:
    """One instance gives CPU power by TDP and utilisation (`host.modelled.cpu_power`), from a load's busy time."""

    def __init__(self, load: CpuLoad, tdp: Range, logical_cores: int, reserved_share: float) -> None:
        self._load = load
        self._tdp = tdp
        self._logical_cores = logical_cores
        self._reserved_share = reserved_share
        self._busy_s = load.busy_s()

    def __call__(self, elapsed_s: float) -> Range:
        """Return the mean power of the stretch that took `elapsed_s` seconds."""
        busy_s = self._load.busy_s()
        spent_s, self._busy_s = busy_s - self._busy_s, busy_s
        utilisation = spent_s / (elapsed_s * self._logical_cores) if elapsed_s > 0 else 0.0
        return cpu_power(self._tdp, utilisation, self._reserved_share)


class GpuDraw:
    """One instance holds the energy of the GPUs between two reads, from which follows what a host draws on their
    behalf.

    A GPU that cannot be read counts with `assumed_w` if that is known; when it answers again, only what exceeds the
    assumed energy is added. GPUs that other processes meter on the same host draw what these do, each: all of them
    together have `times` the energy of these.
    """

    def __init__(self, unmetered: int, assumed_w: float | None, times: float = 1.0) -> None:
        self._times = times
        self._unmetered = unmetered
        self._assumed_w = assumed_w or 0.0
        self._last: dict[str, Reading] = {}
        self._assumed_j: dict[str, float] = {}
        self._since_j = ZERO

    def observe(self, readings: Sequence[Reading]) -> None:
        """Add one round of readings of the metered GPUs."""
        for reading in readings:
            last, self._last[reading.key] = self._last.get(reading.key), reading
            if last is not None:
                self._since_j = self._since_j.plus(self._stretch(last, reading))

    def all_metered(self) -> None:
        """Note that from now on every GPU is among the readings."""
        self._unmetered = 0

    def power_since(self, elapsed_s: float) -> Range:
        """Return the mean power of all GPUs since the last call, which was `elapsed_s` seconds ago."""
        if elapsed_s <= 0:
            return ZERO
        joules, self._since_j = self._since_j, ZERO
        assumed_w = self._unmetered * self._assumed_w
        return joules.scaled(self._times / elapsed_s).plus(Range.exactly(assumed_w))

    def _stretch(self, last: Reading, now: Reading) -> Range:
        if now.kind == "absent":
            joules = self._assumed_w * (now.monotonic_s - last.monotonic_s)
            self._assumed_j[now.key] = self._assumed_j.get(now.key, 0.0) + joules
            return Range.exactly(joules)
        assumed_j = self._assumed_j.pop(now.key, 0.0)
        return (now.energy or ZERO).since(last.energy or ZERO).less(assumed_j)


def summed(powers: Sequence[PowerSource]) -> PowerSource:
    """Return a source of the sum of several powers whose errors go together."""

    def power(elapsed_s: float) -> Range:
        return Range.total(one(elapsed_s) for one in powers)

    return power


def with_overhead(base: Range, fractions: Range, draw: GpuDraw) -> PowerSource:
    """Return a source of P = base + overhead fraction * P_gpu, which is a node's power beyond its accelerators."""

    def power(elapsed_s: float) -> Range:
        return base.plus(fractions.times(draw.power_since(elapsed_s)))

    return power
