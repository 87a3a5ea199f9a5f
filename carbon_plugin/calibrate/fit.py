"""Fit a few constants to measured rows by maximum a posteriori, and predict rows with a group of rows left out.

Each parameter multiplies one constant of a group of rows by exp(x), with a normal prior on x around the law or prior of
`predict.rates.resolve`. Rows enter with the soft-L1 loss of their log error, so that a single odd row does not
dominate. Data sets are weighted, so that a thousand rows of one machine do not dominate either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.rows.rows import FIRST_COLLECTION
from carbon_plugin.calibrate.rows.table import RowArrays, cases_of, select, step_time_of
from carbon_plugin.errors import SpecError
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
    rows, so that a number far from `centre` pulls others little. Where `level_of` is given, the parameter is fitted to
    these rows after those of tuned software, and such of them as are outside the first collection enter no other step.
    `divides` is another constant, which becomes smaller by the parameter.
    """

    name: str
    field: str
    rows: Callable[[RowArrays], Mask]
    sigma: float
    centre: float = 0.0
    ceiling: float | None = None
    robust: bool = False
    level_of: Callable[[RowArrays], Mask] | None = None
    divides: str | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """Holds the logarithms of the fitted multipliers in the order of `parameters`.

    `jacobian`, of shape (residuals, parameters), has the slopes of all residuals at the fit. A fit in several steps has
    none.
    """

    parameters: tuple[FitParameter, ...]
    logs: Floats
    jacobian: Floats | None = None

    def multiplier(self, name: str) -> float:
        """Return the fitted factor of a parameter on its prior, or 1 for a constant that is not a parameter."""
        names = [parameter.name for parameter in self.parameters]
        return float(np.exp(self.logs[names.index(name)])) if name in names else 1.0

    def spreads(self) -> Floats:
        """Return the posterior spread (one sigma) of each logarithm, of shape (parameters,)."""
        if self.jacobian is None:
            return np.zeros(0)
        # Every parameter has a prior row in the Jacobian, so this matrix is never singular.
        return np.asarray(np.sqrt(np.diag(np.linalg.inv(self.jacobian.T @ self.jacobian))))


@dataclass(frozen=True, slots=True)
class Problem:
    """Holds rows and the parameters that are fitted to them, and for each parameter the rows that it multiplies.

    It is what fits to several parts of one table share. `entering` says which rows enter a fit, `weights` is what each
    counts there, `spreads` is how far its log error lies from 0 by chance, `levels` are the rows to which levels are
    fitted last, and `constants` are those before any parameter, with the framework factor among them.
    """

    table: RowArrays
    parameters: tuple[FitParameter, ...]
    masks: tuple[Mask, ...]
    entering: Mask
    weights: Floats
    spreads: Floats
    levels: Mask
    constants: Mapping[str, Floats]

    @property
    def only_levels(self) -> Mask:
        """Return the rows that enter no step of a fit but the last."""
        return np.asarray(self.levels & (self.table.collection != FIRST_COLLECTION))

    def columns(self, logs: Floats, names: Collection[str] | None = None) -> dict[str, Floats]:
        """Return constants under the logarithms of the multipliers, of each row: those of these names, or all."""
        found = {name: np.array(self.constants[name]) for name in names or self.constants}
        for parameter, mask, log in zip(self.parameters, self.masks, logs, strict=True):
            if parameter.field in found:
                found[parameter.field][mask] *= np.exp(log)
            if parameter.divides in found:
                found[parameter.divides][mask] /= np.exp(log)
        return found

    def step_time_s(self, logs: Floats, rows: Mask | None = None) -> Floats:
        """Return the step times of these rows, or of all, under the logarithms of the multipliers, in seconds."""
        index = np.flatnonzero(np.ones(self.entering.size, dtype=bool) if rows is None else rows)
        columns = {name: column[index] for name, column in self.columns(logs).items()}
        return step_time_of(cases_of(self.table, index), *constants_in(columns))

    def part(self, chosen: Sequence[int], rows: Mask, logs: Floats) -> Problem:
        """Return the problem that fits only the chosen parameters, to these rows. The others stay at `logs`."""
        known = self.columns(np.where(np.isin(np.arange(logs.size), chosen), 0.0, logs))
        return Problem(
            table=select(self.table, rows),
            parameters=tuple(self.parameters[index] for index in chosen),
            masks=tuple(self.masks[index][rows] for index in chosen),
            entering=self.entering[rows],
            weights=self.weights[rows],
            spreads=self.spreads[rows],
            levels=self.levels[rows],
            constants={name: column[rows] for name, column in known.items()},
        )


