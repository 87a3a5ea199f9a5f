"""Compute the spreads between and within sources from predictions that saw no row of the source, for intervals."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.predict.uncertainty.interval import Effects, symmetrical, t_quantile

ODD, NORMAL_MEDIAN, LEAST_SPREAD = 2.5, 0.6745, 0.05
"""A source far from the others counts as if it were `ODD` spreads away, where a spread is the median of |offset| over
that of a normal variable."""
HELD = 0.8
"""The share of runs that the interval holds."""
HELD_SPREADS = NormalDist().inv_cdf((1 + HELD) / 2)
"""Half of the interval of a normal variable in standard deviations."""
FEWEST_ROWS = 5
"""Of a source with fewer rows the variance is taken, because a quantile of so few says nothing."""


def random_effects(errors: NDArray[np.float64], sources: NDArray[np.str_]) -> Effects:
    """Return both standard deviations of ln(measured / predicted), an array of shape (rows,), around 0.

    Every source is counted once, and none is left out. Sources differ in how much their rows differ, and the next run
    is one row of one of them: the variance within a source is therefore the mean of the variances of sources with two
    rows or more. The variance between sources is the mean square of their means, minus the mean of each mean's own
    variance.

    How far out the furthest sources lie does not matter to a range that holds `HELD` of the runs. Of n exchangeable
    sources the range of the next one has to hold the `HELD` (n+1) nearest (hierarchical conformal prediction, Lee,
    Barber and Willett 2023, arXiv 2306.06342): the others count with at most `ODD` spreads (winsorising, Huber 1981).
    For the same reason the variance of a source is that of a normal variable with the same `HELD` quantile, where its
    rows have long tails. Where these spreads would give a range that does not hold the `HELD` (n+1) nearest, sources
    differ by as much more as it takes.
    """
    names = np.unique(sources)
    means = _winsorised(np.array([np.mean(errors[sources == name]) for name in names]))
    counts = np.array([np.sum(sources == name) for name in names])
    several = counts > 1
    own = np.array([_spread_within(errors[sources == name]) for name in names[several]])
    own = _winsorised(own) ** 2
    within = float(np.mean(own)) if own.size else 0.0
    inside = np.full(len(names), within)
    inside[several] = own
    between = float(np.mean(means**2) - np.mean(inside / counts))
    between = max(between, _between_that_holds(np.abs(errors), sources, within, HELD) or 0.0)
    return symmetrical(float(np.sqrt(max(between, 0.0))), float(np.sqrt(within)), len(names))


def sided_effects(errors: NDArray[np.float64], sources: NDArray[np.str_]) -> Effects:
    """Return the standard deviations of ln(measured / predicted) with one for each side of the prediction.

    Software has many ways to be slower than its settings say and few to be faster, so that errors have a long tail on
    one side. A symmetrical range that holds `HELD` of the runs is then missed by few on one side and by many on the
    other, and its ends are not the p10 and p90 that they are called. Here each end is the quantile of its own side:
    of n exchangeable sources it is passed by the 0.1 (n+1) furthest on that side (hierarchical conformal prediction, as
    in `random_effects`). Where n is too small for that, both sides are those of `random_effects`.
    """
    both = random_effects(errors, sources)
    variances = [_between_that_holds(side, sources, both.within**2, (1 + HELD) / 2) for side in (-errors, errors)]
    faster, slower = (both.between if variance is None else math.sqrt(max(variance, 0.0)) for variance in variances)
    return both._replace(faster=faster, slower=slower)


def median_of_sources(errors: NDArray[np.float64], sources: NDArray[np.str_]) -> float:
    """Return the error that half of the rows do not exceed, with every source counted once."""
    places, order = _places(errors, sources)
    return float(np.interp((np.unique(sources).size + 1) / 2, places, errors[order]))


def _places(distances: NDArray[np.float64], sources: NDArray[np.str_]) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """Return where rows stand among as many places as there are sources, and the order in which they stand there.

    A row has the weight of its share of its source, and stands in the middle of it, so that the i-th of sources with
    one row stands at i.
    """
    _, source, rows = np.unique(sources, return_inverse=True, return_counts=True)
    order = np.argsort(distances)
    weights = 1 / rows[source[order]]
    return np.cumsum(weights) - weights / 2 + 0.5, order


def _between_that_holds(
    distances: NDArray[np.float64], sources: NDArray[np.str_], within: float, share: float
) -> float | None:
    """Return the variance between sources with which the range of the next one holds the `share` (n+1) of n sources
    with the least distances, or None where n is too small for that.

    `within` is the variance within a source. Between the places of two rows the distance is interpolated.
    """
    count = np.unique(sources).size
    places, order = _places(distances, sources)
    wanted = share * (count + 1)
    if wanted > places[-1]:
        return None
    distance = max(float(np.interp(wanted, places, distances[order])), 0.0)
    spread = distance / t_quantile((1 + HELD) / 2, count - 1)
    return (spread**2 - within) / (1 + 1 / count)


def _winsorised(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the numbers, with the furthest from 0 that a range may miss brought to `ODD` spreads."""
    missed = int((1 - HELD) * numbers.size - HELD)
    if missed < 1:
        return numbers
    far = np.abs(numbers)
    most = ODD * max(float(np.median(far)) / NORMAL_MEDIAN, LEAST_SPREAD)
    furthest = np.argsort(np.argsort(-far)) < missed
    return np.where(furthest, np.sign(numbers) * np.minimum(far, most), numbers)


def _spread_within(errors: NDArray[np.float64]) -> float:
    """Return the standard deviation of a source's rows about their mean, without the weight of long tails."""
    deviation = float(np.std(errors, ddof=1))
    if errors.size < FEWEST_ROWS:
        return deviation
    return min(deviation, float(np.quantile(np.abs(errors - np.mean(errors)), HELD)) / HELD_SPREADS)
