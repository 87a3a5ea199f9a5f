"""Compute the spreads between and within sources from predictions that saw no row of the source, for intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.predict.uncertainty.interval import Effects

ODD, NORMAL_MEDIAN, LEAST_SPREAD = 3.0, 0.6745, 0.05
"""A source is odd beyond `ODD` spreads, where a spread is the median of |offset| over that of a normal variable."""


def random_effects(errors: NDArray[np.float64], sources: NDArray[np.str_]) -> Effects:
    """Return both standard deviations of ln(measured / predicted), an array of shape (rows,), around 0.

    Every source is counted once. Sources differ in how much their rows differ, and the next run is one row of one of
    them: the variance within a source is therefore the mean of the variances of sources with two rows or more. It is
    not their median, which half of them exceed, and it is not pooled over rows, where the largest table would decide.
    The variance between sources is the mean square of their means, minus the mean of each mean's own variance.
    """
    names = np.unique(sources)
    means = np.array([np.mean(errors[sources == name]) for name in names])
    # A source far from all others is named in the documentation and left out of the average, as long as at most one
    # source in ten is left out: a range may not ignore a fifth of the cases without knowing more.
    far = np.abs(means)
    usual = far <= ODD * max(float(np.median(far)) / NORMAL_MEDIAN, LEAST_SPREAD)
    usual |= np.argsort(np.argsort(-far)) >= len(names) // 10
    names, means = names[usual], means[usual]
    counts = np.array([np.sum(sources == name) for name in names])
    several = counts > 1
    own = np.array([np.var(errors[sources == name], ddof=1) for name in names[several]])
    within = float(np.mean(own)) if own.size else 0.0
    inside = np.full(len(names), within)
    inside[several] = own
    between = float(np.mean(means**2) - np.mean(inside / counts))
    return Effects(float(np.sqrt(max(between, 0.0))), float(np.sqrt(within)), len(names))
