"""Compute the Software Carbon Intensity of one training run (ISO/IEC 21031:2024), in gCO2e a training token.

`audit.exports.sci_ai` computes the score of a released model over its whole programme.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.audit.exports.evidence import (
    GridFactor,
    Origin,
    basis_of,
    carbon_of,
    effective_share,
    embodied_of,
    energy_method,
    grid_factor,
    kwh,
    origin_of,
)
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import narrative
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.factors.tables import outside_table
from carbon_plugin.footprint.sci import score
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.ledger.held.unobserved import UNOBSERVED_PHASE
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import ZERO
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, SECONDS_PER_HOUR, SECONDS_PER_YEAR

STANDARD = "ISO/IEC 21031:2024, Software Carbon Intensity: SCI = (O + M) per R"


class SciHardware(Struct, frozen=True, kw_only=True):
    """The terms of M = TE x TiR / EL x RR / ToR for one kind of hardware.

    `total_embodied` (TE) is the kgCO2e of one unit. `time_reserved_h` (TiR) is the reserved time, summed over all
    units. `expected_lifespan_h` (EL) is the life of one unit. `resources_reserved` (RR) is the mean part of a unit that
    the run had reserved, of `total_resources` (ToR), which is one unit. `embodied` (M) is in gCO2e.
    """

    scope: str
    total_embodied: Figure
    time_reserved_h: float
    expected_lifespan_h: float
    resources_reserved: float
    total_resources: float
    embodied: Figure


class SciReport(Struct, frozen=True, kw_only=True):
    """The score with the boundary and the method that the standard asks for.

    `score` = (`operational` + `embodied`) / R, in gCO2e. `energy` includes that of the facility, and
    `unobserved_energy` is the part of it that is modelled for reserved hardware without records. `hardware` holds the
    terms that `embodied` is made of. `left_out` estimates the size of what belongs to no run. No instrument, offset or
    contract is in any number.
    """

    standard: str
    score: Figure
    functional_unit: str
    functional_units: float
    operational: Figure
    embodied: Figure
    energy: Figure
    unobserved_energy: Figure
    pue: Figure
    intensity: GridFactor
    embodied_by_scope: dict[str, Figure]
    hardware: list[SciHardware]
    left_out: list[Figure]
    boundary: list[str]
    method: list[str]
    origin: Origin


def sci_report(summary: AuditSummary) -> SciReport:
    """Return the score of one run for each training token.

    Tokens of steps that a restart repeated count once, but the carbon of these steps counts in full. Raises
    `ReportError` where the run lacks what the standard requires, and names it.
    """
    footprint, factors = carbon_of(summary, "SCI")
    check_sci_basis(summary, "SCI")
    tokens = (summary.progress.tokens or 0) * effective_share(summary)
    if tokens <= 0:
        raise ReportError(f"SCI: run {summary.run.name} recorded no training tokens, expected the functional unit R")
    operational = footprint.operational_kg.scaled(GRAMS_PER_KG, "gCO2e")
    embodied_kg = embodied_of(summary, "SCI")
    embodied = embodied_kg.scaled(GRAMS_PER_KG, "gCO2e")
    total = footprint.counted_kg.scaled(GRAMS_PER_KG, "gCO2e")
    left_out = left_out_of(footprint.operational_kg.value, embodied_kg.value)
    return SciReport(
        standard=STANDARD,
        score=Figure(
            score(operational.value, embodied.value, tokens),
            total.low / tokens,
            total.high / tokens,
            "gCO2e/training token",
            "modelled",
            "(O + M) / R; range of O + M by sampling",
        ),
        functional_unit=f"training token (effective: repeated steps count once; {summary.progress.tokens_source})",
        functional_units=tokens,
        operational=operational,
        embodied=embodied,
        energy=kwh(footprint.energy_j["facility"]),
        unobserved_energy=_unobserved(summary, factors),
        pue=factors.pue,
        intensity=grid_factor(summary, factors),
        embodied_by_scope={
            scope: part.scaled(GRAMS_PER_KG, "gCO2e") for scope, part in footprint.embodied_parts_kg.items()
        },
        hardware=_hardware(summary, footprint, factors),
        left_out=left_out,
        boundary=sci_boundary(summary),
        method=sci_method(summary, factors),
        origin=_origin(summary, left_out),
    )


def _origin(summary: AuditSummary, left_out: Sequence[Figure]) -> Origin:
    origin = origin_of(summary)
    return replace(origin, limits=[*origin.limits, *map(left_out_words, left_out)])


def _unobserved(summary: AuditSummary, factors: Factors) -> Figure:
    """Return the facility energy in kWh that is modelled for reserved hardware without records; 0 where there is
    none, or where nobody knows its idle power."""
    waited = summary.by_phase.get(UNOBSERVED_PHASE)
    if waited:
        source = f"idle power of {summary.reserved.idle_model}, times PUE"
    elif summary.reserved.unknown_s > 0:
        unrecorded = wording.device_time(summary.reserved.unknown_s)
        source = f"nothing is modelled: the idle power in {unrecorded} of device time without records is not known"
    else:
        source = "all reserved time was recorded"
    return kwh(Figure.of(waited.range if waited else ZERO, "J", "modelled", source).scaled(factors.pue.value))


def _hardware(summary: AuditSummary, footprint: Footprint, factors: Factors) -> list[SciHardware]:
    reserved = summary.reserved
    times = {"host": (reserved.host_s, reserved.whole_host_s)}
    found = []
    for scope, each in factors.embodied_kg.items():
        charged_s, whole_s = times.get(scope, (reserved.device_s, reserved.whole_device_s))
        found.append(
            SciHardware(
                scope=scope,
                total_embodied=each,
                time_reserved_h=whole_s / SECONDS_PER_HOUR,
                expected_lifespan_h=factors.lifetime_years.value * SECONDS_PER_YEAR / SECONDS_PER_HOUR,
                resources_reserved=charged_s / whole_s if whole_s else 0.0,
                total_resources=1.0,
                embodied=footprint.embodied_parts_kg[scope].scaled(GRAMS_PER_KG, "gCO2e"),
            )
        )
    return found


def left_out_of(operational_kg: float, embodied_kg: float) -> list[Figure]:
    """Return estimates, in gCO2e, of emissions that no run accounts for: the end of life of its share of the hardware,
    and shared storage.
    """
    table = outside_table()
    parts = {
        "end of life of the hardware": (table.end_of_life, embodied_kg),
        "shared storage, its electricity": (table.storage, operational_kg),
    }
    return [
        Figure(
            whole_kg * share.value * GRAMS_PER_KG,
            whole_kg * (share.low or 0.0) * GRAMS_PER_KG,
            whole_kg * (share.high or share.value) * GRAMS_PER_KG,
            "gCO2e",
            "assumed",
            f"{name}: {wording.percent(share.value)} {share.source}",
        )
        for name, (share, whole_kg) in parts.items()
    ]


def left_out_words(estimate: Figure) -> str:
    """Return a sentence for the limits about the estimated emissions that are in no number."""
    name, _, source = estimate.source.partition(": ")
    low, value, high = (wording.number(grams) for grams in (estimate.low, estimate.value, estimate.high))
    return f"The {name} is in no number; it is about {value} gCO2e ({low} to {high}; {source})."


def check_sci_basis(summary: AuditSummary, wanted_by: str) -> None:
    """Raise `ReportError` unless a run has what an SCI score needs.

    It needs every reserved node, its host, the embodied carbon of each device, and a location-based intensity.
    """
    _, factors = carbon_of(summary, wanted_by)
    basis_of(factors, wanted_by)
    coverage, name = summary.coverage, summary.run.name
    if factors.fleet_utilisation is not None:
        raise ReportError(
            f"{wanted_by}: run {name} charges embodied carbon by {factors.amortisation}, expected reserved time over "
            "calendar life (site.amortisation: reserved_time)"
        )
    if coverage.nodes_seen < coverage.nodes:
        raise ReportError(
            f"{wanted_by}: run {name} has ledgers of {coverage.nodes_seen} of {coverage.nodes} nodes, expected all: E "
            "includes all hardware that was reserved"
        )
    if "host" not in summary.by_rung:
        raise ReportError(f"{wanted_by}: run {name} has no energy of its hosts, expected that of all reserved hardware")
    embodied_of(summary, wanted_by)


def sci_boundary(summary: AuditSummary) -> list[str]:
    """Return what the score includes and what it leaves out."""
    rungs = ", ".join(rung for rung in ("gpu", "host", "network", "facility") if rung in summary.by_rung)
    reserved = summary.reserved
    from_when = "its first record (E) and allocation (M)" if reserved.unknown_s > 0 else "allocation"
    waited = (
        [
            f"inside, modelled as idle: {wording.device_time(reserved.modelled_idle_s)} of reserved device time "
            "without records"
        ]
        if reserved.modelled_idle_s > 0
        else []
    )
    return [
        f"inside: training of run {summary.run.name}, from {from_when} to its last record, start-up, evaluation, "
        "checkpoints, repeated work and idle time included",
        *waited,
        f"inside, energy: {rungs}; the facility around them by PUE",
        f"inside, embodied: {', '.join(summary.factors.embodied_kg) if summary.factors else 'nothing'}",
        "outside: storage and preparation of data, people, inference, end of life",
        *(f"outside: {lack}" for lack in outside_totals(summary)),
    ]


def outside_totals(summary: AuditSummary) -> list[str]:
    """Return what the totals of a run do not contain, as text that follows a colon."""
    return [lack.rstrip(".") for lack in narrative.left_out(summary)]


def sci_method(summary: AuditSummary, factors: Factors) -> list[str]:
    """Return how O, E, I and M were computed, in words."""
    return [
        f"E: {energy_method(summary)} Times PUE {factors.pue.value:g} ({factors.pue.source}).",
        f"I: location-based, {factors.intensity.figure.source}; no market-based instrument.",
        f"M: TE x TiR / EL x RR / ToR, {factors.amortisation}; a part of a node is charged its share.",
        "Ranges: p10 to p90 by seeded sampling of all factors, one draw for the whole run.",
    ]
