"""Energy in cells of (device, phase), the smallest parts that every total of an audit is made of."""

from __future__ import annotations

from collections.abc import Iterable

from carbon_plugin.audit.exact import ExactSum, total
from carbon_plugin.audit.result import Energy, MeterQuality
from carbon_plugin.footprint.units import GRAMS_PER_KG, JOULES_PER_KWH
from carbon_plugin.ledger.records import DeviceEnergy

_QUALITY = {"counter": 0, "power_integrated": 0, "modelled": 1, "absent": 2}


class Cell:
    """Running sums of one device in one phase.

    `measured_j` is the part of the energy that was measured, `without_factors_j` the part for which intensity or PUE
    is unknown. `facility_j` is the sum of energy times PUE, `weighted_j_g_per_kwh` that times intensity.
    """

    __slots__ = (
        "energy_j",
        "facility_j",
        "high_j",
        "low_j",
        "measured_j",
        "seconds",
        "weighted_j_g_per_kwh",
        "windows",
        "without_factors_j",
    )

    def __init__(self) -> None:
        self.energy_j = ExactSum()
        self.measured_j = 0.0
        self.low_j = 0.0
        self.high_j = 0.0
        self.facility_j = 0.0
        self.weighted_j_g_per_kwh = 0.0
        self.without_factors_j = 0.0
        self.windows = 0
        self.seconds = [0.0, 0.0, 0.0]  # measured, modelled, absent

    def add(
        self, energy: DeviceEnergy, seconds: float, share: float, intensity_g_per_kwh: float | None, pue: float | None
    ) -> float:
        """Add the share of a window's energy that counts; the energy added, J."""
        self.seconds[_QUALITY[energy.kind]] += seconds * share
        self.windows += 1
        if energy.energy_j is None:
            return 0.0
        counted_j = energy.energy_j * share
        self.energy_j.add(counted_j)
        if _QUALITY[energy.kind] == 0:
            self.measured_j += counted_j
        self.low_j += counted_j if energy.low_j is None else min(counted_j, energy.low_j * share)
        self.high_j += counted_j if energy.high_j is None else max(counted_j, energy.high_j * share)
        if intensity_g_per_kwh is None or pue is None:
            self.without_factors_j += counted_j
        else:
            self.facility_j += counted_j * pue
            self.weighted_j_g_per_kwh += counted_j * pue * intensity_g_per_kwh
        return counted_j


def energy_of(cells: Iterable[Cell]) -> Energy:
    """The energy of some cells together. Its central value is the correctly rounded sum of all their windows."""
    cells = list(cells)
    energy_j = total(cell.energy_j for cell in cells)
    measured, modelled, absent = (sum(cell.seconds[index] for cell in cells) for index in range(3))
    device_s = measured + modelled + absent
    unknown = any(cell.without_factors_j for cell in cells)
    weighted = sum(cell.weighted_j_g_per_kwh for cell in cells)
    return Energy(
        energy_j=energy_j,
        measured_j=min(energy_j, sum(cell.measured_j for cell in cells)),
        low_j=min(energy_j, sum(cell.low_j for cell in cells)),
        high_j=max(energy_j, sum(cell.high_j for cell in cells)),
        device_s=device_s,
        meters=MeterQuality(
            measured=measured / device_s if device_s else 0.0,
            modelled=modelled / device_s if device_s else 0.0,
            absent=absent / device_s if device_s else 0.0,
        ),
        operational_kg=None if unknown else weighted / (JOULES_PER_KWH * GRAMS_PER_KG),
        windows=sum(cell.windows for cell in cells),
    )
