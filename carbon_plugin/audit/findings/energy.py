"""Define the energy of a run: its amount, how it is known, and the part that was spent on work done twice."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range

Quality = Literal["measured", "modelled", "mixed", "absent"]


class MeterQuality(Struct, frozen=True, kw_only=True):
    """One instance says how an energy is known, as shares of device time. They add up to 1, or are all 0 without any
    time.
    """

    measured: float
    modelled: float
    absent: float

    @property
    def quality(self) -> Quality:
        """Return the shares in one word."""
        if self.measured > 0:
            return "measured" if self.modelled == 0 and self.absent == 0 else "mixed"
        return "modelled" if self.modelled > 0 else "absent"


class Energy(Struct, frozen=True, kw_only=True):
    """An energy with its range, its measured part, the quality of its meters over time, and the operational carbon that
    it caused.

    It is the sum of `windows` values, each of one device in one window. The carbon is None without factors.
    `estimated_j` is the part that is estimated because the meter of a device failed, for instance when a GPU was lost.
    Any other part that was not measured is modelled, because there is no meter.
    The range of several devices together is sampled, with independent errors of their meters. The range of one device,
    and every range of a run without a footprint, is the sum of the ranges that the meter states.
    """

    energy_j: float
    measured_j: float
    low_j: float
    high_j: float
    device_s: float
    meters: MeterQuality
    operational_kg: float | None
    windows: int = 0
    estimated_j: float = 0.0

    def sampled_as(self, whole: Figure | None) -> Energy:
        """Return the energy with the relative range of a sampled energy of which it is all or a part, such as a phase.

        Without that it keeps the sum of the ranges of its meters, as if all their errors were the same.
        """
        if whole is None or not whole.value:
            return self
        span = whole.range.scaled(self.energy_j / whole.value)
        return replace(self, low_j=span.low, high_j=span.high)

    @property
    def is_known(self) -> bool:
        """Return whether any of the energy was measured or modelled. Where none was, the sum of 0 J means nothing."""
        return self.energy_j > 0 or self.meters.quality != "absent"

    @property
    def range(self) -> Range:
        """Return the energy with its range, J."""
        return Range(self.energy_j, self.low_j, self.high_j)


class BoundaryRung(Struct, frozen=True, kw_only=True):
    """One rung of the boundary, from the accelerators to the facility.

    It says what the rung contains, how much of it is covered, its energy, and the meters or the model that tell it. The
    energy is None where the rung is absent. The energy of the facility contains all others.
    """

    rung: Literal["gpu", "host", "network", "storage", "facility"]
    contains: str
    coverage: Quality
    energy_j: float | None
    how: str


class Waste(Struct, frozen=True, kw_only=True):
    """The work that was done twice. It is part of all totals.

    It consists of start-ups after the first, and of repeated steps with the evaluations and checkpoints between them.
    Steps are repeated when a run had got further than the checkpoint that it then loads.
    """

    redone_steps: int
    redone_energy_j: float
    redone_operational_kg: float | None
    restart_energy_j: float
    restart_operational_kg: float | None


class MonthEnergy(Struct, frozen=True, kw_only=True):
    """The energy of a run in one calendar month (UTC): of the machines, and with the facility. The latter and the
    operational carbon are None without factors. A window counts in the month in which it starts.

    `reserved_device_s` is the device time, s, that the run held in the month, recorded or not.
    """

    year: int
    month: int
    energy_j: float
    facility_j: float | None
    operational_kg: float | None
    reserved_device_s: float = 0.0
