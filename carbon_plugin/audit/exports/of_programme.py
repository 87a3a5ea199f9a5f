"""Fill the forms for a released model from all runs of its programme: pre-, mid- and post-training, and failed runs.

The form of the EU AI Act, the model card, the lines of a greenhouse gas inventory and the paragraph of a paper are each
made from the runs together. Each says which runs it covers, and which roles have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

import carbon_plugin
from carbon_plugin.audit.exports.eu_ai_act import (
    DIGITS,
    KWH_PER_MWH,
    STANDARD,
    TrainingCompute,
    TrainingEnergy,
    TrainingTime,
    time_range,
)
from carbon_plugin.audit.exports.evidence import Origin, origin_of
from carbon_plugin.audit.exports.ghg import STANDARD as GHG_STANDARD
from carbon_plugin.audit.exports.ghg import ghg_report
from carbon_plugin.audit.exports.ghg_factors import GhgInputs
from carbon_plugin.audit.exports.ghg_lines import GhgLine
from carbon_plugin.audit.exports.model_card import ModelCardEmissions, TrainingType, stated_training_type
from carbon_plugin.audit.exports.rounding import significant
from carbon_plugin.audit.programme import Programme, add_up, names_in_words
from carbon_plugin.audit.programme_runs import members_of
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.audit.tally.account.reservations import union
from carbon_plugin.errors import ReportError
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import either, plural
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH, SECONDS_PER_DAY

Audited = Sequence[tuple[Path, AuditSummary]]


class ModelStage(Struct, frozen=True, kw_only=True):
    """One run of a programme in the order of time: its role, its length, its FLOPs (None where nobody counted them),
    and its energy with the facility, or of the machines alone where no site was stated.
    """

    name: str
    run_id: str
    role: str
    start_unix_s: float
    end_unix_s: float
    hardware_days: float
    flop: float | None
    mwh: float


class EuAiActModelReport(Struct, frozen=True, kw_only=True):
    """The fields of the Model Documentation Form for a model, over all runs of its programme.

    `coverage` says which runs are in the numbers and what is not. `missing` names fields that cannot be filled.
    """

    standard: str
    programme: str
    training_time: TrainingTime
    training_compute: TrainingCompute
    training_energy: TrainingEnergy
    stages: list[ModelStage]
    coverage: list[str]
    missing: list[str]
    runs: list[Origin]


class GhgModelReport(Struct, frozen=True, kw_only=True):
    """The lines of an inventory over all runs of a programme. Capital goods are booked once for each device, however
    many of the runs used it."""

    standard: str
    programme: str
    organisational_boundary: Literal["own", "colo", "cloud"]
    years: list[int]
    lines: list[GhgLine]
    coverage: list[str]
    missing: list[str]
    questions: list[str]
    runs: list[Origin]


def eu_ai_act_of_programme(audited: Audited, name: str | None = None) -> EuAiActModelReport:
    """Return the form's fields for a model. Raises `ReportError` for runs without any energy."""
    programme, summaries = _members(audited, name)
    energy_j = sum(one.energy.energy_j for one in summaries)
    if energy_j <= 0:
        raise ReportError(
            f"EU AI Act: programme {programme.name} recorded no energy, expected its ledgers to hold some"
        )
    flops = [_flop(one) for one in summaries]
    counted = [flop for flop in flops if flop is not None]
    without = [one.run.name for one, flop in zip(summaries, flops, strict=True) if flop is None]
    missing = ["benchmarked amount of computation used for inference: nothing here runs inference"]
    if without:
        missing.append(
            f"computation of {names_in_words(without)}: no prediction in these runs counts FLOPs; it is in no sum"
        )
    wall_days = sum(end - start for start, end in union(_extent(one) for one in summaries)) / SECONDS_PER_DAY
    joules = Range.total(_facility(one) for one in summaries)
    mwh = joules.scaled(1 / JOULES_PER_KWH / KWH_PER_MWH)
    measured_j = sum(one.energy.measured_j for one in summaries)
    return EuAiActModelReport(
        standard=STANDARD,
        programme=programme.name,
        training_time=TrainingTime(
            range=time_range(wall_days),
            wall_clock_days=significant(wall_days, DIGITS),
            hardware_days=significant(programme.device_s / SECONDS_PER_DAY, DIGITS),
            hardware="; ".join(dict.fromkeys(one.work.hardware for one in summaries if one.work)),
        ),
        training_compute=TrainingCompute(
            flop=significant(math.fsum(counted), DIGITS) if counted else None,
            order_of_magnitude=math.floor(math.log10(math.fsum(counted))) if counted else None,
            methodology=f"sum over {plural(len(counted), 'run')}, counted from the architecture with repeated steps",
        ),
        training_energy=TrainingEnergy(
            mwh=significant(mwh.value, DIGITS),
            low_mwh=significant(mwh.low, DIGITS),
            high_mwh=significant(mwh.high, DIGITS),
            boundary="facility: machines times PUE; machines only for runs without a site",
            measured_share=measured_j / energy_j,
            methodology=f"sum over {plural(len(summaries), 'run')}, ranges added as if all errors were one",
        ),
        stages=[_stage(one) for one in sorted(summaries, key=lambda one: one.period.start_unix_s)],
        coverage=coverage_of_programme(programme, summaries),
        missing=missing,
        runs=[origin_of(one) for one in summaries],
    )


