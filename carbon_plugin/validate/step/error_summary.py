"""Sum up the errors of predictions against measurements into one line of the validation table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ErrorSummary(Struct, frozen=True, kw_only=True):
    """The errors of one source, in percent of the measured value unless said otherwise.

    `worst` has a sign, `abs_log_ratio` is the mean of |ln(predicted / measured)|, and `coverage` is the share of rows
    inside the 80 % interval. `left_out` says that the constants saw no row of the source. `model_left_out_mape` is the
    error of constants that saw other models of the same source, None where the source was not fitted.
    """

    source: str
    n: int
    mape: float
    median: float
    p90: float
    worst: float
    bias: float
    abs_log_ratio: float
    coverage: float
    left_out: bool
    baseline_mape: dict[str, float]
    model_left_out_mape: float | None = None


def summarise(
    source: str,
    measured: Floats,
    predicted: Floats,
    interval: tuple[Floats, Floats],
    baselines: Mapping[str, Floats],
    *,
    left_out: bool,
    model_left_out: Floats | None = None,
) -> ErrorSummary:
    """Return the errors of at least one row. Arrays have shape (n,) and are in seconds; `interval` is (p10, p90)."""
    error = predicted / measured - 1
    low, high = interval
    return ErrorSummary(
        source=source,
        n=measured.size,
        mape=percent_error(predicted, measured),
        median=100 * float(np.median(np.abs(error))),
        p90=100 * float(np.quantile(np.abs(error), 0.9)),
        worst=100 * float(error[np.argmax(np.abs(error))]),
        bias=100 * float(np.mean(error)),
        abs_log_ratio=float(np.mean(np.abs(np.log(predicted / measured)))),
        coverage=float(np.mean((low <= measured) & (measured <= high))),
        left_out=left_out,
        baseline_mape={name: percent_error(guess, measured) for name, guess in baselines.items()},
        model_left_out_mape=None if model_left_out is None else percent_error(model_left_out, measured),
    )


def percent_error(predicted: Floats, measured: Floats) -> float:
    """Return the mean absolute error in percent of the measured value."""
    return 100 * float(np.mean(np.abs(predicted / measured - 1)))


def mean(numbers: Sequence[float]) -> float | None:
    """Return the mean, or None where there are no numbers."""
    return float(np.mean(numbers)) if numbers else None
