"""From the sums of a run to its footprint: carbon is computed anew from joules and the factors in force."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from carbon_plugin.audit.result import Reserved, Sampling
from carbon_plugin.audit.tally.cells import Cell, energy_of, sum_j
from carbon_plugin.audit.tally.collect import RunCollector
from carbon_plugin.audit.tally.in_force import in_force
from carbon_plugin.audit.tally.reservations import reservations_of
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.drivers import Driver, drivers
from carbon_plugin.footprint.values import EnergyItem, Factors, Footprint
from carbon_plugin.spec.figure import Figure, Kind

MEASURED_SHARE = 0.99
"""An energy counts as measured when at least so much of it was."""
SAMPLING = Sampling(draws=2000, seed=0)


class Accounted(Struct, frozen=True, kw_only=True):
    """A footprint, the factors that it was computed with, and what its range comes from."""

    footprint: Footprint
    factors: Factors
    drivers: list[Driver]


def account_run(collected: RunCollector, reserved: Reserved, factors: Factors) -> Accounted:
    """Footprint of a run. `factors` give ranges, embodied carbon and lifetime; intensity and PUE are those of the
    windows, which may have changed during the run (energy-weighted means, so that the carbon is the windows' own), and
    the factors that come back say so.
    """
    cells = {key: cells for key, cells in collected.device_cells().items() if collected.is_it(key)}
    pue = _weighted_pue([cell for group in cells.values() for cell in group], factors.pue)
    intensity = in_force((file.grid for file in collected.files), factors.intensity)
    factors = msgspec.structs.replace(factors, pue=pue, intensity=intensity)
    items = _energy_items(collected, cells, factors)
    charged = [reservation for reservation in reservations_of(reserved) if reservation.scope in factors.embodied_kg]
    return Accounted(
        footprint=account(items, charged, factors, draws=SAMPLING.draws, seed=SAMPLING.seed),
        factors=factors,
        drivers=list(drivers(items, charged, factors)),
    )


def _energy_items(collected: RunCollector, cells: dict[str, list[Cell]], factors: Factors) -> list[EnergyItem]:
    """One item for each rung and device model: devices of a model share their systematic error."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for key, group in cells.items():
        identity = collected.devices[key].identity
        groups.setdefault((identity.rung, f"{identity.rung}:{identity.name}"), []).extend(group)
    return [_energy_item(rung, scope, group, factors) for (rung, scope), group in sorted(groups.items())]


def _energy_item(rung: str, scope: str, cells: Sequence[Cell], factors: Factors) -> EnergyItem:
    energy_j = sum_j(cells)
    facility_j = sum(cell.facility_j for cell in cells)
    weighted = sum(cell.weighted_j_g_per_kwh for cell in cells)
    central = factors.intensity.figure.value
    # Spread over the PUE of the whole run, so that its product with energy and intensity is the sum over the windows.
    own = weighted / (energy_j * factors.pue.value) if facility_j and energy_j else central
    return msgspec.convert(
        {
            "rung": rung,
            "scope": scope,
            "energy_j": energy_j,
            "low_j": min(energy_j, sum(cell.low_j for cell in cells)),
            "high_j": max(energy_j, sum(cell.high_j for cell in cells)),
            "intensity_g_per_kwh": None if math.isclose(own, central, rel_tol=1e-12) else own,
            "kind": _kind(cells),
        },
        type=EnergyItem,
    )


def _kind(cells: Sequence[Cell]) -> Kind:
    """How an energy is known; the estimate for a short outage does not make a model of what was measured."""
    energy = energy_of(cells)
    return "measured" if energy.measured_j > 0 and energy.measured_j >= MEASURED_SHARE * energy.energy_j else "modelled"


def _weighted_pue(cells: Sequence[Cell], stated: Figure) -> Figure:
    """PUE over the run, weighted with energy; the stated range moves with it."""
    energy_j = sum_j(cells)
    mean = sum(cell.facility_j for cell in cells) / energy_j if energy_j else stated.value
    if math.isclose(mean, stated.value, rel_tol=1e-12):
        return stated
    shift = mean - stated.value
    low, high = max(1.0, stated.low + shift), max(mean, stated.high + shift)
    return Figure(mean, min(low, mean), high, stated.unit, stated.kind, f"{stated.source}; mean of the run's windows")