def model_card_of_programme(audited: Audited, training_type: str | None, name: str | None = None) -> ModelCardEmissions:
    """Return `co2_eq_emissions` of a model over all runs of its programme. Raises `ReportError` without carbon, or for
    a kind of training that is not stated."""
    programme, summaries = _members(audited, name)
    carbon = _carbon(programme, "model card")
    kind: TrainingType = stated_training_type(training_type, f"programme {programme.name}")
    embodied = wording.carbon(programme.embodied_kg.value) if programme.embodied_kg else "unknown and"
    source = (
        f"carbon-plugin {carbon_plugin.__version__}: operational (location-based, {programme.counts}), "
        f"{'; '.join(coverage_of_programme(programme, summaries))}, p10-p90 {wording.carbon_range(carbon)}; "
        f"embodied {embodied} not included"
    )
    return ModelCardEmissions(
        emissions=significant(carbon.value * GRAMS_PER_KG),
        source=source,
        training_type=kind,
        geographical_location=", ".join(dict.fromkeys(_place(one) for one in summaries)),
        hardware_used="; ".join(dict.fromkeys(one.work.hardware for one in summaries if one.work)),
    )


def ghg_of_programme(audited: Audited, inputs: GhgInputs, name: str | None = None) -> GhgModelReport:
    """Return the inventory lines of all runs of a programme, added up by scope, category, name, method and year.

    Lines of electricity that count other emissions, by a direct and by a lifecycle factor, are not added. Raises
    `ReportError` as `ghg_report` does for each run.
    """
    programme, summaries = _members(audited, name)
    reports = [ghg_report(one, inputs) for one in summaries]
    lines: dict[tuple[object, ...], GhgLine] = {}
    for summary, report in zip(summaries, reports, strict=True):
        for line in report.lines:
            scaled = _once(line, summary, summaries) if line.category == 2 else line
            counted = line.note if line.factor is not None else None  # it says which emissions the factor counts
            key = (line.scope, line.category, line.name, line.method, line.inventory_year, counted)
            lines[key] = _added(lines[key], scaled) if key in lines else scaled
    return GhgModelReport(
        standard=GHG_STANDARD,
        programme=programme.name,
        organisational_boundary=inputs.organisational_boundary,
        years=sorted({year for report in reports for year in report.years}),
        lines=list(lines.values()),
        coverage=coverage_of_programme(programme, summaries),
        missing=list(dict.fromkeys(one for report in reports for one in report.missing)),
        questions=list(dict.fromkeys([*(one for report in reports for one in report.questions), *_unlike(summaries)])),
        runs=[report.origin for report in reports],
    )


def _unlike(summaries: Sequence[AuditSummary]) -> list[str]:
    """Return a question if the inventory mixes factors of different emissions."""
    scopes = {basis.scope for one in summaries if one.factors for basis in one.factors.intensity.bases if basis}
    if len(scopes) < 2:
        return []
    return [
        "the electricity of some runs has a direct factor and that of others a lifecycle one: their lines stand apart "
        "and must not be added; carbon-plugin programme --counts lifecycle brings all runs to one"
    ]


def paper_of_programme(audited: Audited, name: str | None = None) -> str:
    """Return a paragraph on all runs of a programme. Raises `ReportError` for runs without carbon."""
    programme, summaries = _members(audited, name)
    carbon = _carbon(programme, "paper")
    roles = ", ".join(
        f"{wording.percent(role.operational_kg.value / (carbon.value or 1.0))} {role.role}"
        for role in programme.roles
        if role.operational_kg is not None
    )
    uncounted = sum(one.progress.tokens is None for one in summaries)
    tokens = wording.number(sum(one.progress.tokens or 0 for one in summaries))
    trained = f" and {tokens} tokens" if uncounted < len(summaries) else ""
    trained += f" (without {plural(uncounted, 'run')} that counted none)" if trained and uncounted else ""
    hardware = "; ".join(dict.fromkeys(one.work.hardware for one in summaries if one.work))
    embodied = programme.embodied_kg
    adds = (
        f"the manufacture of the hardware adds {wording.carbon(embodied.value)} ({wording.carbon_range(embodied)})"
        if embodied
        else "the manufacture of the hardware is not known and not included"
    )
    energy = _with_range(programme.energy_j)
    facility = f", {_with_range(programme.facility_j)} with the facilities" if programme.facility_j else ""
    sentences = [
        f"The {plural(len(summaries), 'run')} of {programme.name} took {wording.device_time(programme.device_s)} of "
        f"reserved device time on {hardware}{trained}.",
        f"The machines used {energy}{facility}.",
        f"That is {wording.carbon(carbon.value)} of operational emissions ({wording.carbon_range(carbon)}; "
        f"location-based, {programme.counts}), by role {roles}; {adds}.",
        "Carbon is the sum of the central values of the runs; ranges (p10 to p90) are added as if all errors were one.",
        *(f"{line[:1].upper()}{line[1:]}." for line in coverage_of_programme(programme, summaries)),
    ]
    return " ".join(sentences)


