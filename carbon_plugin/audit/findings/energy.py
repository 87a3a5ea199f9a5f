"""Define the energy of a run: how much it is, how well it is known, and what of it was work done twice."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

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

    It is the sum of `windows` readings of one device in one window each. The carbon is None without factors.
    `estimated_j` is the part that is estimated for a device with a meter while the meter could not tell, such as a GPU
    that was lost. The rest that was not measured is modelled because there is no meter.
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

    @property
    def is_known(self) -> bool:
        """Return whether something of it was measured or modelled: without that its sum of 0 J says nothing."""
        return self.energy_j > 0 or self.meters.quality != "absent"

    @property
    def range(self) -> Range:
        """Return the energy with its range, J."""
        return Range(self.energy_j, self.low_j, self.high_j)


class BoundaryRung(Struct, frozen=True, kw_only=True):
    """One rung of the boundary, from the accelerators to the facility.

    It holds what the rung contains, how well it is covered, its energy, and by which meters or which model that is
    known. The energy is None where the rung is absent. That of the facility contains all others.
    """

    rung: Literal["gpu", "host", "network", "storage", "facility"]
    contains: str
    coverage: Quality
    energy_j: float | None
    how: str


class Waste(Struct, frozen=True, kw_only=True):
    """Work that was done twice. It is part of all totals.

    It consists of steps (and the evaluations and checkpoints between them) that were repeated because the run had got
    further than the checkpoint that was loaded, and of start-ups after the first.
    """

    redone_steps: int
    redone_energy_j: float
    redone_operational_kg: float | None
    restart_energy_j: float
    restart_operational_kg: float | None


class MonthEnergy(Struct, frozen=True, kw_only=True):
    """The energy of a run in one calendar month, UTC: of the machines, and of the facility with them, and the
    operational carbon, both None without factors. A window counts in the month in which it starts.

    `reserved_device_s` is the device time, s, that the run held in the month, recorded or not.
    """

    year: int
    month: int
    energy_j: float
    facility_j: float | None
    operational_kg: float | None
    reserved_device_s: float = 0.0
