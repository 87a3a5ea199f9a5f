"""Sample uncertain inputs that are known by their p10, median and p90.

A draw is a score: a standard normal number in units of its p90, so that 0 is the median, -1 the 10th and +1 the
90th percentile. Scores are Latin hypercube samples (each of `draws` equally likely strata once), which makes the
percentiles of a single input exact and those of a product steady with few draws. They depend on the scope's name,
the number of draws and the seed only: the same scope draws the same numbers in every call, whatever else is there.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.threads.turns import give_way

Floats = NDArray[np.float64]
WIDEST_SIGMAS = 10.0
"""A p90 so many standard deviations (of the logarithm) above the median is a factor of 370,000: its mean says nothing
beyond its high end."""
PERCENTILES = (0.025, 0.1, 0.9, 0.975)
_STRATA_A_PIECE = 20
"""So many strata are computed before the thread may give way."""


@lru_cache(maxsize=256)
def scores(scope: str, draws: int, seed: int) -> Floats:
    """Return `draws` scores of a scope, shape (draws,), read-only.

    They are cached, because a live monitor asks for the same ones each time.
    """
    stream = int.from_bytes(hashlib.blake2b(scope.encode(), digest_size=8).digest(), "big")
    shuffled = np.random.default_rng([seed, stream]).permutation(_strata(draws))
    shuffled.flags.writeable = False
    return shuffled


@lru_cache(maxsize=4)
def score_table(scopes: tuple[str, ...], draws: int, seed: int) -> Floats:
    """Return the scores of several scopes, shape (scopes, draws + 1), read-only and cached. The first column is 0, for
    the central values.
    """
    table = np.zeros((len(scopes), draws + 1))
    give_way()
    for row, scope in zip(table, scopes, strict=True):
        row[1:] = scores(scope, draws, seed)
        give_way()
    table.flags.writeable = False
    return table


def spread(value: Floats, low: Floats, high: Floats, score: Floats) -> Floats:
    """Return inputs at given scores: `value` at 0, `low` at -1, `high` at +1.

    `value`, `low` and `high` have shape (inputs,), `score` and the result (inputs, draws). Between and beyond, the
    logarithm is linear in the score on either side of the median (a two-piece lognormal: positive, and skewed as
    the range is). An input whose low is 0 has no logarithm there and is linear instead, cut off at 0.
    """
    positive = low > 0
    median, lower, upper = (np.where(positive, edge, 1.0) for edge in (value, low, high))
    give_way()
    below = score < 0
    give_way()
    # In place: a fresh array of this size costs as much in page faults as the arithmetic in it.
    drawn: Floats = np.where(
        below, (np.log(median) - np.log(lower))[:, None], (np.log(upper) - np.log(median))[:, None]
    )
    give_way()
    drawn *= score
    np.exp(drawn, out=drawn)
    give_way()
    drawn *= median[:, None]
    if not positive.all():
        rest = ~positive
        slope = np.where(below[rest], (value - low)[rest, None], (high - value)[rest, None])
        drawn[rest] = np.maximum(value[rest, None] + slope * score[rest], 0.0)
    return drawn


def mean_of(value: Floats, low: Floats, high: Floats) -> Floats:
    """Return the mean of each input over the distribution that `spread` samples, shape (inputs,).

    With z standard normal, a = ln(median/low) / z90 and b = ln(high/median) / z90, a two-piece lognormal has the mean
    median * (exp(a^2 / 2) * Phi(-a) + exp(b^2 / 2) * Phi(b)). An input whose low is 0 is linear in z on either side
    and cut off at 0, which makes it the mean of two truncated normals.
    """
    z90 = NormalDist().inv_cdf(0.9)
    means = [_mean(*ends, z90) for ends in zip(value.tolist(), low.tolist(), high.tolist(), strict=True)]
    return np.array(means)


@lru_cache(maxsize=4096)
def _mean(value: float, low: float, high: float, z90: float) -> float:
    normal = NormalDist()
    if low > 0:
        below, above = (math.log(value) - math.log(low)) / z90, (math.log(high) - math.log(value)) / z90
        # exp(x^2 / 2) * Phi(-x) tends to 1 / (x * sqrt(2 pi)), and its factors leave the range of floats before that.
        far = below > WIDEST_SIGMAS
        lower = 1 / (below * math.sqrt(2 * math.pi)) if far else math.exp(below**2 / 2) * normal.cdf(-below)
        if above > WIDEST_SIGMAS:
            return high
        return value * (lower + math.exp(above**2 / 2) * normal.cdf(above))
    # E max(0, value + slope * z) over z < 0, and E (value + slope * z) over z > 0.
    below, above = value / z90, (high - value) / z90
    density = normal.pdf(0.0)
    lower = value * (0.5 - normal.cdf(-z90)) - below * (density - normal.pdf(z90))
    return lower + 0.5 * value + above * density


def percentiles(samples: Floats) -> Floats:
    """Return the 2.5th, 10th, 90th and 97.5th percentile along the last axis, shape (4, ...).

    They lie at the midpoints of strata, as the scores do (Hazen 1914)."""
    # A full sort takes a sixth of the time of `np.quantile`, which selects.
    ranked = np.sort(samples, axis=-1)
    give_way()
    below, above, share = _places(samples.shape[-1])
    ends: Floats = ranked[..., below] * (1 - share) + ranked[..., above] * share
    return ends.transpose(-1, *range(ends.ndim - 1))


@lru_cache(maxsize=8)
def _places(draws: int) -> tuple[NDArray[np.int_], NDArray[np.int_], Floats]:
    """Return the positions of the sorted samples on either side of each percentile, and the weight of the upper one."""
    place = np.clip(np.array(PERCENTILES) * draws - 0.5, 0, draws - 1)
    below = place.astype(int)
    return below, np.minimum(below + 1, draws - 1), place - below


@lru_cache(maxsize=8)
def _strata(draws: int) -> Floats:
    normal = NormalDist()
    p90 = normal.inv_cdf(0.9)
    strata = []
    for stratum in range(draws):
        strata.append(normal.inv_cdf((stratum + 0.5) / draws) / p90)
        if stratum % _STRATA_A_PIECE == 0:
            give_way()
    return np.array(strata)
