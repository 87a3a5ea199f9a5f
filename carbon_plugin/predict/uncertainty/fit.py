"""Estimate how likely a layout fits in memory, from the distance between measured and predicted peaks.

Software holds what no equation here counts and seldom less than is counted, so that half of the sources lie above the
prediction by some percent or more: an offset that all share. About it a cluster differs by an offset of its own, and
each run differs further, as step times do (`interval`). The probability is that of a run of the next source: the
logarithm of its error follows Student's t distribution. Few sources of ordinary software report the peak of the
allocator, so that its spread is never taken to be smaller than that of software which people tuned for its hardware.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.spec.stack import Population

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class PeakErrors(NamedTuple):
    """One instance says where ln(measured peak / predicted) lies: the median, with every source counted once, the
    standard deviations about it between sources and within one, and the number of sources.
    """

    offset: float
    between: float
    within: float
    sources: int


MEMORY: dict[Population, PeakErrors] = {
    # Computed and written by `python -m carbon_plugin.validate.step.spreads` from allocated and reserved peaks of
    # published rows. The equations have no constant of a source, so that no source has to be left out of them.
    "tuned": PeakErrors(0.008, 0.056, 0.023, 13),
    "ordinary": PeakErrors(0.039, 0.097, 0.052, 9),
}
_WIDEST, _POINTS = 12.0, 2401


def fit_probability(fill: Any, population: Population) -> Floats:
    """Return the probability that layouts fit in memory.

    `fill` is the predicted need divided by the memory of the device, an array or a number.
    """
    room = -np.log(np.maximum(np.asarray(fill, dtype=np.float64), 1e-12))
    errors, below = _probability_below(population)
    return np.asarray(np.interp(room, errors, below))


def fits(need_bytes: Any, capacity_bytes: float) -> Flags:
    """Return whether what layouts are predicted to need is there.

    Runs hold more by the offset in the median, so that a layout which only just fits is less likely to run than not.
    """
    return np.asarray(np.asarray(need_bytes) <= capacity_bytes)


def width(errors: PeakErrors) -> float:
    """Return the scale of the error of a run of the next source about the offset, from both spreads."""
    return math.sqrt(errors.between**2 * (1 + 1 / errors.sources) + errors.within**2)


@cache
def _probability_below(population: Population) -> tuple[Floats, Floats]:
    """Return ln(measured peak / predicted), and for each the probability of a smaller one."""
    errors, density = error_density(population)
    return errors, np.cumsum(density) - density / 2


@cache
def error_density(population: Population) -> tuple[Floats, Floats]:
    """Return ln(measured peak / predicted) of a run of the next source, and the probability of each.

    The errors follow Student's t distribution with one degree of freedom fewer than there are sources.
    """
    return _distribution(MEMORY[population])


def error_at(probability: float, errors: PeakErrors) -> float:
    """Return the ln(measured peak / predicted) below which a run of the next source lies with this probability."""
    points, density = _distribution(errors)
    return float(np.interp(probability, np.cumsum(density) - density / 2, points))


def _distribution(errors: PeakErrors) -> tuple[Floats, Floats]:
    degrees = errors.sources - 1
    points = np.linspace(-_WIDEST, _WIDEST, _POINTS)
    density = (1 + points**2 / degrees) ** (-(degrees + 1) / 2)
    return errors.offset + width(errors) * points, density / density.sum()