def fit(
    table: RowArrays,
    parameters: Sequence[FitParameter],
    weights: Floats | None = None,
    spreads: Floats | None = None,
) -> Fit:
    """Return the fit of `parameters` to all rows. Parameters without rows stay at their prior.

    The weights of the rows are `row_weights` unless `weights` are given, and their spreads `row_sigmas` unless
    `spreads` are. Raises `SpecError` without scipy.
    """
    whole = problem_of(table, parameters)
    whole = whole if weights is None else replace(whole, weights=weights)
    whole = whole if spreads is None else replace(whole, spreads=spreads)
    return _solved(whole.part(range(len(parameters)), whole.entering, np.zeros(len(parameters))))


def problem_of(table: RowArrays, parameters: Sequence[FitParameter]) -> Problem:
    """Return the problem of fitting `parameters` to rows of a table."""
    nothing = np.zeros(table.measured_s.shape, dtype=bool)
    return Problem(
        table=table,
        parameters=tuple(parameters),
        masks=tuple(parameter.rows(table) for parameter in parameters),
        entering=thinned(table),
        weights=row_weights(table),
        spreads=row_sigmas(table),
        levels=np.any([one.level_of(table) for one in parameters if one.level_of] or [nothing], axis=0),
        constants={**{f.name: getattr(table.prior, f.name) for f in fields(Constants)}, FACTOR: table.prior_factor},
    )