def coverage_of_programme(programme: Programme, summaries: Sequence[AuditSummary]) -> list[str]:
    """Return phrases that say which runs are in the numbers of a programme, how well these are known, and what is
    missing.
    """
    measured_j = sum(one.energy.measured_j for one in summaries)
    share = measured_j / programme.energy_j.value if programme.energy_j.value else 0.0
    counted = ", ".join(f"{role.runs} {role.role}" for role in programme.roles)
    found = [f"{plural(len(summaries), 'run')} ({counted})", f"{wording.percent(share)} of the energy measured"]
    if programme.missing_roles:
        found.append(f"no run here has the role {either(programme.missing_roles)}")
    partial = [one.run.name for one in summaries if one.coverage.nodes_seen < one.coverage.nodes]
    if partial:
        found.append(f"ledgers of some nodes are missing in {names_in_words(partial)}")
    unknown = [one.run.name for one in summaries if phrases.unknown_embodied(one)]
    if unknown:
        found.append(f"the manufacture of hardware of {names_in_words(unknown)} is unknown")
    return found


def _members(audited: Audited, name: str | None) -> tuple[Programme, list[AuditSummary]]:
    programme = add_up(audited, name)
    return programme, [summary for _, summary in members_of(audited, programme.name)]


def _carbon(programme: Programme, wanted_by: str) -> Figure:
    if programme.operational_kg is None:
        raise ReportError(f"{wanted_by}: {programme.warnings[-1]}")
    return programme.operational_kg


def _with_range(joules: Figure) -> str:
    return f"{wording.energy(joules.value)} ({wording.energy_range(joules)})"


def _flop(summary: AuditSummary) -> float | None:
    a_step = summary.work.model_flops_per_step if summary.work else None
    return None if a_step is None else a_step * summary.progress.steps


def _extent(summary: AuditSummary) -> tuple[float, float]:
    return summary.period.start_unix_s, summary.period.end_unix_s


def _facility(summary: AuditSummary) -> Range:
    """Return the energy of a run with its facility, J, or that of its machines where no site was stated."""
    if summary.footprint is not None:
        return summary.footprint.energy_j["facility"].range
    return summary.energy.range


def _stage(summary: AuditSummary) -> ModelStage:
    start_s, end_s = _extent(summary)
    return ModelStage(
        name=summary.run.name,
        run_id=summary.run.run_id,
        role=summary.run.role or "unstated",
        start_unix_s=start_s,
        end_unix_s=end_s,
        hardware_days=summary.reserved.device_s / SECONDS_PER_DAY,
        flop=_flop(summary),
        mwh=_facility(summary).value / JOULES_PER_KWH / KWH_PER_MWH,
    )


def _place(summary: AuditSummary) -> str:
    if summary.factors is None:
        return "unknown place"
    intensity = summary.factors.intensity
    zone = intensity.asked or intensity.zone
    return zone if zone == intensity.zone_name else f"{intensity.zone_name} ({zone})"


def _once(line: GhgLine, summary: AuditSummary, summaries: Sequence[AuditSummary]) -> GhgLine:
    """Return the capital goods of a run, without devices that an earlier run of the programme has booked."""
    own = _gpus(summary)
    earlier: set[str] = set()
    for one in summaries:
        if one is summary:
            break
        earlier |= _gpus(one)
    share = len(own - earlier) / len(own) if own else 1.0
    return replace(line, kg=line.kg.scaled(share))


def _gpus(summary: AuditSummary) -> set[str]:
    return {device.identity.key for device in summary.devices if device.identity.rung == "gpu"}


def _added(one: GhgLine, other: GhgLine) -> GhgLine:
    """Return the sum of two lines as one line. Its factor is the mean over both energies, and it keeps both notes where
    they differ.
    """
    kg = Figure.of(one.kg.range.plus(other.kg.range), one.kg.unit, one.kg.kind, one.kg.source)
    notes = list(dict.fromkeys([*one.note.split(" | "), *other.note.split(" | ")]))
    if one.energy is None or other.energy is None or one.factor is None or other.factor is None:
        return replace(one, kg=kg, note=" | ".join(notes))
    energy = Figure.of(one.energy.range.plus(other.energy.range), one.energy.unit, one.energy.kind, one.energy.source)
    factor = one.factor
    if factor != other.factor:
        mean = kg.value * GRAMS_PER_KG / energy.value if energy.value else factor.g_per_kwh
        sources = dict.fromkeys([*factor.source.split(" | "), *other.factor.source.split(" | ")])
        factor = replace(factor, g_per_kwh=mean, source=" | ".join(sources))
    return replace(one, kg=kg, energy=energy, factor=factor, note=" | ".join(notes))
