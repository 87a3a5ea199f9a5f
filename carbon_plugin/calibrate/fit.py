"""Maximum-a-posteriori fit of few constants to measured rows, and leave-one-model-out prediction.

Each parameter multiplies one constant of a group of rows by exp(x), with a normal prior on x around the law or
prior of `predict.rates`. Rows enter with the soft-L1 loss of their log error, so that one odd row does not win;
data sets are weighted so that a thousand rows of one machine do not either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.table import Table, predict
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.rates import Constants

FACTOR = "framework_factor"
ROW_SIGMA = 0.05
"""Row-to-row spread that no constant explains (scatter about a line within one vTrain layout: 4.7 % mean)."""
SPARSE_ROW_SIGMA = 0.2
"""The same for mixture-of-experts rows: one configuration moved by up to 77 % between container releases."""
VENDOR_ROW_SIGMA = 0.1
WEIGHT_ROWS = 40
"""A data set weighs as much as this many rows, within the bounds below."""
WEIGHT_BOUNDS = (0.05, 4.0)
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
    """One fitted number: a constant of a group of rows. `sigma` is the prior's spread of its logarithm."""

    name: str
    field: str
    rows: Callable[[Table], Mask]
    sigma: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Logs of the fitted multipliers and their posterior spreads (one sigma), in the order of `parameters`."""

    parameters: tuple[Parameter, ...]
    logs: Floats
    spreads: Floats

    def multiplier(self, name: str) -> float:
        """Fitted factor of a parameter on its prior."""
        names = [parameter.name for parameter in self.parameters]
        return float(np.exp(self.logs[names.index(name)]))


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
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise SpecError("calibrate: fitting needs scipy; pip install 'carbon-plugin[calibrate]'") from error
    used = np.ones(table.measured_s.size, dtype=bool) if keep is None else keep
    masks = [parameter.rows(table) for parameter in parameters]
    sigmas = np.array([parameter.sigma for parameter in parameters])
    roots, spreads = np.sqrt(row_weights(table) if weights is None else weights), row_sigmas(table)

    def robust_errors(logs: Floats) -> Floats:
        error = np.log(_predicted(table, parameters, masks, logs) / table.measured_s) / spreads
        return np.asarray(roots * np.sign(error) * np.sqrt(2 * (np.sqrt(1 + error * error) - 1)))

    def residuals(logs: Floats) -> Floats:
        return np.concatenate([robust_errors(logs)[used], logs / sigmas])

    def jacobian(logs: Floats) -> Floats:
        here = robust_errors(logs)
        columns = np.zeros((here.size, logs.size))
        for group in groups:
            moved = logs.copy()
            moved[group] += DIFFERENCE
            slope = (robust_errors(moved) - here) / DIFFERENCE
            for index in group:
                columns[masks[index], index] = slope[masks[index]]
        return np.concatenate([columns[used], np.diag(1 / sigmas)])

    groups = _disjoint_groups(masks)
    begin = np.zeros(len(parameters)) if start is None else start
    solution = least_squares(residuals, begin, jac=jacobian, method="trf", ftol=tolerance, max_nfev=MAX_EVALUATIONS)
    # Every parameter has a prior row in the Jacobian, so this matrix is never singular.
    posterior = np.linalg.inv(solution.jac.T @ solution.jac)
    return Fit(tuple(parameters), np.asarray(solution.x), np.sqrt(np.diag(posterior)))


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


def leave_one_model_out(table: Table, parameters: Sequence[Parameter], keep: Mask, whole: Fit) -> Floats:
    """Step time of each row from constants that saw no row of its model in any data set. `whole` is the fit to the
    rows where `keep` is true."""
    predicted = np.empty(table.measured_s.size)
    for key in np.unique(table.model_key):
        out = table.model_key == key
        without = fit(table, parameters, keep=keep & ~out, start=whole.logs, tolerance=LEFT_OUT_TOLERANCE)
        predicted[out] = fitted_step_time_s(table, without)[out]
    return predicted


def row_weights(table: Table) -> Floats:
    """Weight of each row: about `WEIGHT_ROWS` over the size of its data set."""
    _, inverse, counts = np.unique(table.source, return_inverse=True, return_counts=True)
    return np.clip(WEIGHT_ROWS / counts[inverse], *WEIGHT_BOUNDS)


def row_sigmas(table: Table) -> Floats:
    """Spread of each row's log error that the fit takes for noise."""
    vendor = table.framework == "megatron-bridge"
    return np.where(vendor & table.sparse, SPARSE_ROW_SIGMA, np.where(vendor, VENDOR_ROW_SIGMA, ROW_SIGMA))


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
