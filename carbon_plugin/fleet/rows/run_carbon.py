"""Compute the carbon of one run for a store: whole micrograms, by the accounting of its audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from carbon_plugin.audit.findings.reserved import Reserved
from carbon_plugin.audit.run_carbon import plus_independent, turned_figure, turned_operational
from carbon_plugin.audit.tally.account.accounting import SAMPLING, Inputs, RunEnergy, inputs_of
from carbon_plugin.audit.tally.file_pass import FilePass
from carbon_plugin.errors import FootprintError, LedgerError
from carbon_plugin.fleet.rows.run_places import SCOPES, turned
from carbon_plugin.fleet.store.schema import MJ_PER_J, UG_PER_KG
from carbon_plugin.footprint.account import account, carbon_totals
from carbon_plugin.footprint.propagation import central_outcome, gather
from carbon_plugin.footprint.values import EmissionScope, Factors
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH


class RunMicrograms(Struct, frozen=True, kw_only=True):
    """The carbon of a run in whole micrograms: the central values of its audit.

    `located_ug` holds the location-based carbon for each scope of emissions ("lifecycle", "direct") in which it is
    known, and `central_ug` that in the run's own scope. `ends` are p10 and p90 over the central value of each carbon of
    `RANGED` that is known.
    """

    scope: EmissionScope | None
    facility_mj: int
    central_ug: int
    located_ug: dict[EmissionScope, int]
    market_ug: int | None
    embodied_ug: int
    parts_ug: dict[str, int]
    ends: dict[str, tuple[float, float]]


def carbon_of(
    energy: RunEnergy, files: Sequence[FilePass], reserved: Reserved, factors: Factors | None
) -> RunMicrograms | None:
    """Return the carbon of a run, or None without factors. Raises `LedgerError` where it cannot be computed."""
    if factors is None:
        return None
    try:
        inputs = inputs_of(energy, files, reserved, factors)
        outcome = central_outcome(gather(inputs.items, inputs.charged, inputs.factors, (1.0, 1.0)))
    except FootprintError as error:
        raise LedgerError(f"its carbon cannot be computed: {error}") from None
    location, embodied, facility_j = (
        one.item() for one in (outcome.operational_kg, outcome.embodied_kg, outcome.energy_j["facility"])
    )
    intensity = inputs.factors.intensity
    scopes = {basis.scope if basis else None for basis in intensity.bases}
    own = scopes.pop() if len(scopes) == 1 else None
    located_ug = {}
    for scope in SCOPES:
        if scope == own:
            located_ug[scope] = round(location * UG_PER_KG)
        elif (g_per_kwh := turned(intensity, scope)) is not None:  # as `audit.run_carbon` turns the run of a programme
            located_ug[scope] = round(facility_j / JOULES_PER_KWH * g_per_kwh / GRAMS_PER_KG * UG_PER_KG)
    ranges = _ranges(inputs, own, facility_j, by_contract=outcome.market is not None)
    return RunMicrograms(
        scope=own,
        facility_mj=round(facility_j * MJ_PER_J),
        central_ug=round(location * UG_PER_KG),
        located_ug=located_ug,
        market_ug=None if outcome.market is None else round(outcome.market.operational_kg.item() * UG_PER_KG),
        embodied_ug=round(embodied * UG_PER_KG),
        parts_ug={part: round(kg.item() * UG_PER_KG) for part, kg in outcome.embodied_parts_kg.items()},
        ends={name: (one.low / one.value, one.high / one.value) for name, one in ranges.items() if one.value > 0},
    )


def _ranges(inputs: Inputs, own: EmissionScope | None, facility_j: float, *, by_contract: bool) -> Mapping[str, Range]:
    """Return each carbon of `RANGED` that is known, kgCO2e, with the range that the run's audit states.

    Carbon in another scope than the run's `own` has that of a programme of such runs.
    """
    arguments = inputs.items, inputs.charged, inputs.factors
    whole = account(*arguments, draws=SAMPLING.draws, seed=SAMPLING.seed) if by_contract else None
    stated = carbon_totals(*arguments, draws=SAMPLING.draws, seed=SAMPLING.seed)
    embodied = stated.embodied_kg
    found = {} if embodied is None else {"embodied": embodied}
    for scope in SCOPES:
        located, total = None, embodied
        if scope == own:
            located, total = stated.operational_kg, stated.counted_kg
        elif (other := turned_figure(inputs.factors.intensity, scope)) is not None:
            located = turned_operational(stated.operational_kg, facility_j, other)
            total = located if embodied is None else plus_independent(located, embodied)
        by_its_contract = whole.market.operational_kg.range if whole is not None and whole.market else located
        known = {scope: located, f"market_{scope}": by_its_contract, f"total_{scope}": total}
        found |= {name: one for name, one in known.items() if one is not None}
    return found