def _solved(problem: Problem, start: Floats | None = None, tolerance: float = TOLERANCE) -> Fit:
    """Return the fit of the parameters of a problem to all of its rows."""
    least_squares = _solver()
    rows, parameters, masks = problem.table, problem.parameters, problem.masks
    sigmas = np.array([parameter.sigma for parameter in parameters])
    centres = np.array([parameter.centre for parameter in parameters])
    robust = np.array([parameter.robust for parameter in parameters])
    most = np.array([_most(problem, parameter, mask) for parameter, mask in zip(parameters, masks, strict=True)])
    roots = np.sqrt(problem.weights)
    spreads = problem.spreads
    groups = _disjoint_groups(masks)
    touched = [np.flatnonzero(np.any([masks[index] for index in group], axis=0)) for group in groups]
    every = np.arange(rows.measured_s.size)
    # All slopes come from one call. It predicts the rows that each group of parameters moves.
    copies = np.concatenate(touched)
    unchanged, moved_rows = cases_of(rows, every), cases_of(rows, copies)

    def robust_errors(predicted: Floats, index: Any) -> Floats:
        return np.asarray(roots[index] * _soft(np.log(predicted / rows.measured_s[index]) / spreads[index]))

    @lru_cache(maxsize=1)  # the solver asks for the slopes where it last asked for the residuals
    def errors_at(logs: bytes) -> Floats:
        columns = problem.columns(np.frombuffer(logs))
        return robust_errors(step_time_of(unchanged, *constants_in(columns)), every)

    def residuals(logs: Floats) -> Floats:
        away = (logs - centres) / sigmas
        return np.concatenate([errors_at(logs.tobytes()), np.where(robust, _soft(away), away)])

    def jacobian(logs: Floats) -> Floats:
        here, parts = problem.columns(logs), []
        for group, moved in zip(groups, touched, strict=True):
            shifted = logs.copy()
            shifted[group] += DIFFERENCE
            under = {**here, **problem.columns(shifted, {parameters[index].field for index in group})}
            parts.append({name: column[moved] for name, column in under.items()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in here}
        errors = robust_errors(step_time_of(moved_rows, *constants_in(joined)), copies)
        before = errors_at(logs.tobytes())
        columns = np.zeros((before.size, logs.size))
        for group, moved, error in zip(
            groups, touched, np.split(errors, np.cumsum([moved.size for moved in touched])[:-1]), strict=True
        ):
            slope = np.zeros(before.size)
            slope[moved] = (error - before[moved]) / DIFFERENCE
            for index in group:
                columns[masks[index], index] = slope[masks[index]]
        away = (logs - centres) / sigmas
        return np.concatenate([columns, np.diag(np.where(robust, _soft_slope(away), 1.0) / sigmas)])

    begin = np.minimum(centres if start is None else start, most - DIFFERENCE)
    solution = least_squares(
        residuals, begin, jac=jacobian, bounds=(-np.inf, most), ftol=tolerance, max_nfev=MAX_EVALUATIONS
    )
    return Fit(parameters, np.asarray(solution.x), solution.jac)


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


def _most(problem: Problem, parameter: FitParameter, mask: Mask) -> float:
    """Return the upper bound of a parameter's logarithm."""
    if parameter.ceiling is None or not np.any(mask):
        return np.inf
    return float(np.log(parameter.ceiling / np.max(problem.constants[parameter.field][mask])))


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
    return constants_in(problem_of(table, fitted.parameters).columns(fitted.logs))


def fitted_step_time_s(table: RowArrays, fitted: Fit) -> Floats:
    """Return the step times of every row under a fit, in seconds."""
    return problem_of(table, fitted.parameters).step_time_s(fitted.logs)


def fit_populations(
    problem: Problem,
    keep: Mask,
    start: Floats | None = None,
    tolerance: float = TOLERANCE,
    *,
    tuned: Fit | None = None,
) -> Fit:
    """Return a fit in three steps: to rows of tuned software, of levels of single devices, and of ordinary software.

    The first step fits what devices, links and frameworks sustain. The second fits each level that rows of the first
    collection do not tell (`FitParameter.level_of`). The last fits, under these constants, what ordinary software
    costs. The spread between ordinary programs is larger than the effect of any constant of a device, so that their
    rows would distort these constants. It has those parameters that only concern ordinary rows. `tuned` is a fit whose
    first step saw the same rows of tuned software, so that it need not be repeated.
    """
    ordinary = problem.table.ordinary
    steps = np.array(
        [_step_of(one, mask, ordinary) for one, mask in zip(problem.parameters, problem.masks, strict=True)]
    )
    entering = (~ordinary & ~problem.only_levels, problem.levels, ordinary)
    logs = np.array([parameter.centre for parameter in problem.parameters])
    if tuned is not None:
        logs[steps == 0] = tuned.logs[steps == 0]
    for step in (0, 1, 2) if tuned is None else (1, 2):
        chosen = np.flatnonzero(steps == step)
        rows = keep & entering[step]
        if not chosen.size or not np.any(rows):
            continue
        part = problem.part(chosen.tolist(), rows & problem.entering, logs)
        logs[chosen] = _solved(part, None if start is None else start[chosen], tolerance).logs
    return Fit(problem.parameters, logs)


def _step_of(parameter: FitParameter, mask: Mask, ordinary: Mask) -> int:
    """Return the step of a fit, from 0, that has the parameter."""
    if parameter.level_of is not None:
        return 1
    return 2 if np.any(mask) and np.all(ordinary[mask]) else 0


def leave_out(problem: Problem, keep: Mask, whole: Fit, groups: NDArray[np.str_]) -> Floats:
    """Return the step time of each row from constants that saw no row of its group, in seconds.

    `groups` is a label of each row. `whole` is the fit to the rows where `keep` is true; it predicts the groups of
    which it saw no row.
    """
    predicted = problem.step_time_s(whole.logs)
    for name in np.unique(groups[keep]):
        out = groups == name
        predicted[out] = problem.step_time_s(fit_without(problem, keep, whole, out).logs, out)
    return predicted


def fit_without(problem: Problem, keep: Mask, whole: Fit, out: Mask) -> Fit:
    """Return the fit to the rows where `keep` is true and `out` is not. `whole` is the fit with the latter."""
    tuned = None if np.any(keep & out & ~problem.table.ordinary & ~problem.only_levels) else whole
    return fit_populations(problem, keep & ~out, whole.logs, LEFT_OUT_TOLERANCE, tuned=tuned)


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
    counts = np.bincount(inverse[kept], minlength=names.size)
    return np.clip(WEIGHT_ROWS / counts[inverse], *WEIGHT_BOUNDS)


def row_sigmas(table: RowArrays) -> Floats:
    """Return the spread of each row's log error that the fit treats as noise."""
    vendor = table.framework == "megatron-bridge"
    usual = np.where(table.ordinary, ORDINARY_ROW_SIGMA, ROW_SIGMA)
    spread = np.where(vendor, VENDOR_ROW_SIGMA, usual)
    spread = np.where(table.sparse & (vendor | table.ordinary), SPARSE_ROW_SIGMA, spread)
    return np.asarray(np.hypot(spread, wait_sigmas(table)))


def wait_sigmas(table: RowArrays) -> Floats:
    """Return the part of each row's spread that is the time that ranks wait for one another."""
    nodes = np.maximum(np.asarray(table.sheet.devices / table.sheet.island), 1)
    return np.asarray(WAIT_SIGMA_S * np.log2(nodes) / table.measured_s)


def constants_in(columns: Mapping[str, Floats]) -> tuple[Constants, Floats]:
    """Return the constants and the framework factors of these columns."""
    return Constants(**{name: column for name, column in columns.items() if name != FACTOR}), columns[FACTOR]
