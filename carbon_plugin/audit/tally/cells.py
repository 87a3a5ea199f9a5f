"""Sum up energy by device and phase. These cells are the smallest parts that every total of an audit is made of.

Sums are kept without intermediate rounding, so that a total is the same however its parts are grouped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain

import numpy as np

from carbon_plugin.audit.findings.energy import Energy, MeterQuality
from carbon_plugin.audit.tally.blocks import Rows
from carbon_plugin.ledger.held.account_inputs import UsedEnergy
from carbon_plugin.spec.range import Range
from carbon_plugin.spec.units import GRAMS_PER_KG, JOULES_PER_KWH

_QUALITY = {"counter": 0, "power_integrated": 0, "modelled": 1, "absent": 2}


class ExactSum:
    """A running sum, kept as a few floats that add up to it exactly (Shewchuk 1997, the algorithm behind `math.fsum`).

    Memory stays at a few floats however many terms are added.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, terms: Iterable[float]) -> None:
        """Add finite numbers. A sum beyond the range of floats is infinite."""
        rest = [*self._parts, *terms]
        self._parts = []
        try:
            # Each pass gives the rounded remainder of the exact sum. After two or three passes nothing remains.
            while part := math.fsum(rest):
                self._parts.append(part)
                rest.append(-part)
        except (OverflowError, ValueError):  # the sum is beyond floats now, or was infinite already
            self._parts = [math.inf]

    def merge(self, other: ExactSum) -> None:
        """Add the terms of another sum."""
        self.add(other._parts)

    @property
    def value(self) -> float:
        """Return the sum of all terms, correctly rounded."""
        return math.fsum(self._parts)


def total(sums: Iterable[ExactSum]) -> float:
    """Return the sum of all terms of several sums, correctly rounded, as `math.fsum` of every single term would give
    it."""
    return math.fsum(chain.from_iterable(one._parts for one in sums))


class ExactCell:
    """Running sums of one device in one phase.

    The energy is `told_j` plus `modelled_j`. `told_j` is that of windows that a meter told, or that say which part of
    them is an estimate. `estimated_j` is this estimated part, so that `told_j` less it was measured. `facility_j` is
    the sum of energy times PUE, and `weighted_j_g_per_kwh` is that times intensity. `without_factors_j` is the part of
    the energy for which intensity or PUE is unknown.
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

    @classmethod
    def modelled(cls, energy: Range, device_s: float, factors: tuple[float, float] | None) -> ExactCell:
        """Return the cell of a modelled energy (J) of so many device-seconds. `factors` are intensity (g/kWh) and PUE,
        or None without any."""
        cell = cls()
        cell.modelled_j.add([energy.value])
        cell.low_j, cell.high_j = energy.low, energy.high
        cell.seconds[_QUALITY["modelled"]] = device_s
        if factors is None:
            cell.without_factors_j = energy.value
        else:
            g_per_kwh, pue = factors
            cell.facility_j = energy.value * pue
            cell.weighted_j_g_per_kwh = cell.facility_j * g_per_kwh
        return cell

    def add(self, rows: Rows) -> None:
        """Add some windows of the device."""
        quality = _QUALITY[rows.kind]
        if not quality:
            self.told_j.add(rows.energy_j.tolist())
            if rows.estimated_j.any():  # a measurement that replaces an earlier estimate
                self.estimated_j.add(rows.estimated_j.tolist())
        elif rows.estimated_j.any():
            # Of a modelled window, the part that is no estimate was told by its meter.
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


def sum_j(cells: Iterable[ExactCell]) -> float:
    """Return the energy of some cells together, J: the correctly rounded sum of all their windows."""
    return total(part for cell in cells for part in (cell.told_j, cell.modelled_j))


def used_energy(cells: Iterable[ExactCell]) -> UsedEnergy:
    """Return the energy of some cells together as the accounting takes it.

    The measured part is as exact as the whole, so that the two are equal where all was measured.
    """
    cells = list(cells)
    return UsedEnergy(
        energy=Range(sum_j(cells), sum(cell.low_j for cell in cells), sum(cell.high_j for cell in cells)).ordered(),
        told_j=total(cell.told_j for cell in cells),
        estimated_j=total(cell.estimated_j for cell in cells),
        facility_j=sum(cell.facility_j for cell in cells),
        weighted_j_g_per_kwh=sum(cell.weighted_j_g_per_kwh for cell in cells),
        without_factors_j=sum(cell.without_factors_j for cell in cells),
    )


def energy_of(cells: Iterable[ExactCell]) -> Energy:
    """Return the energy of some cells together as an audit states it."""
    cells = list(cells)
    used = used_energy(cells)
    measured, modelled, absent = (sum(cell.seconds[index] for cell in cells) for index in range(3))
    device_s = measured + modelled + absent
    return Energy(
        energy_j=used.energy.value,
        measured_j=used.measured_j,
        estimated_j=used.remaining_estimate_j,
        low_j=used.energy.low,
        high_j=used.energy.high,
        device_s=device_s,
        meters=MeterQuality(
            measured=measured / device_s if device_s else 0.0,
            modelled=modelled / device_s if device_s else 0.0,
            absent=absent / device_s if device_s else 0.0,
        ),
        operational_kg=None if used.without_factors_j else used.weighted_j_g_per_kwh / (JOULES_PER_KWH * GRAMS_PER_KG),
        windows=sum(cell.windows for cell in cells),
    )
