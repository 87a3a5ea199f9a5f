"""Estimate how likely a layout fits in memory, from the distance between measured and predicted peaks.

A cluster differs from the prediction by an offset of its own, and each run differs further, as step times do
(`interval`). The probability is that of a run of the next source: the logarithm of its error follows Student's t
distribution around the prediction. Few sources of ordinary software report the peak of the allocator, so that its
spread is never taken to be smaller than that of software which people tuned for its hardware.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.predict.uncertainty.interval import Effects
from carbon_plugin.spec.stack import Population

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MEMORY: dict[Population, Effects] = {
    # Computed and written by `python -m carbon_plugin.validate.step.spreads` from allocated and reserved peaks of
    # published rows. The equations have no constant of a source, so that no source has to be left out of them.
    "tuned": Effects(0.069, 0.069, 0.025, 11),
    "ordinary": Effects(0.066, 0.066, 0.049, 7),
}
_WIDEST, _POINTS = 12.0, 2401


def fit_probability(fill: Any, population: Population) -> Floats:
    """Return the probability that layouts fit in memory.

    `fill` is the predicted need divided by the memory of the device, an array or a number.
    """
    room = -np.log(np.maximum(np.asarray(fill, dtype=np.float64), 1e-12)) / spread(population)
    points, below = _probability_below(population)
    return np.asarray(np.interp(room, points, below))


def fits(need_bytes: Any, capacity_bytes: float) -> Flags:
    """Return whether layouts are at least as likely to fit as not.

    Errors lie above and below the prediction equally often, so that this is the case where the need is not above the
    capacity.
    """
    return np.asarray(np.asarray(need_bytes) <= capacity_bytes)


def spread(population: Population) -> float:
    """Return the scale of ln(measured peak / predicted) for a run of the next source of this kind of software."""
    return width(MEMORY[population])


def width(effects: Effects) -> float:
    """Return the scale of the error of a run of the next source, from the spreads between and within sources."""
    return math.sqrt(effects.between**2 * (1 + 1 / effects.sources) + effects.within**2)


@cache
def _probability_below(population: Population) -> tuple[Floats, Floats]:
    """Return errors in units of `spread`, and for each the probability of a smaller error."""
    points, density = error_density(population)
    return points, np.cumsum(density) - density / 2


@cache
def error_density(population: Population) -> tuple[Floats, Floats]:
    """Return errors in units of `spread`, and the probability of each.

    The errors follow Student's t distribution with one degree of freedom fewer than there are sources.
    """
    return _student(MEMORY[population].sources - 1)


def _student(degrees: int) -> tuple[Floats, Floats]:
    points = np.linspace(-_WIDEST, _WIDEST, _POINTS)
    density = (1 + points**2 / degrees) ** (-(degrees + 1) / 2)
    return points, density / density.sum()


def error_at(probability: float, effects: Effects) -> float:
    """Return the ln(measured peak / predicted) below which a run of the next source lies with this probability."""
    points, density = _student(effects.sources - 1)
    return width(effects) * float(np.interp(probability, np.cumsum(density) - density / 2, points))
