"""Fill the compute and energy fields of the EU AI Act: Annex XI section 1 (2) (d) and (e), in the Model Documentation
Form.

The form is that of the Code of Practice for general-purpose AI, transparency chapter, 2025-07-10. It asks for numbers
to two significant figures, for a range of training time for national authorities, and for wall-clock and hardware-days
for the AI Office. The law fixes no boundary, no PUE and no unit. What was chosen here is in the method text.
"""

from __future__ import annotations

import math

from msgspec import Struct

from carbon_plugin.audit.exports.evidence import (
    Origin,
    effective_share,
    energy_method,
    limits_of_energy,
    origin_of,
)
from carbon_plugin.audit.exports.rounding import significant
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import ReportError
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.units import JOULES_PER_KWH, SECONDS_PER_DAY

STANDARD = "Regulation (EU) 2024/1689, Annex XI section 1 (2) (d), (e); Model Documentation Form of 2025-07-10"
DIGITS = 2
DAYS_PER_MONTH = 365.25 / 12
KWH_PER_MWH = 1000.0

_RANGES = ((1, "less than 1 month"), (3, "1 to 3 months"), (6, "3 to 6 months"), (math.inf, "more than 6 months"))


class TrainingTime(Struct, frozen=True, kw_only=True):
    """The training time: the `range` for national authorities, and days and hardware-days (reserved device time) for
    the AI Office.
    """

    range: str
    wall_clock_days: float
    hardware_days: float
    hardware: str


class TrainingCompute(Struct, frozen=True, kw_only=True):
    """The compute of training: FLOP to two significant figures for the AI Office, and the power of ten for national
    authorities.

    Both are None where no prediction counted them. `missing` of the form then says so.
    """

    flop: float | None
    order_of_magnitude: int | None
    methodology: str


class TrainingEnergy(Struct, frozen=True, kw_only=True):
    """The energy of training, MWh to two significant figures, with its p10 to p90 range and the boundary that the law
    leaves open."""

    mwh: float
    low_mwh: float
    high_mwh: float
    boundary: str
    measured_share: float
    methodology: str


class EuAiActReport(Struct, frozen=True, kw_only=True):
    """The fields of the form for one training run. The fields for a model over all its runs are in
    `audit.exports.of_programme`.

    `missing` names the fields of the form that this run cannot fill, with the reason.
    """

    standard: str
    training_time: TrainingTime
    training_compute: TrainingCompute
    training_energy: TrainingEnergy
    missing: list[str]
    origin: Origin


def time_range(wall_days: float) -> str:
    """Return the range of training time that national authorities ask for."""
    return next(words for months, words in _RANGES if wall_days < months * DAYS_PER_MONTH)


def eu_ai_act_report(summary: AuditSummary) -> EuAiActReport:
    """Return the form's fields on training time, compute and energy. Raises `ReportError` for a run without any
    energy."""
    if summary.energy.energy_j <= 0:
        raise ReportError(f"EU AI Act: run {summary.run.name} recorded no energy, expected its ledgers to hold some")
    missing = ["benchmarked amount of computation used for inference: nothing here runs inference"]
    compute = _compute(summary)
    if compute.flop is None:
        missing.append(f"amount of computation used for training: {compute.methodology}")
    if summary.coverage.nodes_seen < summary.coverage.nodes:
        missing.append(
            f"energy of {summary.coverage.nodes - summary.coverage.nodes_seen} of "
            f"{plural(summary.coverage.nodes, 'node')}, "
            "whose ledgers are not here"
        )
    wall_days = summary.period.wall_s / SECONDS_PER_DAY
    return EuAiActReport(
        standard=STANDARD,
        training_time=TrainingTime(
            range=time_range(wall_days),
            wall_clock_days=significant(wall_days, DIGITS),
            hardware_days=significant(summary.reserved.device_s / SECONDS_PER_DAY, DIGITS),
            hardware=summary.work.hardware if summary.work else plural(summary.run.world_size, "rank"),
        ),
        training_compute=compute,
        training_energy=_energy(summary),
        missing=missing,
        origin=origin_of(summary),
    )


def _compute(summary: AuditSummary) -> TrainingCompute:
    work, steps = summary.work, summary.progress.steps
    if work is None or work.hardware_flops_per_step is None or work.model_flops_per_step is None or not steps:
        reason = "the run has no prediction that counts its FLOPs, or no step"
        return TrainingCompute(flop=None, order_of_magnitude=None, methodology=reason)
    flop = work.model_flops_per_step * steps
    once = f"{flop * effective_share(summary):.2e}"
    convention = work.attention_convention or "unstated"
    methodology = (
        "Counted from the architecture: matrix products and the attention core, forward and backward, of "
        f"{work.model_flops_per_step:.3e} FLOP a step ({convention} attention, activations "
        f"computed again not counted; with them {work.hardware_flops_per_step * steps:.2e}), times {steps:,} executed "
        f"steps, repeated ones included ({once} without). Optimizer, normalisation and evaluation are not counted."
    )
    return TrainingCompute(
        flop=significant(flop, DIGITS), order_of_magnitude=math.floor(math.log10(flop)), methodology=methodology
    )


def _energy(summary: AuditSummary) -> TrainingEnergy:
    footprint, factors, energy = summary.footprint, summary.factors, summary.energy
    if footprint is not None and factors is not None:
        used_j = footprint.energy_j["facility"].range
        boundary = f"facility: machines times PUE {wording.plain(factors.pue.value)} ({factors.pue.source})"
    else:
        used_j = energy.range
        boundary = "machines only: no site was stated, so no PUE is applied"
    rungs = ", ".join(rung for rung in ("gpu", "host", "network") if rung in summary.by_rung)
    methodology = (
        f"{energy_method(summary)} Boundary: {boundary}; parts of the machines in the number: {rungs}. The whole job "
        "counts: start-up, evaluation, checkpoints and steps that a restart repeated. Earlier experiments, data "
        "preparation, manufacture of hardware and inference do not. The range is p10 to p90 of the meters' and the "
        f"facility's uncertainty. {' '.join(limits_of_energy(summary))}"
    ).strip()
    mwh = used_j.scaled(1 / JOULES_PER_KWH / KWH_PER_MWH)
    return TrainingEnergy(
        mwh=significant(mwh.value, DIGITS),
        low_mwh=significant(mwh.low, DIGITS),
        high_mwh=significant(mwh.high, DIGITS),
        boundary=boundary,
        measured_share=summary.energy.measured_j / energy.energy_j,
        methodology=methodology,
    )
