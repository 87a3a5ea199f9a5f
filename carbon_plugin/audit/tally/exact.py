"""Sums of floats without rounding on the way, so that a total is the same however its parts are grouped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain

ROUNDING = 1e-9
"""Parts of a sum that are smaller in proportion are the rounding of terms that cancel each other."""


class ExactSum:
    """A running sum kept as a few floats whose exact sum it is (Shewchuk 1997, the algorithm behind `math.fsum`).

    Memory stays at a few floats however many terms are added.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, terms: Iterable[float]) -> None:
        """Add finite numbers. A sum beyond the range of floats is infinite."""
        rest = [*self._parts, *terms]
        self._parts = []
        try:
            # Each pass gives the rounded rest of the exact sum; two or three, and nothing is left.
            while part := math.fsum(rest):
                self._parts.append(part)
                rest.append(-part)
        except (OverflowError, ValueError):  # out of range now, or already infinite before
            self._parts = [math.inf]

    @property
    def value(self) -> float:
        """The sum of all terms, correctly rounded."""
        return math.fsum(self._parts)


def total(sums: Iterable[ExactSum]) -> float:
    """The sum of all terms of several sums, correctly rounded: what `math.fsum` of every single term gives."""
    return math.fsum(chain.from_iterable(one._parts for one in sums))
