"""Compute the footprint of a run from its sums: joules times the factors that were in force."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.audit.findings.reserved import Reserved
from carbon_plugin.audit.result import Sampling
from carbon_plugin.audit.tally.cells import ExactCell, used_energy
from carbon_plugin.audit.tally.collect import RunCollector
from carbon_plugin.audit.tally.in_force import in_force
from carbon_plugin.audit.tally.reservations import unobserved_of
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.drivers import Driver, drivers
from carbon_plugin.footprint.values import EnergyItem, Factors, Footprint, Reservation
from carbon_plugin.ledger.held.account_inputs import (
    UncertaintyScope,
    UsedEnergy,
    account_inputs,
    chargeable,
    mean_factors,
    reservations,
    scope_of,
)
from carbon_plugin.ledger.held.unobserved import UnobservedEnergy

SAMPLING = Sampling(draws=2000, seed=0)


class Inputs(Struct, frozen=True, kw_only=True):
    """What the accounting of a run takes: its energies, its reserved time, and the factors that were in force."""

    items: list[EnergyItem]
    charged: list[Reservation]
    factors: Factors


class Accounted(Struct, frozen=True, kw_only=True):
    """A footprint, the factors that it was computed with, and the drivers of its range."""

    footprint: Footprint
    factors: Factors
    drivers: list[Driver]


def account_run(collected: RunCollector, reserved: Reserved, factors: Factors) -> Accounted:
    """Return the footprint of a run.

    `factors` give the ranges, the embodied carbon and the lifetime. Intensity and PUE are those of the windows, as
    energy-weighted means, because they may have changed during the run; so the carbon is exactly that of the windows.
    The factors that are returned state these means.
    """
    inputs = inputs_of(collected, reserved, factors)
    items, charged, factors = inputs.items, inputs.charged, inputs.factors
    return Accounted(
        footprint=account(items, charged, factors, draws=SAMPLING.draws, seed=SAMPLING.seed),
        factors=factors,
        drivers=list(drivers(items, charged, factors)),
    )


def inputs_of(collected: RunCollector, reserved: Reserved, factors: Factors) -> Inputs:
    """Return what the accounting of a run takes, as `account_run` describes it, with the energy of reserved time that
    no record covers."""
    recorded = recorded_energy(collected)
    used = recorded | unobserved_of(collected.files).with_factors(mean_factors(recorded.values())).used
    intensity = in_force((file.grid for file in collected.files), factors.intensity)
    items, factors = account_inputs(used, factors, intensity=intensity)
    charged = chargeable(reservations(devices=reserved.device_s, hosts=reserved.host_s), factors)
    return Inputs(items=items, charged=charged, factors=factors)


def recorded_energy(collected: RunCollector) -> dict[UncertaintyScope, UsedEnergy]:
    """Return the energy that the records hold, by rung and device model."""
    groups: dict[UncertaintyScope, list[ExactCell]] = {}
    for key, cells in collected.device_cells().items():
        if (scope := scope_of(collected.devices[key].identity)) is not None:
            groups.setdefault(scope, []).extend(cells)
    return {scope: used_energy(groups[scope]) for scope in sorted(groups)}


def factors_of_idle(collected: RunCollector, stated: Factors | None) -> tuple[float, float] | None:
    """Return intensity (g/kWh) and PUE for reserved time without records: the means of the windows, or those stated for
    the run where no window has any; None without both."""
    given = (stated.intensity.figure.value, stated.pue.value) if stated else None
    return mean_factors(recorded_energy(collected).values()) or given


def unobserved_cells(
    unobserved: UnobservedEnergy, factors: tuple[float, float] | None
) -> dict[UncertaintyScope, ExactCell]:
    """Return the energy of reserved time without records as cells. `factors` are the intensity (g/kWh) and the PUE for
    it, or None without any."""
    return {
        scope: ExactCell.modelled(used.energy, unobserved.modelled_s, factors)
        for scope, used in unobserved.used.items()
    }
