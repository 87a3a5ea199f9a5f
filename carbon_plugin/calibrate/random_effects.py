"""Spread between and within sources of the predictions that saw nothing of the source: what intervals are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.predict.interval import Effects

ODD, NORMAL_MEDIAN, LEAST_SPREAD = 3.0, 0.6745, 0.05
"""A source is odd beyond so many spreads, by the median of |offset| over that of a normal variable."""


def random_effects(errors: NDArray[np.float64], sources: NDArray[np.str_]) -> Effects:
    """Both standard deviations of ln(measured / predicted), shape (rows,), about 0 and with every source counted once.

    The spread within a source is the median over sources of two rows or more, so that one odd source does not set it;
    that between them is what remains of the sources' mean squares."""
    names = np.unique(sources)
    means = np.array([np.mean(errors[sources == name]) for name in names])
    # A source far from all others (a naive loop over experts) is named in the documentation, not averaged in.
    usual = np.abs(means) <= ODD * max(float(np.median(np.abs(means))) / NORMAL_MEDIAN, LEAST_SPREAD)
    names, means = names[usual], means[usual]
    inside = [np.std(errors[sources == name], ddof=1) for name in names if np.sum(sources == name) > 1]
    within = float(np.median(inside)) if inside else 0.0
    counts = np.array([np.sum(sources == name) for name in names])
    between = float(np.mean(means**2) - np.mean(within**2 / counts))
    return Effects(float(np.sqrt(max(between, 0.0))), within, len(names))
