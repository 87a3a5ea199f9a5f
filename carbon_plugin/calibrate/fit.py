"""Maximum-a-posteriori fit of few constants to measured rows, and prediction with a group of rows left out.

Each parameter multiplies one constant of a group of rows by exp(x), with a normal prior on x around the law or
prior of `predict.rates`. Rows enter with the soft-L1 loss of their log error, so that one odd row does not win;
data sets are weighted so that a thousand rows of one machine do not either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.rows.table import Table, predict, select
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.case import take
from carbon_plugin.predict.rates import Constants

FACTOR = "framework_factor"
THREADS_VARIABLE = "OPENBLAS_NUM_THREADS"
"""What the linear algebra of scipy reads when it is loaded."""
ROW_SIGMA = 0.05
"""Row-to-row spread that no constant explains (scatter about a line within one vTrain layout: 4.7 % mean)."""
SPARSE_ROW_SIGMA = 0.2
"""The same for mixture-of-experts rows: one configuration moved by up to 77 % between container releases."""
VENDOR_ROW_SIGMA = 0.1
ORDINARY_ROW_SIGMA = 0.12
"""The same for rows of ordinary software, whose host and settings are known least."""
WAIT_SIGMA_S = 0.008
"""Seconds a step and doubling of nodes by which waiting for one another varies: what makes a short step on many nodes
say little about constants."""
WEIGHT_ROWS = 40
"""A data set weighs as much as this many rows, within the bounds below."""
WEIGHT_BOUNDS = (0.05, 4.0)
MOST_ROWS, STRIDE = 400, 7
"""Of a data set with more rows than this only every seventh goes into a fit: such a table (vTrain on one node) is
almost linear in layers and micro-batches, and its thousand rows are some fifty independent points."""
MODEL_FOLDS = 12
"""Groups that the models are left out in. Each costs a fit."""
MAX_EVALUATIONS = 100
TOLERANCE = 1e-9
"""Relative change of the loss at which a fit stops: tight enough that a refit agrees in the first 3 digits."""
LEFT_OUT_TOLERANCE = 1e-5
"""The same for fits of which only predictions are taken: they agree with the tight ones within 0.3 %, in half the
time."""
DIFFERENCE = 1e-4
"""Step of the finite differences in the logarithm of a constant."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One fitted number: a constant of a group of rows. `sigma` is the prior's spread of its logarithm about `centre`;
    `ceiling` is the largest value of the constant itself, for a share of what is physically there."""

    name: str
    field: str
    rows: Callable[[Table], Mask]
    sigma: float
    centre: float = 0.0
    ceiling: float | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """Logs of the fitted multipliers and their posterior spreads (one sigma), in the order of `parameters`."""

    parameters: tuple[Parameter, ...]
    logs: Floats
    spreads: Floats

    def multiplier(self, name: str) -> float:
        """Fitted factor of a parameter on its prior, 1 for a constant that is no parameter."""
        names = [parameter.name for parameter in self.parameters]
        return float(np.exp(self.logs[names.index(name)])) if name in names else 1.0


def fit(
    table: Table,
    parameters: Sequence[Parameter],
    keep: Mask | None = None,
    start: Floats | None = None,
    weights: Floats | None = None,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Fit `parameters` to the rows where `keep` is true. Parameters without rows stay at their prior.

    `weights` of the rows are `row_weights` unless given. Raises `SpecError` without scipy."""
    least_squares = _solver()
    used = (np.ones(table.measured_s.size, dtype=bool) if keep is None else keep) & thinned(table)
    rows = select(table, used)
    masks = [parameter.rows(rows) for parameter in parameters]
    sigmas = np.array([parameter.sigma for parameter in parameters])
    centres = np.array([parameter.centre for parameter in parameters])
    most = np.array([_most(rows, parameter, mask) for parameter, mask in zip(parameters, masks, strict=True)])
    roots = np.sqrt((row_weights(table) if weights is None else weights)[used])
    spreads = row_sigmas(rows)
    groups = _disjoint_groups(masks)
    # All slopes come from one call: the rows of each group stand below one another, once as they are and once for each
    # group of parameters that moves them.
    touched = [np.flatnonzero(np.any([masks[index] for index in group], axis=0)) for group in groups]
    copies = np.concatenate([np.arange(rows.measured_s.size), *touched])
    below = np.cumsum([rows.measured_s.size, *(moved.size for moved in touched)])
    repeated = select(rows, copies)

    def robust_errors(predicted: Floats, index: Any) -> Floats:
        error = np.log(predicted / rows.measured_s[index]) / spreads[index]
        return np.asarray(roots[index] * np.sign(error) * np.sqrt(2 * (np.sqrt(1 + error * error) - 1)))

    def residuals(logs: Floats) -> Floats:
        errors = robust_errors(_predicted(rows, parameters, masks, logs), slice(None))
        return np.concatenate([errors, (logs - centres) / sigmas])

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
        return np.concatenate([columns, np.diag(1 / sigmas)])

    begin = np.minimum(centres if start is None else start, most - DIFFERENCE)
    solution = least_squares(
        residuals, begin, jac=jacobian, bounds=(-np.inf, most), ftol=tolerance, max_nfev=MAX_EVALUATIONS
    )
    # Every parameter has a prior row in the Jacobian, so this matrix is never singular.
    posterior = np.linalg.inv(solution.jac.T @ solution.jac)
    return Fit(tuple(parameters), np.asarray(solution.x), np.sqrt(np.diag(posterior)))


