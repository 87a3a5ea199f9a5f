"""How likely a layout fits in memory, from how far measured peaks lie from predicted ones.

A cluster differs from the prediction by an offset of its own, and each run by more, as step times do (`interval`): the
probability is that of a run of the next source, Student's t about the prediction, in logarithms. Software that people
tuned for its hardware keeps closer to what is predicted than ordinary software.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.predict.interval import Effects
from carbon_plugin.spec.stack import Population

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MEMORY: dict[Population, Effects] = {
    # Computed and written by `python -m carbon_plugin.validate.spreads` from allocated and reserved peaks of published
    # rows. The equations have no constant of a source, so that no source has to be left out of them.
    "tuned": Effects(0.000, 0.116, 6),
    "ordinary": Effects(0.084, 0.094, 5),
}
LEAST_FIT_PROBABILITY = 0.5
"""A layout is called too large where it is more likely not to fit than to fit."""
_WIDEST, _POINTS = 12.0, 2401


def fit_probability(fill: Any, population: Population) -> Floats:
    """Probability that layouts fit whose predicted need is this share of the memory, an array or a number."""
    room = -np.log(np.maximum(np.asarray(fill, dtype=np.float64), 1e-12)) / spread(population)
    points, below = _probability_below(population)
    return np.asarray(np.interp(room, points, below))


def fits(need_bytes: Any, capacity_bytes: float) -> Flags:
    """Whether layouts fit with at least `LEAST_FIT_PROBABILITY`: errors lie as often above as below, so that this is a
    need of no more than the capacity."""
    return np.asarray(np.asarray(need_bytes) <= capacity_bytes)


def spread(population: Population) -> float:
    """Scale of ln(measured peak / predicted) for a run of the next source of this kind of software."""
    between, within, sources = MEMORY[population]
    return math.sqrt(between**2 * (1 + 1 / sources) + within**2)


@cache
def _probability_below(population: Population) -> tuple[Floats, Floats]:
    """Errors in units of `spread`, and the probability of a smaller one."""
    points, density = error_density(population)
    return points, np.cumsum(density) - density / 2


@cache
def error_density(population: Population) -> tuple[Floats, Floats]:
    """Errors in units of `spread`, and their probabilities: Student's t with one degree fewer than sources."""
    points = np.linspace(-_WIDEST, _WIDEST, _POINTS)
    degrees = MEMORY[population].sources - 1
    density = (1 + points**2 / degrees) ** (-(degrees + 1) / 2)
    return points, density / density.sum()
