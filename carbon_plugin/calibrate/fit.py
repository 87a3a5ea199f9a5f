"""Fit a few constants to measured rows by maximum a posteriori, and predict rows with a group of rows left out.

Each parameter multiplies one constant of a group of rows by exp(x), with a normal prior on x around the law or prior of
`predict.rates.resolve`. Rows enter with the soft-L1 loss of their log error, so that a single odd row does not
dominate. Data sets are weighted, so that a thousand rows of one machine do not dominate either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.rows.table import RowArrays, predict, select
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.case.inputs import take
from carbon_plugin.predict.rates.rates import Constants

FACTOR = "framework_factor"
THREADS_VARIABLE = "OPENBLAS_NUM_THREADS"
"""Environment variable that the linear algebra of scipy reads when it is loaded."""
ROW_SIGMA = 0.05
"""Spread from row to row that no constant explains (scatter about a line within one vTrain layout: 4.7 % mean)."""
SPARSE_ROW_SIGMA = 0.2
"""The same for mixture-of-experts rows: one configuration differed by up to 77 % between container releases."""
VENDOR_ROW_SIGMA = 0.1
ORDINARY_ROW_SIGMA = 0.12
"""The same for rows of ordinary software, whose host and settings are least known."""
WAIT_SIGMA_S = 0.008
"""Seconds per step and doubling of nodes by which the time that ranks wait for one another varies. Because of it a
short step on many nodes says little about constants."""
WEIGHT_ROWS = 40
"""A data set has the weight of this many rows, within the bounds below."""
WEIGHT_BOUNDS = (0.05, 4.0)
MOST_ROWS, STRIDE = 400, 7
"""Of a data set with more rows than `MOST_ROWS` only every seventh enters a fit. Such a table (vTrain on one node) is
almost linear in layers and micro-batches, and its thousand rows are some fifty independent points."""
MODEL_FOLDS = 12
"""The number of groups in which the models are left out. Each group costs a fit."""
MAX_EVALUATIONS = 100
TOLERANCE = 1e-9
"""The relative change of the loss at which a fit stops. It is so small that a refit agrees in the first 3 digits."""
LEFT_OUT_TOLERANCE = 1e-5
"""The same for fits of which only predictions are used. They agree with those of `TOLERANCE` within 0.3 %, in half the
time."""
DIFFERENCE = 1e-4
"""Step of the finite differences in the logarithm of a constant."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FitParameter:
    """One parameter of the fit, which multiplies a constant for a group of rows.

    `sigma` is the prior's spread of its logarithm around `centre`. `ceiling` is the largest value of the constant
    itself, for a constant that is a share of what physically exists. `robust` gives the prior the soft-L1 loss of the
    rows, so that a number far from `centre` pulls others little.
    """

    name: str
    field: str
    rows: Callable[[RowArrays], Mask]
    sigma: float
    centre: float = 0.0
    ceiling: float | None = None
    robust: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """Holds the logarithms of the fitted multipliers and their posterior spreads (one sigma), in the order of
    `parameters`.
    """

    parameters: tuple[FitParameter, ...]
    logs: Floats
    spreads: Floats

    def multiplier(self, name: str) -> float:
        """Return the fitted factor of a parameter on its prior, or 1 for a constant that is not a parameter."""
        names = [parameter.name for parameter in self.parameters]
        return float(np.exp(self.logs[names.index(name)])) if name in names else 1.0


