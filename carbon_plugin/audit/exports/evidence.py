"""Collect what every export states beside its numbers (the run, its evidence and its factors), and check the input of
an export.

An export is made from an `AuditSummary`, which is the content of `report.json`, and from nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from carbon_plugin.audit.result import AUDIT_VERSION, AuditSummary
from carbon_plugin.audit.sentences import narrative, phrases
from carbon_plugin.audit.sentences.verdict import verdict_reason
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import Basis, Factors, Footprint, Intensity, IntensityPart
from carbon_plugin.ledger.verification.verify import VerificationState
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import JOULES_PER_KWH
from carbon_plugin.spec.parsing.boundary import parse_json, read_bytes


class Origin(Struct, frozen=True, kw_only=True):
    """One instance says where the numbers of an export come from.

    `ledger_heads` are the ends of the chains that they were added up from. `ledger_state` says how far these can be
    believed (`verified`: an anchor vouches for all of them). `limits` name what is in no total.
    """

    run_id: str
    run_name: str
    programme: str | None
    role: str | None
    start_unix_s: float
    end_unix_s: float
    plugin_version: str
    audited_unix_s: float
    verified: bool
    ledger_state: VerificationState
    ledger_heads: dict[str, str]
    measured_share: float
    limits: list[str]


class GridFactor(Struct, frozen=True, kw_only=True):
    """An emission factor of electricity, with all that a reader needs to judge it.

    `applied_g_per_kwh` is the energy-weighted mean over the run. `granularity_time` and `granularity_area` say over
    what time and area the factor is an average. `zone_asked` is the zone as the user wrote it, such as a cloud region.
    `gases` and `gwp` say which greenhouse gases count and by which global warming potentials.
    """

    zone: str
    zone_name: str
    zone_asked: str
    figure: Figure
    applied_g_per_kwh: float
    basis: Basis | None
    granularity_time: str
    granularity_area: str
    year: int | None
    gwp: str
    gases: str
    licence: str
    attribution: str
    notes: list[str]


def read_summary(path: str | os.PathLike[str]) -> AuditSummary:
    """Read the summary in a `report.json`, or make the summary of a run directory from its ledgers.

    Raises `LedgerError` for ledgers and `ReportError` for a file that cannot be read.
    """
    if not Path(path).is_file():
        return summarise(path)
    content = read_bytes(Path(path), ReportError)
    summary = parse_json(content, path, "not a report.json of carbon-plugin audit", ReportError, AuditSummary)
    if summary.version != AUDIT_VERSION:
        raise ReportError(f"{path}: version is {summary.version}, expected {AUDIT_VERSION}")
    return summary


def origin_of(summary: AuditSummary) -> Origin:
    """Return where all numbers of a summary come from: the run, its period, its ledgers and its limits."""
    run = summary.run
    return Origin(
        run_id=run.run_id,
        run_name=run.name,
        programme=run.programme,
        role=run.role,
        start_unix_s=summary.period.start_unix_s,
        end_unix_s=summary.period.end_unix_s,
        plugin_version=summary.plugin_version,
        audited_unix_s=summary.created_unix_s,
        verified=summary.verification.state == "verified",
        ledger_state=summary.verification.state,
        ledger_heads={check.file: check.head for check in summary.verification.files},
        measured_share=phrases.measured_share(summary),
        limits=_limits(summary),
    )


def _limits(summary: AuditSummary) -> list[str]:
    """Return what a reader must know before using a number, with the worst first."""
    return [*_unverified(summary), *narrative.warnings(summary)]


def limits_of_energy(summary: AuditSummary) -> list[str]:
    """Return what a reader must know before using an energy. Notes on factors are left out, because an energy has no
    factors.
    """
    return [*_unverified(summary), *narrative.left_out(summary), *narrative.ways_of_counting(summary)]


def _unverified(summary: AuditSummary) -> list[str]:
    state = summary.verification.state
    words = {"contradicted": "The ledgers do not verify", "incomplete": "The ledgers are not complete"}.get(state)
    return [f"{words}: {verdict_reason(summary.verification).rstrip('.')}."] if words else []


def carbon_of(summary: AuditSummary, wanted_by: str) -> tuple[Footprint, Factors]:
    """Return footprint and factors of a run. Raises `ReportError` with the reason where the run has no carbon."""
    if summary.footprint is None or summary.factors is None:
        raise ReportError(f"{wanted_by}: run {summary.run.name} has no carbon: {summary.no_carbon_reason}")
    return summary.footprint, summary.factors


def embodied_of(summary: AuditSummary, wanted_by: str) -> Figure:
    """Return the embodied carbon of a run, kgCO2e. Raises `ReportError` where some reserved hardware has an unknown
    one.
    """
    footprint, _ = carbon_of(summary, wanted_by)
    unknown = phrases.unknown_embodied(summary)
    if unknown or footprint.embodied_kg is None:
        raise ReportError(
            f"{wanted_by}: run {summary.run.name} has no embodied carbon of {' and '.join(unknown)}, expected an "
            f"estimate for all reserved hardware; {phrases.how_to_name_hardware(summary)}"
        )
    return footprint.embodied_kg


def basis_of(factors: Factors, wanted_by: str) -> Basis:
    """Return the basis of the run's intensity: which emissions and which electricity it counts.

    Raises `ReportError` where the basis is not stated or changes over the run, and where the intensity is by contract.
    """
    intensity = factors.intensity
    if len(intensity.bases) > 1:
        raise ReportError(
            f"{wanted_by}: the intensity of {intensity.zone_name} counts different things during the run, expected one "
            f"basis: {'; '.join(map(part_words, intensity.parts))}. What a live service falls back on counts the same "
            "where site.intensity_g_per_kwh is given with its site.intensity_basis"
        )
    if intensity.basis is None:
        raise ReportError(
            f"{wanted_by}: what the intensity of {intensity.zone_name} counts is not stated; expected site.zone of a "
            'shipped table, or site.intensity_basis (for instance "lifecycle average generation") beside the number'
        )
    if intensity.basis.method == "market":
        raise ReportError(
            f"{wanted_by}: the intensity of {intensity.zone_name} is market-based, expected a location-based one; "
            "contracts belong into site.instruments"
        )
    return intensity.basis


def basis_words(intensity: Intensity) -> str:
    """Return a basis as a phrase: "location-based, lifecycle, average, generation"."""
    if len(intensity.bases) > 1:
        return f"mixed bases ({' and '.join(map(describe_basis, intensity.bases))})"
    basis = intensity.basis
    if basis is None:
        return "basis not stated"
    return f"{basis.method}-based, {describe_basis(basis)}"


def part_words(part: IntensityPart) -> str:
    """Return a source of a mean intensity in words: its share of the energy, its mean, its name and its basis."""
    mean = f"{wording.percent(part.share)} of the energy at {wording.number(part.g_per_kwh)} g/kWh"
    return f"{mean} is {describe_basis(part.basis)} ({part.source})"


def grid_factor(summary: AuditSummary, factors: Factors) -> GridFactor:
    """Return the intensity of a run as an export states it."""
    intensity = factors.intensity
    applied = phrases.grid_g_per_kwh(summary)
    annual = intensity.granularity == "annual" and intensity.year is not None
    time = f"annual average of {intensity.year}" if annual else intensity.granularity
    if intensity.parts:
        time += "; over the run the mean of its windows, weighted with their energy"
    return GridFactor(
        zone=intensity.zone,
        zone_name=intensity.zone_name,
        zone_asked=intensity.asked or intensity.zone,
        figure=intensity.figure,
        applied_g_per_kwh=applied,
        basis=intensity.basis,
        granularity_time=time,
        granularity_area=f"grid zone {intensity.zone_name}",
        year=intensity.year,
        gwp=intensity.gwp,
        gases=intensity.gases,
        licence=intensity.licence,
        attribution=intensity.attribution,
        notes=list(intensity.notes),
    )


def kwh(joules: Figure) -> Figure:
    """Return an energy figure in kWh."""
    return joules.scaled(1 / JOULES_PER_KWH, "kWh")


def energy_method(summary: AuditSummary) -> str:
    """Return how the energy of the machines is known, in sentences on meters, rungs and shares."""
    meters: dict[str, set[str]] = {}
    for device in summary.devices:
        meters.setdefault(device.identity.rung, set()).add(device.identity.meter)
    named = "; ".join(f"{rung}: {', '.join(sorted(names))}" for rung, names in sorted(meters.items()))
    return f"Energy was read in windows over the whole job and added up ({named}); {how_known(summary)}."


def how_known(summary: AuditSummary) -> str:
    """Return in words how much of the machines' energy was measured."""
    share = phrases.measured_share(summary)
    if share <= 0:
        return "all of it modelled"
    return "all of it measured" if share >= 1 else f"{wording.percent(share)} of it measured, the rest modelled"


def effective_share(summary: AuditSummary) -> float:
    """Return the share of the executed steps that were not repetitions, 0 to 1."""
    steps = summary.progress.steps
    return max(0, steps - summary.waste.redone_steps) / steps if steps else 0.0


def effective_flops(summary: AuditSummary) -> float | None:
    """Return the model FLOPs of a run without recompute and with each step counted once, or None where no prediction
    counted them.
    """
    a_step = summary.work.model_flops_per_step if summary.work else None
    return None if a_step is None else a_step * summary.progress.steps * effective_share(summary)
