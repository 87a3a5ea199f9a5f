"""Predict each accelerator family as if it were new, to show how good a prediction is for a device that nobody
calibrated.

All rows of the family leave the fit, so that its devices get the sustained law and the priors. What the software costs
is still known from the other families. The exponents of the law were chosen in a study that had seen some of these
rows, so that the figures are somewhat optimistic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.fit import Fit, FitParameter, Mask, fit_populations, fitted_step_time_s
from carbon_plugin.calibrate.rows.table import RowArrays

FAMILIES = ("hopper", "blackwell")
"""Families that are predicted as unknown. The law is anchored on Ampere, and there are only four rows of Volta."""


def unknown_device_step_time_s(
    table: RowArrays, parameters: Sequence[FitParameter], fitted: Mask, whole: Fit
) -> NDArray[np.float64]:
    """Return the step time of each row of those families, in seconds, and nan for other rows.

    The constants have seen no row of the row's family.
    """
    predicted = np.full(table.measured_s.size, np.nan)
    for family in FAMILIES:
        out = table.family == family
        without = fit_populations(table, parameters, fitted & ~out, _without(whole, parameters, table, out))
        predicted[out] = fitted_step_time_s(table, without)[out]
    return predicted


def _without(whole: Fit, parameters: Sequence[FitParameter], table: RowArrays, out: Mask) -> NDArray[np.float64]:
    """Return the start of a fit: the logarithms of the fit to all rows.

    Parameters that only the left-out rows determine start at their prior.
    """
    seen = [bool(np.any(parameter.rows(table) & ~out)) for parameter in parameters]
    return np.where(seen, whole.logs, [parameter.centre for parameter in parameters])
