"""Divide the time of a whole run into training steps, evaluation, start-up, checkpoints and failures.

Failures are a Poisson process of the whole job. With checkpoints every w seconds that pause training for d seconds,
mean time M between failures and restart time R, a run of useful work U takes

    U / w * M * exp(R / M) * (exp((w + d) / M) - 1)

(Daly, Future Generation Computer Systems 22 (2006) 303, eq. 20), which is least near w = sqrt(2 d M) - d (ibid. eq. 13;
Young, CACM 17 (1974) 530 has sqrt(2 d M)). `plan.reliability` assumes what the spec does not state, with its range;
the range of the run time is that of moving each assumed input to its ends, one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.reliability import Losses, checkpoint_bytes, losses_of, stated_or_assumed
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.spec.numbers.amounts import percent, plural, verb
from carbon_plugin.spec.numbers.figure import Assumption, Figure
from carbon_plugin.spec.run import RunSpec

WAITING = ("startup", "checkpoint", "restart")
"""The parts in which devices hold their memory and compute nothing."""
FAILING = ("redone", "restart")
"""The parts of the time that failures take."""
WASTED = (*WAITING, "redone", "overhead")
"""The parts of the time that neither train nor evaluate."""
FORWARD_SHARE = 1 / 3
"""The share of the model FLOPs of a training step that its forward pass takes."""
MOST_FAILURES = 5.0
"""The most failures expected in one checkpoint interval or one restart: with more, a run takes over 100
times its work.
"""


class ExpectedLosses(Struct, frozen=True, kw_only=True):
    """One instance holds what the model of losses expects of a run.

    These are the numbers of failures and checkpoints, the time between two failures of the job, and the size, pause and
    interval of a checkpoint.
    """

    failures: float
    mtbf_s: float
    checkpoints: float
    checkpoint_bytes: float
    checkpoint_pause_s: float
    checkpoint_every_steps: int


class Goodput(Struct, frozen=True, kw_only=True):
    """One instance holds the time of a run by part in seconds, and as shares of it; `parts_s` add up to `run_time_s`.

    The parts are training; evaluation; startup; checkpoint (training pauses for it); redone (work that failures
    destroyed and that is done again); and restart. Where the spec states `overhead_fraction`, they are training and
    overhead, and nothing is `expected`. A further part is overrun, the time that real runs take beyond these
    (`plan.real_run`), with its factor in `overrun`. `spread` holds the p10 and p90 factors on the run time that follow
    from the assumed inputs.
    """

    parts_s: dict[str, float]
    shares: dict[str, float]
    spread: tuple[float, float] = (1.0, 1.0)
    expected: ExpectedLosses | None = None
    assumptions: tuple[Assumption, ...] = ()
    overrun: Figure | None = None

    @property
    def run_time_s(self) -> float:
        """Return the time from allocation to the last checkpoint in seconds."""
        return math.fsum(self.parts_s.values())

    @property
    def waiting_s(self) -> float:
        """Return the time in seconds in which devices wait."""
        return math.fsum(self.parts_s.get(part, 0.0) for part in WAITING)

    @property
    def wasted_s(self) -> float:
        """Return the time in seconds that neither trains nor evaluates."""
        return math.fsum(self.parts_s.get(part, 0.0) for part in WASTED)

    @property
    def useful_share(self) -> float:
        """Return the share of the time of the modelled parts that trains or evaluates."""
        return 1 - self.wasted_s / (self.run_time_s - self.parts_s.get("overrun", 0.0))

    @property
    def failing_overhead(self) -> float:
        """Return the time that failures are expected to take over all other time of the modelled parts but start-up."""
        lost = math.fsum(self.parts_s.get(part, 0.0) for part in FAILING)
        others = lost + self.parts_s.get("startup", 0.0) + self.parts_s.get("overrun", 0.0)
        return lost / (self.run_time_s - others)

    @property
    def running_overhead(self) -> float:
        """Return the time outside training steps over the time in them, once the run has started up."""
        return (self.run_time_s - self.parts_s.get("startup", 0.0)) / self.parts_s["training"] - 1


def best_interval_s(pause_s: float, mtbf_s: float) -> float:
    """Return the time in s between two checkpoints that loses least (Daly 2006, eq. 13)."""
    return math.sqrt(2 * pause_s * mtbf_s) - pause_s if pause_s < 2 * mtbf_s else mtbf_s


def interruptions(work_s: float, interval_s: float, losses: Losses) -> tuple[dict[str, float], float, float]:
    """Return the seconds for checkpoints, redone work and restarts, and the expected failures and checkpoints.

    They are those of `work_s` seconds of work that is saved every `interval_s`. The parts add up to Daly's run time
    less the work: a segment of w + d seconds fails exp((w + d)/M) - 1 times on average and takes M (exp((w + d)/M) - 1)
    in all tries; each failure costs M (exp(R/M) - 1), including restarts that fail.
    """
    mtbf, segment = losses.mtbf_s, interval_s + losses.pause_s
    segments = work_s / interval_s
    tries = math.expm1(segment / mtbf)
    parts = {
        "checkpoint": segments * losses.pause_s,
        "redone": max(0.0, segments * (mtbf * tries - segment)),
        "restart": segments * tries * mtbf * math.expm1(losses.restart_s / mtbf),
    }
    return parts, segments * tries * math.exp(losses.restart_s / mtbf), segments


def run_goodput(spec: RunSpec, prediction: StepPrediction) -> Goodput:
    """Return how the time of the run of `spec` is divided, computed from its predicted step.

    Raises `SpecError` if the stated failures leave no progress.
    """
    training_s = spec.training.total_steps * prediction.step_time_s.value
    stated = spec.training.overhead_fraction
    if stated is not None:
        said = Assumption(
            "training.reliability",
            f"{percent(stated, 1)} of the steps' time",
            "stated as overhead_fraction, in place of a model",
        )
        parts = {"training": training_s, "overhead": stated * training_s}
        return Goodput(parts_s=parts, shares=shares_of(parts), assumptions=(said,))
    size = checkpoint_bytes(spec)
    inputs, assumptions = stated_or_assumed(spec, size)
    losses = losses_of(spec, inputs, size)
    _check_progress(spec, prediction, losses)
    parts, expected = _course(spec, prediction, losses, size)
    return Goodput(
        parts_s=parts,
        shares=shares_of(parts),
        spread=_spread(spec, prediction, inputs, size, math.fsum(parts.values())),
        expected=expected,
        assumptions=(*assumptions, *_interval_assumption(spec, expected.checkpoint_every_steps)),
    )


def shares_of(parts_s: Mapping[str, float]) -> dict[str, float]:
    """Return the parts of a time as shares of the whole."""
    total = math.fsum(parts_s.values())
    return {part: seconds / total for part, seconds in parts_s.items()}


def _interval_assumption(spec: RunSpec, every: int) -> list[Assumption]:
    if spec.training.reliability.checkpoint_every_steps is not None:
        return []
    source = "the interval that loses least (Daly 2006), not more than the run"
    return [Assumption("training.reliability.checkpoint_every_steps", f"{every:,}", source)]


def _check_progress(spec: RunSpec, prediction: StepPrediction, losses: Losses) -> None:
    every = min(spec.training.reliability.checkpoint_every_steps or 1, spec.training.total_steps)
    step_s = prediction.step_time_s.value * (1 + _evaluation_share(prediction, losses))
    if max(every * step_s + losses.pause_s, losses.restart_s) > MOST_FAILURES * losses.mtbf_s:
        raise SpecError(
            f"training.reliability: {plural(spec.cluster.devices, 'device')} "
            f"{verb(spec.cluster.devices, 'fails', 'fail')} every {losses.mtbf_s:.3g} s, which leaves no "
            f"progress with restarts of {losses.restart_s:.3g} s and at least {plural(every, 'step')} of "
            f"{step_s:.3g} s (with "
            f"evaluation) between checkpoints of {losses.pause_s:.3g} s"
        )


def _evaluation_share(prediction: StepPrediction, losses: Losses) -> float:
    """Return the time of evaluation over that of training steps."""
    forward = FORWARD_SHARE * prediction.model_flops_per_step / prediction.hardware_flops_per_step
    return losses.evaluation * forward


def _course(
    spec: RunSpec, prediction: StepPrediction, losses: Losses, size: float
) -> tuple[dict[str, float], ExpectedLosses]:
    """Return the parts of the run, s, and the expected events."""
    steps = spec.training.total_steps
    training_s = steps * prediction.step_time_s.value
    evaluation_s = training_s * _evaluation_share(prediction, losses)
    work_s = training_s + evaluation_s
    best = round(best_interval_s(losses.pause_s, losses.mtbf_s) / work_s * steps)
    # There is at least one checkpoint, at the end, however short the run is.
    every = min(max(1, spec.training.reliability.checkpoint_every_steps or best), steps)
    lost, failures, checkpoints = interruptions(work_s, every * work_s / steps, losses)
    parts = {"training": training_s, "evaluation": evaluation_s, "startup": losses.startup_s, **lost}
    return parts, ExpectedLosses(
        failures=failures,
        mtbf_s=losses.mtbf_s,
        checkpoints=checkpoints,
        checkpoint_bytes=size,
        checkpoint_pause_s=losses.pause_s,
        checkpoint_every_steps=every,
    )


def _spread(
    spec: RunSpec, prediction: StepPrediction, inputs: Mapping[str, Figure], size: float, total_s: float
) -> tuple[float, float]:
    """Return the p10 and p90 factors on the run time, from each assumed input at its ends; log effects are added in
    squares.
    """
    shorter = longer = 0.0
    for name, figure in inputs.items():
        for end in {figure.low, figure.high} - {figure.value}:
            moved = {**inputs, name: msgspec.structs.replace(figure, value=end)}
            parts, _ = _course(spec, prediction, losses_of(spec, moved, size), size)
            effect = math.log(math.fsum(parts.values()) / total_s)
            shorter += min(effect, 0.0) ** 2
            longer += max(effect, 0.0) ** 2
    return math.exp(-math.sqrt(shorter)), math.exp(math.sqrt(longer))
