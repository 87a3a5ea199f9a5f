"""Add up floats exactly, so that a total is the same however its parts are grouped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain


class ExactSum:
    """A running sum, kept as a few floats that add up to it exactly (Shewchuk 1997, the algorithm behind `math.fsum`).

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
            # Each pass gives the rounded remainder of the exact sum. After two or three passes nothing remains.
            while part := math.fsum(rest):
                self._parts.append(part)
                rest.append(-part)
        except (OverflowError, ValueError):  # the sum is beyond floats now, or was infinite already
            self._parts = [math.inf]

    def merge(self, other: ExactSum) -> None:
        """Add the terms of another sum."""
        self.add(other._parts)

    @property
    def value(self) -> float:
        """Return the sum of all terms, correctly rounded."""
        return math.fsum(self._parts)


def total(sums: Iterable[ExactSum]) -> float:
    """Return the sum of all terms of several sums, correctly rounded, as `math.fsum` of every single term would give
    it."""
    return math.fsum(chain.from_iterable(one._parts for one in sums))
