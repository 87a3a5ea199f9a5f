"""Fit constants of the user's device and software to a few of the user's rows, but only those that the rows determine.

The shipped constants are the prior, or the law for a device that nobody calibrated. A constant whose spread the rows
hardly reduce is refused, with the reason, and keeps its prior value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.calibrate.fit import (
    FACTOR,
    WEIGHT_ROWS,
    Fit,
    FitParameter,
    Mask,
    constants_in,
    fit,
    fitted_step_time_s,
    problem_of,
    wait_sigmas,
)
from carbon_plugin.calibrate.own_layouts import own_layouts, shifts
from carbon_plugin.calibrate.rows.rows import PublishedRow, SkippedRow
from carbon_plugin.calibrate.rows.table import RowArrays, cases_of, places_of, step_time_of, tabulate
from carbon_plugin.calibrate.transfer import CarriedOver, carried_over, layouts_of, row_classes
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.own_runs import OwnRuns
from carbon_plugin.predict.power import sustained_w
from carbon_plugin.predict.rates.evidence import is_calibrated
from carbon_plugin.predict.rates.islands import on_the_bus
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.uncertainty.interval import SpreadLeft, left_of
from carbon_plugin.spec.hardware.cluster import OwnLayouts
from carbon_plugin.spec.numbers.amounts import percent, plural
from carbon_plugin.spec.stack import STACKS, THROUGH_MEMORY

Floats = NDArray[np.float64]
HOST = "host_op_time_s"
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
HOST_SIGMAS = (0.2, 0.4)
"""The same for the host cost of a framework of which a stack is shipped, and of any other framework."""

NARROWED = 0.99
"""Ratio of posterior to prior spread above which the rows say nothing about a constant. What they hardly tell is drawn
to its prior anyway, and several such constants explain together what none does alone: with a bound of 0.9 one run of a
synthetic cluster of tuned software brings almost a point less."""
OFFSET_SEEN, OFFSET_NARROWED = 0.01, 0.9
"""An offset of a cluster is worth a stack of its own if it moves the step time by at least the first, or if the range
of a plan becomes narrower by the second. A run that took just what was predicted moves it by half a percent, because
the ranges of most classes are wider for longer steps."""
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
    """Holds a constant that the rows determine, in the unit of its field. `spread` is one relative standard deviation,
    and `spread_before` is that without the rows.

    `stack` names the software stack that it belongs to, and is None for a constant of the device. `kernel` names the
    attention kernel.
    """

    field: str
    stack: str | None
    kernel: str | None
    before: float
    after: float
    spread: float
    spread_before: float


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
    """One row: measured, and predicted before and after the fit, in seconds."""

    id: str
    measured_s: float
    before_s: float
    after_s: float


class Calibration(Struct, frozen=True, kw_only=True):
    """Holds the result of a fit to rows on one accelerator.

    Mean absolute errors are in percent of the measured time, and the one after is that of constants and offsets alone.
    `carried` says how much of the rows' deviation is put down to the cluster, and `own` what then is left of that of
    each layout, by framework.
    """

    accelerator: str
    fitted: tuple[FittedConstant, ...]
    refused: tuple[RefusedConstant, ...]
    rows: tuple[RowResidual, ...]
    skipped: tuple[SkippedRow, ...]
    mape_before: float
    mape_after: float
    carried: tuple[CarriedOver, ...] = ()
    own: dict[str, OwnLayouts] = {}
    power: LearnedPower | None = None


class _Learned(NamedTuple):
    """Holds what rows tell: constants with their spreads, what is put down to the cluster, and what is refused."""

    fitted: Fit
    spreads: Floats
    carried: tuple[CarriedOver, ...]
    refused: list[RefusedConstant]


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
    learned = _learn(table, before_s)
    own = own_layouts(table, learned.fitted, learned.carried)
    fitted_s = fitted_step_time_s(table, learned.fitted)
    after_s = fitted_s * np.exp(shifts(table, own))
    return Calibration(
        accelerator=devices[0],
        fitted=tuple(_constant(table, learned, index) for index in range(len(learned.fitted.parameters))),
        refused=tuple(learned.refused),
        rows=tuple(
            RowResidual(id=row.id, measured_s=row.measured_step_time_s, before_s=float(before), after_s=float(after))
            for row, before, after in zip(rows, before_s, after_s, strict=True)
        ),
        skipped=tuple(skipped),
        mape_before=100 * float(np.mean(np.abs(before_s / table.measured_s - 1))),
        mape_after=100 * float(np.mean(np.abs(fitted_s / table.measured_s - 1))),
        carried=learned.carried,
        own=own,
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


def calibrated_step_time_s(seen: RowArrays, others: RowArrays) -> tuple[Floats, list[SpreadLeft]]:
    """Return the step times of `others` with what the rows of `seen`, of one software, tell, in seconds, and how much
    these leave for each of them of what clusters and layouts differ by.
    """
    learned = _learn(seen, fitted_step_time_s(seen, _unfitted()))
    (carried,), (own,) = learned.carried, own_layouts(seen, learned.fitted, learned.carried).values()
    runs = OwnRuns(own)
    like = [runs.deviation(place) for place in places_of(others)]
    after_s = fitted_step_time_s(others, learned.fitted) * np.exp([one.shift for one in like])
    return after_s, [left_of(carried.faster, carried.slower, one) for one in like]


def _learn(table: RowArrays, before_s: Floats) -> _Learned:
    """Return what the rows tell, where `before_s` are their predictions before.

    Constants are first only moved in thought, to say how far the deviations of layouts may come from them. Then the
    offset of each software's runs is set, and the constants are fitted to what it leaves.
    """
    parameters, slopes, refused = _seen(table, before_s)
    reach = slopes * np.array([parameter.sigma for parameter in parameters])
    deviations = np.log(table.measured_s / before_s)
    carried = carried_over(table, deviations, reach, wait_sigmas(table), row_classes(table))
    constants, untold = _fit_to_the_rest(table, parameters, slopes, carried)
    refused += untold
    told = []
    for one in carried:
        if abs(one.carried) >= OFFSET_SEEN or one.uncertain <= OFFSET_NARROWED * one.between:
            told.append(one)
        else:
            refused.append(_untold(f"{FACTOR} of {one.framework}", one.between, one.uncertain))
    factors = [
        FitParameter(f"{FACTOR} of {one.framework}", FACTOR, _where("framework", one.framework), one.between)
        for one in told
    ]
    fitted = Fit((*constants.parameters, *factors), np.array([*constants.logs, *(one.carried for one in told)]))
    return _Learned(fitted, np.array([*constants.spreads(), *(one.uncertain for one in told)]), carried, refused)


def _seen(table: RowArrays, before_s: Floats) -> tuple[list[FitParameter], Floats, list[RefusedConstant]]:
    """Return the constants that a row shows, their slopes, of shape (rows, constants), and the refused ones."""
    parameters = _parameters(table)
    slopes = _slopes(table, parameters, before_s)
    kept, refused = [], []
    for index, parameter in enumerate(parameters):
        change = NUDGE * float(np.max(np.abs(slopes[:, index])))
        if change >= SEEN:
            kept.append(index)
            continue
        unseen = "no row shows it"
        small = f"10 % more of it moves no row by over {percent(change, 1)}"
        refused.append(RefusedConstant(name=parameter.name, reason=unseen if change < SEEN / 100 else small))
    return [parameters[index] for index in kept], slopes[:, kept], refused


def _fit_to_the_rest(
    table: RowArrays, parameters: list[FitParameter], slopes: Floats, carried: Sequence[CarriedOver]
) -> tuple[Fit, list[RefusedConstant]]:
    """Return the fit of constants to what the offsets of the software leave, and the refused ones.

    A row has the spread that layouts of this cluster have, and not that of a measurement: its layout deviates however
    long it is measured.
    """
    spreads = np.empty_like(table.measured_s)
    rest_s = np.array(table.measured_s)
    for one in carried:
        members = table.framework == one.framework
        spreads[members] = one.spread
        rest_s[members] /= np.exp(one.carried)
    spreads = np.hypot(spreads, wait_sigmas(table))
    weights = _weights(table)
    kept, refused = _identified(parameters, slopes * np.sqrt(weights)[:, None] / spreads[:, None])
    if not kept:
        return _unfitted(), refused
    return fit(replace(table, measured_s=rest_s), kept, weights=weights, spreads=spreads), refused


def _weights(table: RowArrays) -> Floats:
    """Return the weight of each row. The rows of a layout share its deviation and count as one, and all together have
    at most the weight of `WEIGHT_ROWS`, because a thousand rows of one machine share its bias.
    """
    numbers = layouts_of(table)
    rows = np.bincount(numbers)
    return np.asarray(min(1.0, WEIGHT_ROWS / rows.size) / rows[numbers])


def _parameters(table: RowArrays) -> list[FitParameter]:
    """Return every constant of the device, of each attention kernel in use, and of each framework, but its factor."""
    device = table.rows[0].spec.cluster.accelerator
    known = is_calibrated(device)
    found = []
    for field, sigmas in DEVICE_SIGMAS.items():
        if field == "scaleup_share" and on_the_bus(device):
            continue  # a plan with one would take the lanes to the host for links, as for cards that were measured so
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
        sigma = HOST_SIGMAS[0] if framework in STACKS else HOST_SIGMAS[1]
        found.append(FitParameter(f"{HOST} of {framework}", HOST, _where("framework", str(framework)), sigma))
    return found


def _where(label: str, value: str) -> Callable[[RowArrays], Mask]:
    return lambda table: np.asarray(getattr(table, label) == value)


def _slopes(table: RowArrays, parameters: Sequence[FitParameter], before_s: Floats) -> Floats:
    """Return by how much the logarithm of each row's time grows with that of each constant, of shape (rows, constants).

    All come from one call, which predicts the rows once for each constant.
    """
    log = float(np.log1p(NUDGE))
    problem = problem_of(table, parameters)
    nudged = [problem.columns(logs) for logs in log * np.eye(len(parameters))]
    columns = {name: np.concatenate([one[name] for one in nudged]) for name in nudged[0]}
    cases = cases_of(table, np.tile(np.arange(before_s.size), len(parameters)))
    times_s = step_time_of(cases, *constants_in(columns)).reshape(len(parameters), -1)
    return np.asarray(np.log(times_s / before_s).T / log)


def _identified(parameters: list[FitParameter], slopes: Floats) -> tuple[list[FitParameter], list[RefusedConstant]]:
    """Return the parameters that the rows determine, and the refused ones.

    `slopes`, of shape (rows, parameters), are in spreads of the row's time. The least determined parameter is refused
    first, because the others may be better determined without it.
    """
    kept, refused = list(range(len(parameters))), []
    while kept:
        sigmas = np.array([parameters[index].sigma for index in kept])
        known = slopes[:, kept].T @ slopes[:, kept] + np.diag(sigmas**-2)
        spreads = np.sqrt(np.diag(np.linalg.inv(known)))
        worst = int(np.argmax(spreads / sigmas))
        if spreads[worst] <= NARROWED * sigmas[worst]:
            break
        refused.append(_untold(parameters[kept.pop(worst)].name, float(sigmas[worst]), float(spreads[worst])))
    return [parameters[index] for index in kept], refused


def _untold(name: str, before: float, after: float) -> RefusedConstant:
    return RefusedConstant(name=name, reason=told_too_little(before, after))


def told_too_little(before: float, after: float) -> str:
    """Return why a constant keeps its value whose relative spread is about as wide after the fit as it was before."""
    was, is_now = percent(before, 0), percent(after, 0)
    why = "the rows are too few, or other constants explain them as well"
    if was == is_now:
        return f"the rows tell nothing about it, which is known to ± {was} as before: {why}"
    return f"the rows tell too little about it, which is known to ± {is_now}, and was to ± {was} before: {why}"


def _unfitted() -> Fit:
    return Fit((), np.zeros(0))


def _constant(table: RowArrays, learned: _Learned, index: int) -> FittedConstant:
    parameter = learned.fitted.parameters[index]
    column = table.prior_factor if parameter.field == FACTOR else getattr(table.prior, parameter.field)
    first = int(np.argmax(parameter.rows(table)))
    before = float(column[first])
    return FittedConstant(
        field=parameter.field,
        stack=str(table.framework[first]) if parameter.field in (FACTOR, HOST) else None,
        kernel=str(table.kernel[first]) if parameter.field == "attention_flops" else None,
        before=before,
        after=before * float(np.exp(learned.fitted.logs[index])),
        spread=float(learned.spreads[index]),
        spread_before=parameter.sigma,
    )
