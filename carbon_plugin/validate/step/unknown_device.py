"""Predict each accelerator family as if it were new, to show how good a prediction is for a device that nobody
calibrated.

All rows of the family leave the fit, so that its devices get the sustained law and the priors. What the software costs
is still known from the other families. The exponents of the law were chosen in a study that had seen some of these
rows, so that the figures are somewhat optimistic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.fit import Fit, Mask, Problem, fit_populations

FAMILIES = ("hopper", "blackwell")
"""Families that are predicted as unknown. The law is anchored on Ampere, and there are only four rows of Volta."""


def unknown_device_step_time_s(problem: Problem, fitted: Mask, whole: Fit) -> NDArray[np.float64]:
    """Return the step time of each row of those families, in seconds, and nan for other rows.

    The constants have seen no row of the row's family.
    """
    table = problem.table
    predicted = np.full(table.measured_s.size, np.nan)
    for family in FAMILIES:
        out = table.family == family
        without = fit_populations(problem, fitted & ~out, _without(whole, problem, out))
        predicted[out] = problem.step_time_s(without.logs, out)
    return predicted


def _without(whole: Fit, problem: Problem, out: Mask) -> NDArray[np.float64]:
    """Return the start of a fit: the logarithms of the fit to all rows.

    Parameters that only the left-out rows determine start at their prior.
    """
    seen = [bool(np.any(mask & ~out)) for mask in problem.masks]
    return np.where(seen, whole.logs, [parameter.centre for parameter in problem.parameters])
