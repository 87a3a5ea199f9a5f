"""Compute the carbon of one run for a store: whole micrograms, by the accounting of its audit."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.audit.findings.reserved import Reserved
from carbon_plugin.audit.tally.account.accounting import RunEnergy, inputs_of
from carbon_plugin.audit.tally.file_pass import FilePass
from carbon_plugin.errors import FootprintError, LedgerError
from carbon_plugin.fleet.rows.run_places import SCOPES, turned
from carbon_plugin.fleet.store.schema import MJ_PER_J, UG_PER_KG
from carbon_plugin.footprint.propagation import central_outcome, gather
from carbon_plugin.footprint.values import EmissionScope, Factors
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH


class RunMicrograms(Struct, frozen=True, kw_only=True):
    """The carbon of a run in whole micrograms: the central values of its audit.

    `located_ug` holds the location-based carbon for each scope of emissions ("lifecycle", "direct") in which it is
    known, and `central_ug` that in the run's own scope.
    """

    scope: EmissionScope | None
    facility_mj: int
    central_ug: int
    located_ug: dict[EmissionScope, int]
    market_ug: int | None
    embodied_ug: int
    parts_ug: dict[str, int]


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
    return RunMicrograms(
        scope=own,
        facility_mj=round(facility_j * MJ_PER_J),
        central_ug=round(location * UG_PER_KG),
        located_ug=located_ug,
        market_ug=None if outcome.market is None else round(outcome.market.operational_kg.item() * UG_PER_KG),
        embodied_ug=round(embodied * UG_PER_KG),
        parts_ug={part: round(kg.item() * UG_PER_KG) for part, kg in outcome.embodied_parts_kg.items()},
    )
