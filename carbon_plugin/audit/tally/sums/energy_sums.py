"""Sum up the energy of one device in one phase. Every total of an audit consists of these sums.

They are kept without intermediate rounding, so that a total is the same however its parts are grouped.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from carbon_plugin.audit.findings.energy import Energy, MeterQuality
from carbon_plugin.audit.tally.sums.blocks import Metered, Places
from carbon_plugin.audit.tally.sums.exact_sum import ExactSum, total
from carbon_plugin.ledger.held.account_inputs import UsedEnergy
from carbon_plugin.spec.metered import EnergyKind
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH

_Key = TypeVar("_Key", bound=Hashable)

_QUALITY = {"counter": 0, "power_integrated": 0, "modelled": 1, "absent": 2}


class EnergySums:
    """The running sums of one device in one phase.

    The energy is `told_j` plus `modelled_j`. `told_j` is the energy of windows whose meter told it, or that say which
    part is an estimate. `estimated_j` is this estimated part, so that `told_j` minus `estimated_j` was measured.
    `facility_j` is the sum of energy times PUE, and `weighted_j_g_per_kwh` is the sum of that times intensity.
    `without_factors_j` is the energy whose intensity or PUE is unknown.
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
    def modelled(cls, energy: Range, device_s: float, factors: tuple[float, float] | None) -> EnergySums:
        """Return the sums for a modelled energy (J) over `device_s` device-seconds. `factors` are intensity (g/kWh) and
        PUE, or None without any.
        """
        sums = cls()
        sums.modelled_j.add([energy.value])
        sums.low_j, sums.high_j = energy.low, energy.high
        sums.seconds[_QUALITY["modelled"]] = device_s
        if factors is None:
            sums.without_factors_j = energy.value
        else:
            g_per_kwh, pue = factors
            sums.facility_j = energy.value * pue
            sums.weighted_j_g_per_kwh = sums.facility_j * g_per_kwh
        return sums

    def add(self, kind: EnergyKind, energy_j: list[float], estimated_j: list[float], sums: Sequence[float]) -> None:
        """Add some windows of the device. `energy_j` are their energies, and `estimated_j` their estimated parts, or
        empty without any. `sums` are the sums over the windows of seconds, of the low and the high end of the energy,
        of facility energy, of facility energy times intensity, and of energy without factors.
        """
        quality = _QUALITY[kind]
        if not quality:
            self.told_j.add(energy_j)
            self.estimated_j.add(estimated_j)  # a measurement that replaces an earlier estimate
        elif any(estimated_j):
            # Of a modelled window, the part that is no estimate was told by its meter.
            self.told_j.add(value for value, part in zip(energy_j, estimated_j, strict=True) if part)
            self.estimated_j.add(estimated_j)
            self.modelled_j.add(value for value, part in zip(energy_j, estimated_j, strict=True) if not part)
        else:
            self.modelled_j.add(energy_j)
        seconds, low_j, high_j, facility_j, weighted, without_factors_j = sums
        self.seconds[quality] += seconds
        self.windows += len(energy_j)
        self.low_j += low_j
        self.high_j += high_j
        self.facility_j += facility_j
        self.weighted_j_g_per_kwh += weighted
        self.without_factors_j += without_factors_j


def add_windows(
    parts: Mapping[_Key, Sequence[EnergySums | None]], metered: Metered, chosen: Mapping[_Key, Places | None]
) -> None:
    """Add windows of some devices to sums.

    Each key has the sums of every device (None for a device that is left out) and the positions of its windows (None
    for all). All devices are added together, because an operation on arrays costs the same for one device as for many.
    """
    energy = metered.energy
    table = np.array(
        [
            energy.value,
            metered.seconds,
            energy.low,
            energy.high,
            metered.facility_j,
            metered.weighted_j_g_per_kwh,
            np.where(metered.priced, 0.0, energy.value),
        ]
    )
    estimated = metered.estimated_j if metered.estimated_j.any() else None
    for key, places in chosen.items():
        columns = table if places is None else table.take(places, axis=2)
        sums = columns[1:].sum(axis=2).T.tolist()
        values = columns[0].tolist()
        estimates: list[list[float]] = [[]] * len(values)
        if estimated is not None:
            estimates = (estimated if places is None else estimated[:, places]).tolist()
        for one, kind, energy_j, estimated_j, device in zip(
            parts[key], metered.kinds, values, estimates, sums, strict=True
        ):
            if one is not None:
                one.add(kind, energy_j, estimated_j, device)


def used_energy(parts: Iterable[EnergySums]) -> UsedEnergy:
    """Return the total of several sums in the form of the accounting.

    The measured part is as exact as the whole, so that the two are equal where everything was measured.
    """
    parts = list(parts)
    energy_j = total(exact for one in parts for exact in (one.told_j, one.modelled_j))
    return UsedEnergy(
        energy=Range(energy_j, sum(one.low_j for one in parts), sum(one.high_j for one in parts)).ordered(),
        told_j=total(one.told_j for one in parts),
        estimated_j=total(one.estimated_j for one in parts),
        facility_j=sum(one.facility_j for one in parts),
        weighted_j_g_per_kwh=sum(one.weighted_j_g_per_kwh for one in parts),
        without_factors_j=sum(one.without_factors_j for one in parts),
    )


def energy_of(parts: Iterable[EnergySums]) -> Energy:
    """Return the total of several sums in the form of an audit's result."""
    parts = list(parts)
    used = used_energy(parts)
    measured, modelled, absent = (sum(one.seconds[index] for one in parts) for index in range(3))
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
        windows=sum(one.windows for one in parts),
    )
