"""Compute by which ratio carbon changes with each factor: PUE, intensity, contracts, and the inputs of embodied carbon.

The carbon of a run is a product of central values, so a new factor is applied as its ratio to the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from carbon_plugin.fleet.restate.new_factors import NewFactors
from carbon_plugin.fleet.rows.run_places import turned
from carbon_plugin.fleet.store.schema import MJ_PER_J, UG_PER_KG
from carbon_plugin.footprint.market import Contracts
from carbon_plugin.footprint.values import BUILDING, EmissionScope, Factors, Intensity
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH

PARTS = ("device", "host", "network", BUILDING)
"""The parts of embodied carbon, each with a column `run_<part>_ug` in the table of runs."""
LEAST_CHANGE = 1e-6
"""A smaller relative change is the rounding of whole micrograms."""


class Change(Struct, frozen=True):
    """A factor that changes, the ratio by which it changes carbon, and a sentence on what became of it."""

    factor: str
    ratio: float
    reason: str


def pue_changes(old_own: Factors, new_own: NewFactors) -> Iterator[Change]:
    """Yield the change of the PUE that a launch recorded."""
    was, now = old_own.pue, new_own.factors.pue
    ratio = now.value / was.value
    if abs(ratio - 1) > LEAST_CHANGE:
        yield Change("PUE", ratio, f"PUE {was.value:.4g} to {now.value:.4g} ({now.source})")


def intensity_changes(
    row: Mapping[str, Any],
    scope: EmissionScope,
    static: bool,
    old_own: Factors,
    new: NewFactors,
    new_own: NewFactors,
) -> list[Change]:
    """Return the change of the grid intensity that a launch recorded."""
    if new_own.factors.intensity is old_own.intensity:
        return []
    was, now = turned(old_own.intensity, scope), turned(new_own.factors.intensity, scope)
    if not static and row["facility_mj"] and row["central_ug"]:  # the mean of a live service or a series was in force
        in_force = row["central_ug"] / UG_PER_KG * GRAMS_PER_KG / (row["facility_mj"] / MJ_PER_J / JOULES_PER_KWH)
        was = None if was is None else was * in_force / old_own.intensity.figure.value
    if not was or now is None:
        return []
    ratio = now / was
    if abs(ratio - 1) <= LEAST_CHANGE:
        return []
    intensity = new_own.factors.intensity
    year = f", {intensity.year}" if not new.stated and intensity.year else ""
    source = intensity.figure.source if new.stated else f"{intensity.attribution}{year}"
    words = f"intensity {grams(was)} to {grams(now)} g/kWh ({source})"
    if intensity.gwp != old_own.intensity.gwp:
        words += f", global warming potentials {old_own.intensity.gwp} to {intensity.gwp}"
    return [Change("intensity", ratio, words)]


def embodied_changes(
    shares_ug: Mapping[str, int], old: Factors, new: NewFactors, *, with_life: bool
) -> Iterator[Change]:
    """Yield the changes of embodied carbon that consists of these parts. `with_life` is for carbon that is charged by
    time.
    """
    sums = {part: float(amount) for part, amount in shares_ug.items()}
    if not sum(sums.values()):
        return

    def change(factor: str, parts: Iterable[str], ratio: float, words: str) -> Iterator[Change]:
        before = sum(sums.values())
        for part in parts:
            sums[part] *= ratio
        after = sum(sums.values())
        if abs(after / before - 1) > LEAST_CHANGE:
            yield Change(factor, after / before, words)

    for part in PARTS:
        was, now = _kg_of(old, part), _kg_of(new.factors, part)
        if was is None or now is None or was is now or not was.value:
            continue
        ratio = now.value / was.value
        words = f"{part} {was.value:.4g} to {now.value:.4g} kg ({now.source})"
        yield from change(f"embodied {part}", (part,), ratio, words)
    if not with_life:
        return
    timed = [part for part in PARTS if part != BUILDING]
    for factor, was, now in (
        ("lifetime", old.lifetime_years, new.factors.lifetime_years),
        ("fleet utilisation", old.fleet_utilisation, new.factors.fleet_utilisation),
    ):
        if was is not None and now is not None and was is not now:
            words = f"{factor} {was.value:.4g} to {now.value:.4g} ({now.source})"
            yield from change(factor, timed, was.value / now.value, words)


def _kg_of(factors: Factors, part: str) -> Figure | None:
    return factors.building_kg if part == BUILDING else factors.embodied_kg.get(part)


def contract_rate(factors: Factors, scope: EmissionScope) -> float:
    """Return the g/kWh by contract, or that of the location where there is no contract."""
    location = _located(factors.intensity, scope) or 0.0
    contracts = Contracts.of(factors)
    if contracts is None:
        return location
    one_kwh = np.array([JOULES_PER_KWH])
    settled = contracts.settle(one_kwh, np.array([location / GRAMS_PER_KG]))
    return float(settled.operational_kg[0]) * GRAMS_PER_KG


def _located(intensity: Intensity, scope: EmissionScope) -> float | None:
    return turned(intensity, scope) if intensity.basis is not None else intensity.figure.value


def grams(g_per_kwh: float) -> str:
    return f"{g_per_kwh:.4g}"
