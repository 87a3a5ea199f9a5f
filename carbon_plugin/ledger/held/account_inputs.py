"""Say what a run used and held, as the inputs of `footprint.account`: energy items, reservations and the factors in
force.

The forecast, the live totals and the audit all come by here, so that the same joules and seconds give the same carbon.
How long devices and hosts were reserved is `ledger.held.holdings`'s, which energy counts where two files metered a
device is `ledger.held.claims`'s, and how many GPUs there must be `ledger.held.expected`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.errors import LedgerError
from carbon_plugin.footprint.values import IT_RUNGS, EnergyItem, Factors, Intensity, Reservation
from carbon_plugin.ledger.records import DeviceEnergy
from carbon_plugin.spec.metered import DeviceIdentity, EnergyKind, Rung
from carbon_plugin.spec.numbers.figure import Figure, Kind
from carbon_plugin.spec.numbers.range import ZERO, Range
from carbon_plugin.spec.parsing.boundary import check_numbers
from carbon_plugin.threads.turns import give_way

MEASURED_KINDS: tuple[EnergyKind, ...] = ("counter", "power_integrated")
MEASURED_SHARE = 0.99
"""An energy counts as measured when at least this share of it was measured."""
ROUNDING = 1e-9
"""A part of a sum that is smaller than this share of it is the rounding of terms that cancel each other."""

UncertaintyScope = tuple[Rung, str]
"""A rung and the name of an uncertainty scope on it: devices of one model share their systematic error."""


class UsedEnergy(Struct, frozen=True, kw_only=True, gc=False):
    """Holds the energy of one or several devices over some windows, J, with the values that its carbon follows from.

    `told_j` is the energy of windows whose meter told it, or that say which part is an estimate. `estimated_j` is that
    part, so that `told_j` minus `estimated_j` was measured. `facility_j` is the sum of energy times PUE, and
    `weighted_j_g_per_kwh` the sum of that times intensity, over the windows for which both factors are known.
    `without_factors_j` is the energy of all other windows.
    """

    energy: Range = ZERO
    told_j: float = 0.0
    estimated_j: float = 0.0
    facility_j: float = 0.0
    weighted_j_g_per_kwh: float = 0.0
    without_factors_j: float = 0.0

    def plus(self, other: UsedEnergy) -> UsedEnergy:
        """Return the energy of these and other windows together. Errors of meters go together, so their ranges are
        added.
        """
        return UsedEnergy(
            energy=self.energy.plus(other.energy),
            told_j=self.told_j + other.told_j,
            estimated_j=self.estimated_j + other.estimated_j,
            facility_j=self.facility_j + other.facility_j,
            weighted_j_g_per_kwh=self.weighted_j_g_per_kwh + other.weighted_j_g_per_kwh,
            without_factors_j=self.without_factors_j + other.without_factors_j,
        )

    def scaled(self, share: float) -> UsedEnergy:
        """Return a share of this energy, and the same share of all values that follow from it."""
        return UsedEnergy(
            energy=self.energy.scaled(share),
            told_j=self.told_j * share,
            estimated_j=self.estimated_j * share,
            facility_j=self.facility_j * share,
            weighted_j_g_per_kwh=self.weighted_j_g_per_kwh * share,
            without_factors_j=self.without_factors_j * share,
        )

    def with_factors(self, factors: tuple[float, float] | None) -> UsedEnergy:
        """Return the same energy with this intensity (g/kWh) and PUE for all of it. Nothing changes where they are
        None.
        """
        if factors is None:
            return self
        g_per_kwh, pue = factors
        facility_j = self.energy.value * pue
        return msgspec.structs.replace(
            self, facility_j=facility_j, weighted_j_g_per_kwh=facility_j * g_per_kwh, without_factors_j=0.0
        )

    def less(self, part: UsedEnergy) -> UsedEnergy:
        """Return the energy that remains without a part of the same windows. It is never below 0."""
        rest = self.energy.since(part.energy)
        return UsedEnergy(
            energy=Range(max(0.0, rest.value), max(0.0, rest.low), max(0.0, rest.high)),
            told_j=max(0.0, self.told_j - part.told_j),
            estimated_j=self.estimated_j - part.estimated_j,
            facility_j=max(0.0, self.facility_j - part.facility_j),
            weighted_j_g_per_kwh=max(0.0, self.weighted_j_g_per_kwh - part.weighted_j_g_per_kwh),
            without_factors_j=max(0.0, self.without_factors_j - part.without_factors_j),
        )

    @property
    def remaining_estimate_j(self) -> float:
        """Return the energy that is still an estimate, J. It is 0 where meters measured all of it in the end."""
        if self.estimated_j <= ROUNDING * self.energy.value:
            return 0.0
        return min(self.energy.value, self.estimated_j)

    @property
    def measured_j(self) -> float:
        """Return the energy that was measured, J."""
        estimated_j = 0.0 if self.estimated_j <= ROUNDING * self.energy.value else self.estimated_j
        return max(0.0, min(self.energy.value, self.told_j - estimated_j))

    @property
    def measured_share(self) -> float | None:
        """Return the share of the energy that was measured, or None where there is no energy."""
        return self.measured_j / self.energy.value if self.energy.value > 0 else None

    @property
    def kind(self) -> Kind:
        """Return how the energy is known. An estimate for a short outage does not turn a measured energy into a
        modelled one.
        """
        measured_j = self.measured_j
        return "measured" if measured_j > 0 and measured_j >= MEASURED_SHARE * self.energy.value else "modelled"

    @property
    def g_per_kwh(self) -> float | None:
        """Return the mean intensity of the windows that state one, weighted with facility energy, or None where no
        window does.
        """
        return self.weighted_j_g_per_kwh / self.facility_j if self.facility_j > 0 else None


class UsedSum(Struct, gc=False):
    """Keeps the running sum of the energies of one device, fed window by window; the fields are those of
    `UsedEnergy`.
    """

    energy: Range = ZERO
    told_j: float = 0.0
    estimated_j: float = 0.0
    facility_j: float = 0.0
    weighted_j_g_per_kwh: float = 0.0
    without_factors_j: float = 0.0

    def add(
        self, energy: DeviceEnergy, intensity_g_per_kwh: float | None, pue: float | None, share: float = 1.0
    ) -> None:
        """Add a share of the energy of one window, in which these factors are in force. An unknown energy
        adds nothing.
        """
        whole, estimated_j = energy.energy, energy.estimated_j
        if whole is None:
            return
        added = whole if share == 1.0 else whole.scaled(share)
        value_j = added.value
        self.energy = self.energy.plus(added)
        if estimated_j or energy.kind in MEASURED_KINDS:
            self.told_j += value_j
            self.estimated_j += share * (estimated_j or 0.0)
        if intensity_g_per_kwh is None or pue is None:
            self.without_factors_j += value_j
        else:
            self.facility_j += value_j * pue
            self.weighted_j_g_per_kwh += value_j * pue * intensity_g_per_kwh

    @property
    def used(self) -> UsedEnergy:
        """Return the sum so far."""
        return UsedEnergy(
            energy=self.energy,
            told_j=self.told_j,
            estimated_j=self.estimated_j,
            facility_j=self.facility_j,
            weighted_j_g_per_kwh=self.weighted_j_g_per_kwh,
            without_factors_j=self.without_factors_j,
        )


def scope_of(device: DeviceIdentity) -> UncertaintyScope | None:
    """Return rung and device model of a device, or None for the facility, whose energy contains that of all others."""
    return (device.rung, f"{device.rung}:{device.name}") if device.rung in IT_RUNGS else None


def by_scope(used: Iterable[tuple[DeviceIdentity, UsedEnergy]]) -> dict[UncertaintyScope, UsedEnergy]:
    """Return the energy of each rung and device model, in order."""
    groups: dict[UncertaintyScope, list[UsedEnergy]] = {}
    for device, one in used:
        give_way()
        if (scope := scope_of(device)) is not None:
            groups.setdefault(scope, []).append(one)
    return {scope: total_used(groups[scope]) for scope in sorted(groups)}


def total_used(parts: Sequence[UsedEnergy]) -> UsedEnergy:
    """Return the sum of energies, which does not depend on their order."""
    if len(parts) == 1:
        return parts[0]
    return UsedEnergy(
        energy=Range.total([part.energy for part in parts]),
        told_j=math.fsum([part.told_j for part in parts]),
        estimated_j=math.fsum([part.estimated_j for part in parts]),
        facility_j=math.fsum([part.facility_j for part in parts]),
        weighted_j_g_per_kwh=math.fsum([part.weighted_j_g_per_kwh for part in parts]),
        without_factors_j=math.fsum([part.without_factors_j for part in parts]),
    )


def mean_factors(used: Iterable[UsedEnergy]) -> tuple[float, float] | None:
    """Return the mean intensity (g/kWh, weighted with facility energy) and the mean PUE of the windows that state them.

    The result is None where no window does.
    """
    total = total_used(tuple(used))
    known_j = total.energy.value - total.without_factors_j
    g_per_kwh = total.g_per_kwh
    return None if g_per_kwh is None or known_j <= 0 else (g_per_kwh, total.facility_j / known_j)


def energy_item(
    scope: UncertaintyScope, energy: Range, kind: Kind = "modelled", g_per_kwh: float | None = None
) -> EnergyItem:
    """Return an energy (J) as an item of the accounting, with a range that contains it."""
    return EnergyItem(rung=scope[0], scope=scope[1], energy=energy.ordered(), intensity_g_per_kwh=g_per_kwh, kind=kind)


def account_inputs(
    used: Mapping[UncertaintyScope, UsedEnergy],
    factors: Factors,
    *,
    intensity: Intensity | None = None,
    to_come: Sequence[EnergyItem] = (),
) -> tuple[list[EnergyItem], Factors]:
    """Return the energy items of a run and the factors to account them with.

    Intensity and PUE are those of the windows, which may have changed during the run: the PUE that comes back is the
    mean over the run, and items carry the intensity that makes their carbon the sum over their windows. `factors` are
    the stated ones; they stand for windows that know none, and for the energies `to_come`. `intensity` is the one that
    was in force according to the windows, where the caller knows it; it replaces the stated one.
    """
    pue, stated_g_per_kwh = factors.pue.value, factors.intensity.figure.value
    # Energy, facility energy, and that times intensity.
    sums = [
        (
            one.energy.value,
            one.facility_j + one.without_factors_j * pue,
            one.weighted_j_g_per_kwh + one.without_factors_j * pue * stated_g_per_kwh,
        )
        for one in used.values()
    ]
    energy_j = math.fsum([*(one[0] for one in sums), *(item.energy.value for item in to_come)])
    facility_j = math.fsum([*(one[1] for one in sums), *(item.energy.value * pue for item in to_come)])
    run_pue = _mean_pue(facility_j / energy_j if energy_j else pue, factors.pue)
    unchanged = run_pue is factors.pue and (intensity is None or intensity is factors.intensity)
    in_force = (
        factors
        if unchanged
        else msgspec.structs.replace(factors, pue=run_pue, intensity=intensity or factors.intensity)
    )
    give_way()
    mean_pue, central = in_force.pue.value, in_force.intensity.figure.value

    def own(energy_j: float, weighted: float) -> float | None:
        """Return the intensity whose product with energy and mean PUE is `weighted`, or None where it equals the
        central one.
        """
        g_per_kwh = weighted / (energy_j * mean_pue) if energy_j else central
        return None if math.isclose(g_per_kwh, central, rel_tol=1e-12) else g_per_kwh

    items = [
        energy_item(scope, one.energy, one.kind, own(one.energy.value, weighted))
        for (scope, one), (_, _, weighted) in zip(used.items(), sums, strict=True)
    ]
    for item in to_come:
        stated = item.intensity_g_per_kwh
        weighted = item.energy.value * pue * (stated_g_per_kwh if stated is None else stated)
        items.append(msgspec.structs.replace(item, intensity_g_per_kwh=own(item.energy.value, weighted)))
    return items, in_force


def _mean_pue(mean: float, stated: Figure) -> Figure:
    """Return the mean PUE over a run as a figure. The stated range moves with it."""
    if math.isclose(mean, stated.value, rel_tol=1e-12):
        return stated
    shift = mean - stated.value
    low, high = max(1.0, stated.low + shift), max(mean, stated.high + shift)
    return Figure(mean, min(low, mean), high, stated.unit, stated.kind, f"{stated.source}; mean of the run's windows")


def reservations(*, devices: float, hosts: float, time_s: float = 1.0) -> tuple[Reservation, ...]:
    """Return reserved time in the form of the accounting: these numbers of devices and hosts for `time_s` each.

    Without `time_s` the numbers are device-seconds and host-seconds. A device has its share of the network with it.
    """
    return (
        Reservation(scope="device", units=devices, time_s=time_s),
        Reservation(scope="host", units=hosts, time_s=time_s),
        Reservation(scope="network", units=devices, time_s=time_s),
    )


def chargeable(reserved: Iterable[Reservation], factors: Factors) -> list[Reservation]:
    """Return the reservations whose embodied carbon is known."""
    return [reservation for reservation in reserved if reservation.scope in factors.embodied_kg]


def stated_factors(document: dict[str, Any]) -> Factors | None:
    """Return the factors that a manifest states, or None if there are none, or if they are incomplete or impossible."""
    if not document:
        return None
    try:
        check_numbers(document, "a manifest", LedgerError)
        return msgspec.convert(document, type=Factors)
    except (LedgerError, msgspec.ValidationError):
        return None
