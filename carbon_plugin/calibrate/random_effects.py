"""Spread between and within sources of the predictions that saw nothing of the source: what intervals are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.predict.interval import Effects

ODD, NORMAL_MEDIAN, LEAST_SPREAD = 3.0, 0.6745, 0.05
"""A source is odd beyond so many spreads, by the median of |offset| over that of a normal variable."""


def random_effects(errors: NDArray[np.float64], sources: NDArray[np.str_]) -> Effects:
    """Both standard deviations of ln(measured / predicted), shape (rows,), about 0 and with every source counted once.

    Sources differ in how much their rows differ, and the next run is one row of one of them: its variance within the
    source is the mean of the sources' variances, over those of two rows or more, and not their median, which half of
    them exceed, nor pooled by rows, which would leave it to the largest table. The variance between sources is what
    remains of their mean squares when each mean's own variance is taken off."""
    names = np.unique(sources)
    means = np.array([np.mean(errors[sources == name]) for name in names])
    # A source far from all others is named in the documentation, not averaged in, as long as it is at most one of ten:
    # a range that leaves out a fifth of the cases has to know more than that.
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
