"""Fit constants of the user's device and software to a few of the user's rows, but only those that the rows determine.

The shipped constants are the prior, or the law for a device that nobody calibrated. A constant whose spread the rows
hardly reduce is refused, with the reason, and keeps its prior value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.calibrate.fit import FACTOR, WEIGHT_ROWS, Fit, FitParameter, Mask, fit, fitted_step_time_s
from carbon_plugin.calibrate.rows.rows import PublishedRow, SkippedRow
from carbon_plugin.calibrate.rows.table import RowArrays, tabulate
from carbon_plugin.calibrate.transfer import CarriedOver, believed_step_time_s, row_classes
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.power import sustained_w
from carbon_plugin.predict.rates.evidence import is_calibrated
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.uncertainty.interval import EFFECTS
from carbon_plugin.spec.numbers.amounts import percent, plural
from carbon_plugin.spec.stack import ORDINARY, STACKS, THROUGH_MEMORY

# Spread of a constant's logarithm before the rows are seen: first where a fit or a measurement supports the constant,
# then where none does.
DEVICE_SIGMAS = {
    "gemm_share": (0.05, 0.15),
    "memory_share": (0.1, 0.2),
    "attention_flops": (0.1, 0.3),
    "fp8_gemm_share": (0.1, 0.15),
    "overlap_contention": (0.15, 0.25),
    "scaleup_share": (0.15, 0.15),
    "scaleup_latency_s": (0.4, 0.4),
    "scaleout_share": (0.2, 0.2),
    "scaleout_latency_s": (0.4, 0.4),
    "all_to_all_share": (0.4, 0.5),
}
STACK_SIGMAS = {FACTOR: (0.05, 0.3), "host_op_time_s": (0.2, 0.4)}
"""The same for a framework of which a stack is shipped, and for any other framework."""

NARROWED = 0.9
"""Ratio of posterior to prior spread above which the rows say almost nothing about a constant. A stricter bound also
drops what several constants determine together: with 0.7, 16 rows of SimuMax's B200 bring an unknown device to 7 %,
with 0.9 to 3.5 %."""
POWER_SIGMA, POWER_NOISE = 0.08, 0.05
"""Spreads of the logarithm of measured over predicted power: between clusters (`validate --power`), and from run to
run."""
SEEN = 0.005
"""The relative change of the step time of the most sensitive row, for a constant 10 % larger, below which no row shows
the constant. It is a tenth of the spread from row to row.
"""
NUDGE = 0.1
"""How much larger a constant is made to see which rows show it (`SEEN`)."""
INCREDIBLE = 30.0
"""A step that takes so many times the prediction is in another unit (milliseconds, minutes), or of another job. Of the
published rows the farthest took 10 times as long.
"""


class FittedConstant(Struct, frozen=True, kw_only=True):
    """Holds a constant that the rows determine, in the unit of its field. `spread` is one relative standard deviation.

    `stack` names the software stack that it belongs to, and is None for a constant of the device. `kernel` names the
    attention kernel.
    """

    field: str
    stack: str | None
    kernel: str | None
    before: float
    after: float
    spread: float


class LearnedPower(Struct, frozen=True, kw_only=True):
    """Holds the power of back-to-back matrix products, W, that follows from the given number of runs.

    `spread` is one relative standard deviation.
    """

    before_w: float
    after_w: float
    spread: float
    runs: int


class RefusedConstant(Struct, frozen=True, kw_only=True):
    """Names a constant that the rows do not determine, with the reason."""

    name: str
    reason: str


class RowResidual(Struct, frozen=True, kw_only=True):
    """One row: measured, and predicted before and after the fit, in seconds.

    `in_range` says whether it lay inside the 95 % range of its prediction before.
    """

    id: str
    measured_s: float
    before_s: float
    after_s: float
    in_range: bool


class Calibration(Struct, frozen=True, kw_only=True):
    """Holds the result of a fit to rows on one accelerator. Mean absolute errors are in percent of the measured
    time. `carried` says how much of the rows' deviation is put down to the cluster.
    """

    accelerator: str
    fitted: tuple[FittedConstant, ...]
    refused: tuple[RefusedConstant, ...]
    rows: tuple[RowResidual, ...]
    skipped: tuple[SkippedRow, ...]
    mape_before: float
    mape_after: float
    carried: tuple[CarriedOver, ...] = ()
    power: LearnedPower | None = None

    @property
    def rows_in_range(self) -> int:
        """Return how many rows lay inside the 95 % range of their prediction before the fit."""
        return sum(row.in_range for row in self.rows)


def calibrate(rows: Sequence[PublishedRow], skipped: Sequence[SkippedRow] = ()) -> Calibration:
    """Return the constants of one accelerator and its software that the rows determine.

    Raises `SpecError` without rows, for rows on several accelerators, for a row that cannot be the run that it says,
    and without scipy.
    """
    if not rows:
        reasons = f"; {skipped[0].id}: {skipped[0].reason}" if skipped else ""
        raise SpecError(f"calibrate: none of {plural(len(skipped), 'row')} can be predicted{reasons}")
    devices = sorted({row.accelerator for row in rows})
    if len(devices) > 1:
        raise SpecError(
            f"calibrate: rows on {', '.join(devices)}; expected one accelerator, give the rows of each alone"
        )
    table = tabulate(rows)
    table = replace(table, prior=table.shipped, prior_factor=np.asarray(table.sheet.framework_factor))
    before_s = fitted_step_time_s(table, _unfitted())
    _check_credible(rows, before_s)
    believed_s, carried = believed_step_time_s(table, before_s)
    believed = replace(table, measured_s=believed_s)
    parameters, refused = _identified(believed, _parameters(believed))
    fitted = _fit(believed, parameters)
    after_s = fitted_step_time_s(table, fitted)
    return Calibration(
        accelerator=devices[0],
        fitted=tuple(_constant(table, fitted, index) for index in range(len(parameters))),
        refused=tuple(refused),
        rows=tuple(
            RowResidual(
                id=row.id,
                measured_s=row.measured_step_time_s,
                before_s=float(before),
                after_s=float(after),
                in_range=_in_range(row),
            )
            for row, before, after in zip(rows, before_s, after_s, strict=True)
        ),
        skipped=tuple(skipped),
        mape_before=100 * float(np.mean(np.abs(before_s / table.measured_s - 1))),
        mape_after=100 * float(np.mean(np.abs(after_s / table.measured_s - 1))),
        carried=carried,
        power=learned_power(rows),
    )


def _check_credible(rows: Sequence[PublishedRow], predicted_s: NDArray[np.float64]) -> None:
    """Raise `SpecError` naming the first row whose time is that of another unit or another job."""
    for row, predicted in zip(rows, predicted_s, strict=True):
        times = row.measured_step_time_s / float(predicted)
        if not 1 / INCREDIBLE < times < INCREDIBLE:
            raise SpecError(
                f"calibrate: {row.id}: a step of {row.measured_step_time_s:.3g} s is {times:,.3g} times the predicted "
                f"{float(predicted):.3g} s, and no cluster is so far from it: the unit, or the job, is another; "
                "correct the row or leave it out"
            )


def _in_range(row: PublishedRow) -> bool:
    low, high = predict_step(row.spec).step_time_95_s
    return low <= row.measured_step_time_s <= high


def learned_power(rows: Sequence[PublishedRow]) -> LearnedPower | None:
    """Return the sustained power for which the prediction agrees with the measured power of the runs, or None without
    any.

    The logarithm of measured over predicted power is drawn towards 0 according to the spread of the prediction's own
    error.
    """
    known = [row for row in rows if row.power_ratio is not None]
    if not known:
        return None
    weight = len(known) / (len(known) + (POWER_NOISE / POWER_SIGMA) ** 2)
    ratio = float(np.exp(weight * np.mean(np.log([row.power_ratio for row in known if row.power_ratio]))))
    cluster = known[0].spec.cluster
    idle, before = cluster.accelerator.idle_with_context_w, sustained_w(cluster)
    drawn = float(np.mean([predict_step(row.spec).gpu_power_w.value for row in known]))
    after = idle + (before - idle) * max(ratio * drawn - idle, 0.0) / (drawn - idle)
    limit = cluster.power_limit_w
    spread = POWER_SIGMA * (1 - weight) ** 0.5
    return LearnedPower(before_w=before, after_w=min(after, limit), spread=spread, runs=len(known))


def calibrated_step_time_s(seen: RowArrays | None, others: RowArrays) -> NDArray[np.float64]:
    """Return the step times of `others` with the constants that the rows of `seen` determine, in seconds.

    Where `seen` is None no constant is fitted.
    """
    if seen is None:
        return fitted_step_time_s(others, _unfitted())
    believed_s, _ = believed_step_time_s(seen, fitted_step_time_s(seen, _unfitted()))
    believed = replace(seen, measured_s=believed_s)
    parameters, _ = _identified(believed, _parameters(believed))
    return fitted_step_time_s(others, _fit(believed, parameters))


def _parameters(table: RowArrays) -> list[FitParameter]:
    """Return every constant of the device, of each attention kernel in use, and of each framework."""
    known = is_calibrated(table.rows[0].spec.cluster.accelerator)
    found = []
    for field, sigmas in DEVICE_SIGMAS.items():
        sigma = sigmas[0] if known else sigmas[1]
        if field == "attention_flops":
            found += [
                FitParameter(f"{field}.{kernel}", field, _where("kernel", str(kernel)), sigma)
                for kernel in np.unique(table.kernel)
                if kernel not in THROUGH_MEMORY
            ]
        elif field == "fp8_gemm_share":
            found.append(FitParameter(field, field, lambda table: table.narrow, sigma))
        else:
            found.append(FitParameter(field, field, lambda table: table.measured_s > 0, sigma))
    for framework in np.unique(table.framework):
        for field, (shipped, other) in STACK_SIGMAS.items():
            sigma = shipped if framework in STACKS else other
            if field == FACTOR and framework in STACKS and (known or STACKS[str(framework)].population == ORDINARY):
                sigma = _spread_of_clusters(table, str(framework))
            found.append(FitParameter(f"{field} of {framework}", field, _where("framework", str(framework)), sigma))
    return found


def _spread_of_clusters(table: RowArrays, framework: str) -> float:
    """Return how far the factor of a framework's software lies from the shipped one on the next cluster, in logarithms.

    On a device to which constants are fitted it stands for all in which a cluster and its software differ from those
    of the fit, so that clusters differ by it as their classes do. On another one they differ by the device's own share
    of peak, and tuned software is known as well as its stack is. One factor stands for all ordinary software. The runs
    of one cluster are of one kind, so that how much kinds of jobs differ within a source counts there beside how much
    sources differ.
    """
    if STACKS[framework].population == ORDINARY:
        return math.hypot(EFFECTS["ordinary"].between, EFFECTS["ordinary"].within)
    kinds = [kind for kind, name in zip(row_classes(table), table.framework, strict=True) if name == framework]
    return float(np.mean([EFFECTS[kind].between for kind in kinds]))


def _where(label: str, value: str) -> Callable[[RowArrays], Mask]:
    return lambda table: np.asarray(getattr(table, label) == value)


def _identified(table: RowArrays, parameters: list[FitParameter]) -> tuple[list[FitParameter], list[RefusedConstant]]:
    """Return the parameters that the rows determine, and the refused ones.

    The least determined parameter is refused first, because the others may be better determined without it.
    """
    refused = []
    kept = []
    for parameter in parameters:
        change = _largest_change(table, parameter)
        if change < SEEN:
            reason = (
                "no row shows it"
                if change < SEEN / 100
                else f"10 % more of it moves no row by over {percent(change, 1)}"
            )
            refused.append(RefusedConstant(name=parameter.name, reason=reason))
        else:
            kept.append(parameter)
    while kept:
        fitted = _fit(table, kept)
        spreads = fitted.spreads()
        narrowed = spreads / np.array([parameter.sigma for parameter in kept])
        worst = int(np.argmax(narrowed))
        if narrowed[worst] <= NARROWED:
            break
        reason = told_too_little(kept[worst].sigma, float(spreads[worst]))
        refused.append(RefusedConstant(name=kept.pop(worst).name, reason=reason))
    return kept, refused


def told_too_little(before: float, after: float) -> str:
    """Return why a constant keeps its value whose relative spread is about as wide after the fit as it was before."""
    was, is_now = percent(before, 0), percent(after, 0)
    why = "the rows are too few, or other constants explain them as well"
    if was == is_now:
        return f"the rows tell nothing about it, which is known to ± {was} as before: {why}"
    return f"the rows tell too little about it, which is known to ± {is_now}, and was to ± {was} before: {why}"


def _largest_change(table: RowArrays, parameter: FitParameter) -> float:
    """Return the relative change of the step time of the most sensitive row for a constant 10 % larger."""
    nudged = Fit((parameter,), np.array([np.log1p(NUDGE)]))
    change = fitted_step_time_s(table, nudged) / fitted_step_time_s(table, _unfitted()) - 1
    return float(np.max(np.abs(change)))


def _fit(table: RowArrays, parameters: Sequence[FitParameter]) -> Fit:
    """Return a fit in which all rows have the same weight, and together at most the weight of `WEIGHT_ROWS` rows.

    A thousand rows of one machine share its bias.
    """
    if not parameters:
        return _unfitted()
    rows = table.measured_s.size
    weights: NDArray[np.float64] = np.full(rows, min(1.0, WEIGHT_ROWS / rows))
    return fit(table, parameters, weights=weights)


def _unfitted() -> Fit:
    return Fit((), np.zeros(0))


def _constant(table: RowArrays, fitted: Fit, index: int) -> FittedConstant:
    parameter = fitted.parameters[index]
    column = table.prior_factor if parameter.field == FACTOR else getattr(table.prior, parameter.field)
    first = int(np.argmax(parameter.rows(table)))
    before = float(column[first])
    on_stack = parameter.field in STACK_SIGMAS
    return FittedConstant(
        field=parameter.field,
        stack=str(table.framework[first]) if on_stack else None,
        kernel=str(table.kernel[first]) if parameter.field == "attention_flops" else None,
        before=before,
        after=before * float(np.exp(fitted.logs[index])),
        spread=float(fitted.spreads()[index]),
    )
