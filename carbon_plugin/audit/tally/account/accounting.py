"""Compute the footprint of a run from its sums: joules times the factors that were in force."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.audit.findings.reserved import Reserved
from carbon_plugin.audit.result import Sampling
from carbon_plugin.audit.tally.collect import RunCollector
from carbon_plugin.audit.tally.file_pass import FilePass
from carbon_plugin.audit.tally.sums.energy_sums import EnergySums, used_energy
from carbon_plugin.audit.tally.timeline.in_force import in_force
from carbon_plugin.footprint.account import DRAWS, SEED, account
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

SAMPLING = Sampling(draws=DRAWS, seed=SEED)


class RunEnergy(Struct, frozen=True, kw_only=True):
    """The energy of a run by rung and device model, J.

    `recorded` is the energy in its records. `unobserved` is modelled for reserved time without records, and carries no
    factors. `window_factors` are the mean intensity (g/kWh) and the mean PUE of the windows, or None where no window
    states any.
    """

    recorded: dict[UncertaintyScope, UsedEnergy]
    unobserved: UnobservedEnergy
    window_factors: tuple[float, float] | None

    def idle_factors(self, stated: Factors | None) -> tuple[float, float] | None:
        """Return intensity (g/kWh) and PUE for reserved time without records: the means of the windows, or the stated
        factors where no window has any. Return None without both.
        """
        return self.window_factors or ((stated.intensity.figure.value, stated.pue.value) if stated else None)


class Inputs(Struct, frozen=True, kw_only=True):
    """One instance holds what the accounting of a run needs: its energies, its reserved time, and the factors that were
    in force.
    """

    items: list[EnergyItem]
    charged: list[Reservation]
    factors: Factors


class Accounted(Struct, frozen=True, kw_only=True):
    """One instance holds a footprint, the factors that it was computed with, and the drivers of its range."""

    footprint: Footprint
    factors: Factors
    drivers: list[Driver]


def account_run(energy: RunEnergy, files: Sequence[FilePass], reserved: Reserved, factors: Factors) -> Accounted:
    """Return the footprint of a run.

    `factors` give the ranges, the embodied carbon and the lifetime. Intensity and PUE are those of the windows, as
    energy-weighted means, because they may have changed during the run; so the carbon is exactly that of the windows.
    The factors that are returned state these means.
    """
    inputs = inputs_of(energy, files, reserved, factors)
    items, charged, factors = inputs.items, inputs.charged, inputs.factors
    return Accounted(
        footprint=account(items, charged, factors, draws=SAMPLING.draws, seed=SAMPLING.seed),
        factors=factors,
        drivers=list(drivers(items, charged, factors)),
    )


def inputs_of(energy: RunEnergy, files: Sequence[FilePass], reserved: Reserved, factors: Factors) -> Inputs:
    """Return the inputs of a run's accounting, as `account_run` describes them, with the energy of reserved time that
    no record covers.
    """
    used = energy.recorded | energy.unobserved.with_factors(energy.window_factors).used
    intensity = in_force((file.grid for file in files), factors.intensity)
    items, factors = account_inputs(used, factors, intensity=intensity)
    charged = chargeable(reservations(devices=reserved.device_s, hosts=reserved.host_s), factors)
    return Inputs(items=items, charged=charged, factors=factors)


def run_energy(collected: RunCollector, unobserved: UnobservedEnergy) -> RunEnergy:
    """Return the energy of a run: that of its records, and the modelled energy of reserved time without records."""
    groups: dict[UncertaintyScope, list[EnergySums]] = {}
    for key, sums in collected.by_device().items():
        if (scope := scope_of(collected.devices[key].identity)) is not None:
            groups.setdefault(scope, []).extend(sums)
    recorded = {scope: used_energy(groups[scope]) for scope in sorted(groups)}
    return RunEnergy(recorded=recorded, unobserved=unobserved, window_factors=mean_factors(recorded.values()))


def unobserved_sums(
    unobserved: UnobservedEnergy, factors: tuple[float, float] | None
) -> dict[UncertaintyScope, EnergySums]:
    """Return the energy of reserved time without records as sums. `factors` are its intensity (g/kWh) and PUE, or None
    without any.
    """
    return {
        scope: EnergySums.modelled(used.energy, unobserved.modelled_s, factors)
        for scope, used in unobserved.used.items()
    }