def _solver() -> Callable[..., Any]:
    """Return scipy's least-squares solver, with its linear algebra on one thread where it is imported here first: for
    matrices of some forty columns several threads only wait for one another, in twice the CPU time."""
    before = os.environ.get(THREADS_VARIABLE)
    os.environ[THREADS_VARIABLE] = before or "1"
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise SpecError("calibrate: fitting needs scipy; pip install 'carbon-plugin[calibrate]'") from error
    finally:
        if before is None:
            del os.environ[THREADS_VARIABLE]
    solver: Callable[..., Any] = least_squares
    return solver


def _joined(parts: Sequence[Constants]) -> Constants:
    """Return the constants of several sets of rows, one set below the other."""
    return Constants(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Constants)})


def _most(rows: Table, parameter: Parameter, mask: Mask) -> float:
    """Upper bound of the logarithm of a parameter."""
    if parameter.ceiling is None or not np.any(mask):
        return np.inf
    return float(np.log(parameter.ceiling / np.max(getattr(rows.prior, parameter.field)[mask])))


def _disjoint_groups(masks: Sequence[Mask]) -> list[list[int]]:
    """Parameters that touch no row in common, so that one evaluation gives the slopes of all of them."""
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


def fitted_constants(table: Table, fitted: Fit) -> tuple[Constants, Floats]:
    """Constants and framework factors of every row under a fit."""
    masks = [parameter.rows(table) for parameter in fitted.parameters]
    return _constants(table, fitted.parameters, masks, fitted.logs)


def fitted_step_time_s(table: Table, fitted: Fit) -> Floats:
    """Step times of every row under a fit."""
    constants, factor = fitted_constants(table, fitted)
    return np.asarray(predict(table, constants, factor).total)


def fit_populations(
    table: Table, parameters: Sequence[Parameter], keep: Mask, start: Floats | None = None, tolerance: float = TOLERANCE
) -> Fit:
    """Fit in two steps: what devices, links and frameworks sustain to tuned software alone, then what ordinary software
    costs to its own rows under those constants.

    The spread between ordinary programs is larger than what any constant of a device does, so that their rows would
    bend it. The parameters of the second step are those that touch ordinary rows only."""
    second = [_only_ordinary(parameter, table) for parameter in parameters]
    logs = np.array([parameter.centre for parameter in parameters])
    spreads = np.array([parameter.sigma for parameter in parameters])
    for step in (False, True):
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


