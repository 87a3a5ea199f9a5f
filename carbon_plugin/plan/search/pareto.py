"""Keep the alternatives that no other alternative beats in every objective.

Fronts of the search are taken over steps of 0.1 %: alternatives in the same step of time and energy count as one, and
the simplest of them is kept. That bounds the size of a front, whatever the number of candidates (epsilon-dominance on a
logarithmic grid: Laumanns, Thiele, Deb, Zitzler, Evolutionary Computation 10 (2002) 263).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

STEP = 1e-3
"""The relative difference from which on two times or energies count as different; it is far below what any prediction
knows.
"""


def steps_of(values: Floats) -> Floats:
    """Return the number of the 0.1 % step that each positive value lies in."""
    return np.asarray(np.floor(np.log(values) / np.log1p(STEP)))


def front(time: Floats, energy: Floats, complexity: Floats) -> Indices:
    """Return the indices of the front of time and energy by rising time, from arrays of shape (n,).

    Of candidates in the same step of both the one of least complexity is kept, then the fastest, then the first.
    No member is beaten in both by another, and every candidate is beaten or met in both, to a step, by a member.
    """
    if not time.size:
        return np.arange(0)
    near = not_hopeless(time, energy)
    times, energies = steps_of(time[near]), steps_of(energy[near])
    order = np.lexsort((time[near], complexity[near], energies, times))
    lowest = np.minimum.accumulate(energies[order])
    first = np.append(True, energies[order][1:] < lowest[:-1])
    return np.asarray(near[order[first]])


def not_hopeless(time: Floats, energy: Floats, margin: float = 1 + 2 * STEP) -> Indices:
    """Return the candidates that neither the fastest nor the most frugal candidate beats in both by the factor
    `margin`. Few remain to be sorted.
    """
    fastest, frugal = int(np.argmin(time)), int(np.argmin(energy))
    return np.flatnonzero((time <= time[frugal] * margin) & (energy <= energy[fastest] * margin))


def not_dominated(points: Any) -> Indices:
    """Return the indices of the rows of (n, objectives) that no other row beats.

    A row beats another if it is nowhere more and somewhere less. Of equal rows the first is kept. This is for few rows,
    because memory grows with the square of n.
    """
    rows = np.asarray(points, dtype=np.float64)
    no_more = (rows[:, None] <= rows[None]).all(axis=2)
    less = (rows[:, None] < rows[None]).any(axis=2)
    earlier = np.arange(len(rows))[:, None] < np.arange(len(rows))[None]
    return np.flatnonzero(~(no_more & (less | earlier)).any(axis=0))
