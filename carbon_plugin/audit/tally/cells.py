"""Energy in cells of (device, phase), the smallest parts that every total of an audit is made of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from carbon_plugin.audit.result import Energy, MeterQuality
from carbon_plugin.audit.tally.blocks import Rows
from carbon_plugin.audit.tally.exact import ROUNDING, ExactSum, total
from carbon_plugin.footprint.units import GRAMS_PER_KG, JOULES_PER_KWH

_QUALITY = {"counter": 0, "power_integrated": 0, "modelled": 1, "absent": 2}


class Cell:
    """Running sums of one device in one phase.

    The energy is that of `told_j`, windows that a meter told or that say which part of them is an estimate, and of
    `modelled_j`. `estimated_j` is the estimated part, so that `told_j` less it was measured. `without_factors_j` is the
    part of the energy for which intensity or PUE is unknown.
    `facility_j` is the sum of energy times PUE, `weighted_j_g_per_kwh` that times intensity.
    """

    __slots__ = (
        "estimated_j",
        "facility_j",
        "high_j",
        "low_j",
        "modelled_j",
        "seconds",
        "told_j",
        "weighted_j_g_per_kwh",
        "windows",
        "without_factors_j",
    )

    def __init__(self) -> None:
        self.told_j = ExactSum()
        self.modelled_j = ExactSum()
        self.estimated_j = ExactSum()
        self.low_j = 0.0
        self.high_j = 0.0
        self.facility_j = 0.0
        self.weighted_j_g_per_kwh = 0.0
        self.without_factors_j = 0.0
        self.windows = 0
        self.seconds = [0.0, 0.0, 0.0]  # measured, modelled, absent

    def add(self, rows: Rows) -> None:
        """Add some windows of the device."""
        quality = _QUALITY[rows.kind]
        if not quality:
            self.told_j.add(rows.energy_j.tolist())
            if rows.estimated_j.any():  # a measurement that replaces what was estimated before
                self.estimated_j.add(rows.estimated_j.tolist())
        elif rows.estimated_j.any():
            # What of a modelled window is no estimate was told by its meter.
            estimated = rows.estimated_j != 0
            self.told_j.add(rows.energy_j[estimated].tolist())
            self.estimated_j.add(rows.estimated_j[estimated].tolist())
            self.modelled_j.add(rows.energy_j[~estimated].tolist())
        else:
            self.modelled_j.add(rows.energy_j.tolist())
        self.seconds[quality] += float(rows.seconds.sum())
        self.windows += len(rows.seconds)
        self.low_j += float(rows.low_j.sum())
        self.high_j += float(rows.high_j.sum())
        facility_j = rows.energy_j * rows.pue
        weighted = facility_j * rows.intensity_g_per_kwh
        without = np.isnan(rows.pue + rows.intensity_g_per_kwh)
        if without.any():
            self.without_factors_j += float(rows.energy_j[without].sum())
            facility_j, weighted = facility_j[~without], weighted[~without]
        self.facility_j += float(facility_j.sum())
        self.weighted_j_g_per_kwh += float(weighted.sum())


def sum_j(cells: Iterable[Cell]) -> float:
    """Energy of some cells together, J: the correctly rounded sum of all their windows."""
    return total(part for cell in cells for part in (cell.told_j, cell.modelled_j))


def energy_of(cells: Iterable[Cell]) -> Energy:
    """The energy of some cells together. What was measured of it is as exact as the whole, so that they are equal where
    all was measured."""
    cells = list(cells)
    energy_j = sum_j(cells)
    estimated_j = total(cell.estimated_j for cell in cells)
    if estimated_j <= ROUNDING * energy_j:  # all of it was measured after all
        estimated_j = 0.0
    measured, modelled, absent = (sum(cell.seconds[index] for cell in cells) for index in range(3))
    device_s = measured + modelled + absent
    unknown = any(cell.without_factors_j for cell in cells)
    weighted = sum(cell.weighted_j_g_per_kwh for cell in cells)
    return Energy(
        energy_j=energy_j,
        measured_j=max(0.0, min(energy_j, total(cell.told_j for cell in cells) - estimated_j)),
        estimated_j=min(energy_j, estimated_j),
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