def _only_ordinary(parameter: Parameter, table: Table) -> bool:
    rows = parameter.rows(table)
    return bool(np.any(rows)) and bool(np.all(table.ordinary[rows]))


def leave_out(
    table: Table, parameters: Sequence[Parameter], keep: Mask, whole: Fit, groups: NDArray[np.str_]
) -> Floats:
    """Step time of each row from constants that saw no row of its group (`groups`: a label of each row). `whole` is the
    fit to the rows where `keep` is true, and predicts the groups that it saw nothing of."""
    predicted = fitted_step_time_s(table, whole)
    for name in np.unique(groups[keep]):
        out = groups == name
        without = fit_populations(table, parameters, keep & ~out, whole.logs, LEFT_OUT_TOLERANCE)
        predicted[out] = fitted_step_time_s(table, without)[out]
    return predicted


def model_folds(table: Table, keep: Mask) -> NDArray[np.str_]:
    """A label of each row by which its model is left out, of `MODEL_FOLDS` labels: all rows of a model in any data set
    share one, and the labels hold about as many kept rows each."""
    names, counts = np.unique(table.model_key[keep], return_counts=True)
    filled = np.zeros(MODEL_FOLDS)
    fold: dict[str, int] = {}
    for index in np.argsort(-counts, kind="stable"):
        fold[str(names[index])] = emptiest = int(np.argmin(filled))
        filled[emptiest] += counts[index]
    return np.array([str(fold.get(str(key), "")) for key in table.model_key])


def thinned(table: Table) -> Mask:
    """Rows that go into a fit: all of a data set of ordinary size, every `STRIDE`-th of a larger one."""
    kept = np.ones(table.measured_s.size, dtype=bool)
    for name, count in zip(*np.unique(table.source, return_counts=True), strict=True):
        if count > MOST_ROWS:
            members = np.flatnonzero(table.source == name)
            kept[members] = False
            kept[members[::STRIDE]] = True
    return kept


def row_weights(table: Table) -> Floats:
    """Weight of each row: about `WEIGHT_ROWS` over the rows of its data set that go into a fit."""
    kept = thinned(table)
    names, inverse = np.unique(table.source, return_inverse=True)
    counts = np.array([np.sum(kept & (table.source == name)) for name in names])
    return np.clip(WEIGHT_ROWS / counts[inverse], *WEIGHT_BOUNDS)


def row_sigmas(table: Table) -> Floats:
    """Spread of each row's log error that the fit takes for noise."""
    vendor = table.framework == "megatron-bridge"
    usual = np.where(table.ordinary, ORDINARY_ROW_SIGMA, ROW_SIGMA)
    nodes = np.maximum(np.asarray(table.sheet.devices / table.sheet.island), 1)
    waits = WAIT_SIGMA_S * np.log2(nodes) / table.measured_s
    spread = np.where(vendor, VENDOR_ROW_SIGMA, usual)
    spread = np.where(table.sparse & (vendor | table.ordinary), SPARSE_ROW_SIGMA, spread)
    return np.asarray(np.sqrt(spread**2 + waits**2))


def _predicted(table: Table, parameters: Sequence[Parameter], masks: Sequence[Mask], logs: Floats) -> Floats:
    constants, factor = _constants(table, parameters, masks, logs)
    return np.asarray(predict(table, constants, factor).total)


def _constants(
    table: Table, parameters: Sequence[Parameter], masks: Sequence[Mask], logs: Floats
) -> tuple[Constants, Floats]:
    columns: dict[str, Any] = {f.name: np.array(getattr(table.prior, f.name)) for f in fields(Constants)}
    factor = np.array(table.prior_factor)
    for parameter, mask, log in zip(parameters, masks, logs, strict=True):
        column = factor if parameter.field == FACTOR else columns[parameter.field]
        column[mask] *= np.exp(log)
    return replace(table.prior, **columns), factor