def fit(
    table: RowArrays,
    parameters: Sequence[FitParameter],
    keep: Mask | None = None,
    start: Floats | None = None,
    weights: Floats | None = None,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Return the fit of `parameters` to the rows where `keep` is true. Parameters without rows stay at their prior.

    The weights of the rows are `row_weights` unless `weights` are given. Raises `SpecError` without scipy.
    """
    least_squares = _solver()
    used = (np.ones(table.measured_s.size, dtype=bool) if keep is None else keep) & thinned(table)
    rows = select(table, used)
    masks = [parameter.rows(rows) for parameter in parameters]
    sigmas = np.array([parameter.sigma for parameter in parameters])
    centres = np.array([parameter.centre for parameter in parameters])
    robust = np.array([parameter.robust for parameter in parameters])
    most = np.array([_most(rows, parameter, mask) for parameter, mask in zip(parameters, masks, strict=True)])
    roots = np.sqrt((row_weights(table) if weights is None else weights)[used])
    spreads = row_sigmas(rows)
    groups = _disjoint_groups(masks)
    # All slopes come from one call. It predicts all rows unchanged, followed by the rows that each group of parameters
    # moves.
    touched = [np.flatnonzero(np.any([masks[index] for index in group], axis=0)) for group in groups]
    copies = np.concatenate([np.arange(rows.measured_s.size), *touched])
    below = np.cumsum([rows.measured_s.size, *(moved.size for moved in touched)])
    repeated = select(rows, copies)

    def robust_errors(predicted: Floats, index: Any) -> Floats:
        return np.asarray(roots[index] * _soft(np.log(predicted / rows.measured_s[index]) / spreads[index]))

    def residuals(logs: Floats) -> Floats:
        errors = robust_errors(_predicted(rows, parameters, masks, logs), slice(None))
        away = (logs - centres) / sigmas
        return np.concatenate([errors, np.where(robust, _soft(away), away)])

    def jacobian(logs: Floats) -> Floats:
        constants, factor = _constants(rows, parameters, masks, logs)
        parts, factors = [constants], [factor]
        for group, moved in zip(groups, touched, strict=True):
            shifted = logs.copy()
            shifted[group] += DIFFERENCE
            under, factor = _constants(rows, parameters, masks, shifted)
            parts.append(take(under, moved))
            factors.append(factor[moved])
        predicted = predict(repeated, _joined(parts), np.concatenate(factors)).total
        errors = robust_errors(np.asarray(predicted), copies)
        here, *there = np.split(errors, below[:-1])
        columns = np.zeros((here.size, logs.size))
        for group, moved, error in zip(groups, touched, there, strict=True):
            slope = np.zeros(here.size)
            slope[moved] = (error - here[moved]) / DIFFERENCE
            for index in group:
                columns[masks[index], index] = slope[masks[index]]
        away = (logs - centres) / sigmas
        return np.concatenate([columns, np.diag(np.where(robust, _soft_slope(away), 1.0) / sigmas)])

    begin = np.minimum(centres if start is None else start, most - DIFFERENCE)
    solution = least_squares(
        residuals, begin, jac=jacobian, bounds=(-np.inf, most), ftol=tolerance, max_nfev=MAX_EVALUATIONS
    )
    # Every parameter has a prior row in the Jacobian, so this matrix is never singular.
    posterior = np.linalg.inv(solution.jac.T @ solution.jac)
    return Fit(tuple(parameters), np.asarray(solution.x), np.sqrt(np.diag(posterior)))


def _soft(error: Floats) -> Floats:
    """Return the residual whose square is twice the soft-L1 loss of an error. It is about the error itself near 0, and
    its root far out.
    """
    return np.asarray(np.sign(error) * np.sqrt(2 * (np.sqrt(1 + error * error) - 1)))


def _soft_slope(error: Floats) -> Floats:
    """Return the derivative of `_soft`."""
    small = np.abs(error) < DIFFERENCE
    safe = np.where(small, 1.0, error)
    return np.where(small, 1.0, safe / (np.sqrt(1 + safe * safe) * _soft(safe)))


def _solver() -> Callable[..., Any]:
    """Return scipy's least-squares solver. Raises `SpecError` without scipy.

    Its linear algebra runs on one thread where scipy is imported here first: for matrices of some forty columns several
    threads only wait for one another and take twice the CPU time.
    """
    before = os.environ.get(THREADS_VARIABLE)
    os.environ[THREADS_VARIABLE] = before or "1"
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise SpecError(
            "scipy is missing, and constants are fitted with it; pip install 'carbon-plugin[calibrate]'"
        ) from error
    finally:
        if before is None:
            del os.environ[THREADS_VARIABLE]
    solver: Callable[..., Any] = least_squares
    return solver


def _joined(parts: Sequence[Constants]) -> Constants:
    """Return the constants of several sets of rows, one set after the other."""
    return Constants(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Constants)})


def _most(rows: RowArrays, parameter: FitParameter, mask: Mask) -> float:
    """Return the upper bound of a parameter's logarithm."""
    if parameter.ceiling is None or not np.any(mask):
        return np.inf
    return float(np.log(parameter.ceiling / np.max(getattr(rows.prior, parameter.field)[mask])))


def _disjoint_groups(masks: Sequence[Mask]) -> list[list[int]]:
    """Return groups of parameters that have no row in common, so that one evaluation gives all slopes of a group."""
    groups: list[tuple[list[int], Mask]] = []
    for index, mask in enumerate(masks):
        for members, taken in groups:
            if not np.any(taken & mask):
                members.append(index)
                taken[mask] = True
                break
        else:
            groups.append(([index], mask.copy()))
    return [members for members, _ in groups]


def fitted_constants(table: RowArrays, fitted: Fit) -> tuple[Constants, Floats]:
    """Return constants and framework factors of every row under a fit."""
    masks = [parameter.rows(table) for parameter in fitted.parameters]
    return _constants(table, fitted.parameters, masks, fitted.logs)


def fitted_step_time_s(table: RowArrays, fitted: Fit) -> Floats:
    """Return the step times of every row under a fit, in seconds."""
    constants, factor = fitted_constants(table, fitted)
    return np.asarray(predict(table, constants, factor).total)


def fit_populations(
    table: RowArrays,
    parameters: Sequence[FitParameter],
    keep: Mask,
    start: Floats | None = None,
    tolerance: float = TOLERANCE,
    *,
    tuned: Fit | None = None,
) -> Fit:
    """Return a fit in two steps: first to rows of tuned software, then to rows of ordinary software.

    The first step fits what devices, links and frameworks sustain. The second step fits, under these constants, what
    ordinary software costs. The spread between ordinary programs is larger than the effect of any constant of a device,
    so that their rows would distort these constants. The second step has those parameters that only concern ordinary
    rows. `tuned` is a fit whose first step saw the same rows of tuned software, so that it need not be repeated.
    """
    second = [_only_ordinary(parameter, table) for parameter in parameters]
    logs = np.array([parameter.centre for parameter in parameters])
    spreads = np.array([parameter.sigma for parameter in parameters])
    if tuned is not None:
        first = ~np.array(second)
        logs[first], spreads[first] = tuned.logs[first], tuned.spreads[first]
    for step in (False, True) if tuned is None else (True,):
        chosen = [index for index, own in enumerate(second) if own == step]
        rows = keep & (table.ordinary == step)
        if not chosen or not np.any(rows):
            continue
        known = Fit(tuple(parameters), np.where(np.isin(np.arange(logs.size), chosen), 0.0, logs), spreads)
        constants, factor = fitted_constants(table, known)
        under = replace(table, prior=constants, prior_factor=factor)
        begin = None if start is None else start[chosen]
        found = fit(under, [parameters[index] for index in chosen], rows, begin, row_weights(table), tolerance)
        logs, spreads = logs.copy(), spreads.copy()
        logs[chosen], spreads[chosen] = found.logs, found.spreads
    return Fit(tuple(parameters), logs, spreads)


def _only_ordinary(parameter: FitParameter, table: RowArrays) -> bool:
    rows = parameter.rows(table)
    return bool(np.any(rows)) and bool(np.all(table.ordinary[rows]))


def leave_out(
    table: RowArrays, parameters: Sequence[FitParameter], keep: Mask, whole: Fit, groups: NDArray[np.str_]
) -> Floats:
    """Return the step time of each row from constants that saw no row of its group, in seconds.

    `groups` is a label of each row. `whole` is the fit to the rows where `keep` is true; it predicts the groups of
    which it saw no row.
    """
    predicted = fitted_step_time_s(table, whole)
    for name in np.unique(groups[keep]):
        out = groups == name
        predicted[out] = fitted_step_time_s(table, fit_without(table, parameters, keep, whole, out))[out]
    return predicted


def fit_without(table: RowArrays, parameters: Sequence[FitParameter], keep: Mask, whole: Fit, out: Mask) -> Fit:
    """Return the fit to the rows where `keep` is true and `out` is not. `whole` is the fit with the latter."""
    tuned = None if np.any(keep & out & ~table.ordinary) else whole
    return fit_populations(table, parameters, keep & ~out, whole.logs, LEFT_OUT_TOLERANCE, tuned=tuned)


def model_folds(table: RowArrays, keep: Mask) -> NDArray[np.str_]:
    """Return a label of each row by which its model is left out.

    All rows of a model in any data set share a label. There are `MODEL_FOLDS` labels, each with about as many kept
    rows.
    """
    names, counts = np.unique(table.model_key[keep], return_counts=True)
    filled = np.zeros(MODEL_FOLDS)
    fold: dict[str, int] = {}
    for index in np.argsort(-counts, kind="stable"):
        fold[str(names[index])] = emptiest = int(np.argmin(filled))
        filled[emptiest] += counts[index]
    return np.array([str(fold.get(str(key), "")) for key in table.model_key])


def thinned(table: RowArrays) -> Mask:
    """Return the rows that enter a fit: all of a data set of ordinary size, and every `STRIDE`-th of a larger one."""
    kept = np.ones(table.measured_s.size, dtype=bool)
    for name, count in zip(*np.unique(table.source, return_counts=True), strict=True):
        if count > MOST_ROWS:
            members = np.flatnonzero(table.source == name)
            kept[members] = False
            kept[members[::STRIDE]] = True
    return kept


def row_weights(table: RowArrays) -> Floats:
    """Return the weight of each row: about `WEIGHT_ROWS` over the number of rows of its data set that enter a fit."""
    kept = thinned(table)
    names, inverse = np.unique(table.source, return_inverse=True)
    counts = np.array([np.sum(kept & (table.source == name)) for name in names])
    return np.clip(WEIGHT_ROWS / counts[inverse], *WEIGHT_BOUNDS)


def row_sigmas(table: RowArrays) -> Floats:
    """Return the spread of each row's log error that the fit treats as noise."""
    vendor = table.framework == "megatron-bridge"
    usual = np.where(table.ordinary, ORDINARY_ROW_SIGMA, ROW_SIGMA)
    nodes = np.maximum(np.asarray(table.sheet.devices / table.sheet.island), 1)
    waits = WAIT_SIGMA_S * np.log2(nodes) / table.measured_s
    spread = np.where(vendor, VENDOR_ROW_SIGMA, usual)
    spread = np.where(table.sparse & (vendor | table.ordinary), SPARSE_ROW_SIGMA, spread)
    return np.asarray(np.sqrt(spread**2 + waits**2))


def _predicted(table: RowArrays, parameters: Sequence[FitParameter], masks: Sequence[Mask], logs: Floats) -> Floats:
    constants, factor = _constants(table, parameters, masks, logs)
    return np.asarray(predict(table, constants, factor).total)


def _constants(
    table: RowArrays, parameters: Sequence[FitParameter], masks: Sequence[Mask], logs: Floats
) -> tuple[Constants, Floats]:
    columns: dict[str, Any] = {f.name: np.array(getattr(table.prior, f.name)) for f in fields(Constants)}
    factor = np.array(table.prior_factor)
    for parameter, mask, log in zip(parameters, masks, logs, strict=True):
        column = factor if parameter.field == FACTOR else columns[parameter.field]
        column[mask] *= np.exp(log)
    return replace(table.prior, **columns), factor
