"""Compute the Software Carbon Intensity of one training run (ISO/IEC 21031:2024), in gCO2e a training token.

`audit.exports.sci_ai` computes the score of a released model over its whole programme.
"""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.audit.exports.evidence import (
    GridFactor,
    Origin,
    basis_of,
    carbon_of,
    check_embodied,
    effective_share,
    energy_method,
    grid_factor,
    kwh,
    origin_of,
)
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import narrative
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.sci import score
from carbon_plugin.footprint.values import Factors
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.units import GRAMS_PER_KG

STANDARD = "ISO/IEC 21031:2024, Software Carbon Intensity: SCI = (O + M) per R"


class SciReport(Struct, frozen=True, kw_only=True):
    """The score with the boundary and the method that the standard asks for.

    `score` = (`operational` + `embodied`) / R, in gCO2e. `energy` includes that of the facility. No instrument, offset
    or contract is in any number.
    """

    standard: str
    score: Figure
    functional_unit: str
    functional_units: float
    operational: Figure
    embodied: Figure
    energy: Figure
    pue: Figure
    intensity: GridFactor
    embodied_by_scope: dict[str, Figure]
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
    tokens = summary.progress.tokens * effective_share(summary)
    if tokens <= 0:
        raise ReportError(f"SCI: run {summary.run.name} recorded no training tokens, expected the functional unit R")
    operational = footprint.operational_kg.scaled(GRAMS_PER_KG, "gCO2e")
    embodied = footprint.embodied_kg.scaled(GRAMS_PER_KG, "gCO2e")
    total = footprint.total_kg.scaled(GRAMS_PER_KG, "gCO2e")
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
        pue=factors.pue,
        intensity=grid_factor(summary, factors),
        embodied_by_scope={
            scope: part.scaled(GRAMS_PER_KG, "gCO2e") for scope, part in footprint.embodied_parts_kg.items()
        },
        boundary=sci_boundary(summary),
        method=sci_method(summary, factors),
        origin=origin_of(summary),
    )


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
    check_embodied(summary, wanted_by)


def sci_boundary(summary: AuditSummary) -> list[str]:
    """Return what is inside and outside the score."""
    rungs = ", ".join(rung for rung in ("gpu", "host", "network", "facility") if rung in summary.by_rung)
    return [
        f"inside: training of run {summary.run.name}, from allocation to its last record, start-up, evaluation, "
        "checkpoints, repeated work and idle time included",
        f"inside, energy: {rungs}; the facility around them by PUE",
        f"inside, embodied: {', '.join(summary.factors.embodied_kg) if summary.factors else 'nothing'}",
        "outside: storage and preparation of data, people, inference, end of life",
        *(f"outside: {lack}" for lack in outside_totals(summary)),
    ]


def outside_totals(summary: AuditSummary) -> list[str]:
    """Return what the totals of a run lack, in lines that follow a colon."""
    return [lack.rstrip(".") for lack in narrative.left_out(summary)]


def sci_method(summary: AuditSummary, factors: Factors) -> list[str]:
    """Return how O, E, I and M were computed."""
    return [
        f"E: {energy_method(summary)} Times PUE {factors.pue.value:g} ({factors.pue.source}).",
        f"I: location-based, {factors.intensity.figure.source}; no market-based instrument.",
        f"M: TE x TiR / EL x RR / ToR, {factors.amortisation}; a part of a node is charged its share.",
        "Ranges: p10 to p90 by seeded sampling of all factors, one draw for the whole run.",
    ]
