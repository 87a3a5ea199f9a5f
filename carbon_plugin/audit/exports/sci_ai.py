"""Compute Software Carbon Intensity for AI: the provider's score of training a released model, over all runs of its
programme.

This follows the Green Software Foundation's SCI for AI specification of 2026-01-12. The whole of training counts, with
intermediate, failed and early-stopped runs. The functional unit is a training token, a FLOP or a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.audit.exports.evidence import (
    GridFactor,
    Origin,
    carbon_of,
    effective_flops,
    effective_share,
    grid_factor,
    origin_of,
)
from carbon_plugin.audit.exports.sci import check_sci_basis, outside_totals, sci_method
from carbon_plugin.audit.programme import FINAL, ROLES, Programme, RoleTotal, add_up
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.sci import score
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG

STANDARD = "SCI for AI (Green Software Foundation, 2026-01-12) on ISO/IEC 21031:2024, provider score of training"
ALL_ROLES = "all"
BILLION = 1e9


class SciAiScore(Struct, frozen=True, kw_only=True):
    """The score in one functional unit. `score` is in gCO2e a unit, and `functional_units` is R."""

    functional_unit: str
    functional_units: float
    score: Figure


class SciAiReport(Struct, frozen=True, kw_only=True):
    """The scores of a released model, with the boundary that was declared for them.

    `declared_roles` are the roles whose runs are declared to be all here. Of these, `roles_without_runs` are declared
    to have none. `operational` and `embodied` are of all runs, gCO2e.
    """

    standard: str
    programme: str
    convention: str
    scores: list[SciAiScore]
    operational: Figure
    embodied: Figure
    roles: list[RoleTotal]
    declared_roles: list[str]
    roles_without_runs: list[str]
    runs: list[Origin]
    intensities: list[GridFactor]
    boundary: list[str]
    method: list[str]


def sci_ai_report(audited: Sequence[tuple[Path, AuditSummary]], covers: Collection[str]) -> SciAiReport:
    """Return the score of the programme that these runs belong to.

    `covers` declares the roles of which no run is missing here ("all" for every role). Raises `ReportError` unless
    every role is declared, and where the final runs lack tokens, FLOPs or parameters.
    """
    declared = _declared(covers)
    programme = add_up(audited)
    if programme.operational_kg is None:
        raise ReportError(f"SCI for AI: {programme.warnings[-1]}")
    stray = sorted({run.role for run in programme.runs} - set(ROLES))
    if stray:
        raise ReportError(f"SCI for AI: runs of role {', '.join(stray)}, expected one of {', '.join(ROLES)}")
    summaries = _of_programme(audited, programme)
    for summary in summaries:
        check_sci_basis(summary, "SCI for AI")
    assert programme.embodied_kg is not None  # each run has been asked for it
    assert programme.total_kg is not None
    final = [summary for summary in summaries if summary.run.role == FINAL]
    operational, embodied, total = (
        figure.scaled(GRAMS_PER_KG, "gCO2e")
        for figure in (programme.operational_kg, programme.embodied_kg, programme.total_kg)
    )
    return SciAiReport(
        standard=STANDARD,
        programme=programme.name,
        convention="effective: tokens and FLOPs of the final runs, steps that a restart repeated counted once",
        scores=[
            _score(unit, units, operational, embodied, total)
            for unit, units in (
                ("training token", _tokens(final)),
                ("training FLOP", _flops(final)),
                ("billion parameters", _parameters(final) / BILLION),
            )
        ],
        operational=operational,
        embodied=embodied,
        roles=programme.roles,
        declared_roles=declared,
        roles_without_runs=[role for role in declared if role in programme.missing_roles],
        runs=[origin_of(summary) for summary in summaries],
        intensities=[grid_factor(summary, carbon_of(summary, "SCI for AI")[1]) for summary in summaries],
        boundary=[
            f"inside: {plural(len(summaries), 'run')} of programme {programme.name}, declared to be all of "
            f"role {', '.join(declared)}",
            "outside: inception, deployment and retirement of the model; storage and networks beyond the metered nodes",
            *(f"outside, run {one.run.name}: {lack}" for one in summaries for lack in outside_totals(one)),
        ],
        method=sci_method(final[0], carbon_of(final[0], "SCI for AI")[1]),
    )


def _declared(covers: Collection[str]) -> list[str]:
    unknown = sorted(set(covers) - {*ROLES, ALL_ROLES})
    if unknown:
        raise ReportError(f"covers: {', '.join(unknown)}, expected of {', '.join((*ROLES, ALL_ROLES))}")
    declared = list(ROLES) if ALL_ROLES in covers else [role for role in ROLES if role in covers]
    left = [role for role in ROLES if role not in declared]
    if left:
        raise ReportError(
            "SCI for AI counts all of training, so a score needs the declaration that all runs of the programme are "
            f"here; not declared: {', '.join(left)} (--covers ROLE, --covers all)"
        )
    return declared


def _of_programme(audited: Sequence[tuple[Path, AuditSummary]], programme: Programme) -> list[AuditSummary]:
    by_directory = {str(directory): summary for directory, summary in audited}
    return [by_directory[run.directory] for run in programme.runs]


def _score(unit: str, units: float, operational: Figure, embodied: Figure, total: Figure) -> SciAiScore:
    value = score(operational.value, embodied.value, units)
    low, high = min(value, total.low / units), max(value, total.high / units)
    return SciAiScore(
        functional_unit=unit,
        functional_units=units,
        score=Figure(value, low, high, f"gCO2e/{unit}", "modelled", "(O + M) / R"),
    )


def _tokens(final: Sequence[AuditSummary]) -> float:
    return _positive("training tokens", sum((one.progress.tokens or 0) * effective_share(one) for one in final))


def _flops(final: Sequence[AuditSummary]) -> float:
    unknown = [one.run.name for one in final if one.work is None or one.work.model_flops_per_step is None]
    if unknown:
        raise ReportError(
            f"SCI for AI: run {', '.join(unknown)} has no FLOPs a step, expected a prediction in its ledger"
        )
    return _positive("training FLOPs", sum(effective_flops(one) or 0.0 for one in final))


def _parameters(final: Sequence[AuditSummary]) -> float:
    sizes = {one.work.parameters if one.work else None for one in final}
    if len(sizes) > 1 or None in sizes:
        raise ReportError(f"SCI for AI: final runs of one model with one parameter count expected, got {sizes or 'no'}")
    return _positive("parameters", float(sizes.pop() or 0))


def _positive(what: str, value: float) -> float:
    if value <= 0:
        raise ReportError(f"SCI for AI: the programme has no {what}, expected a run of role {FINAL} that recorded them")
    return value
