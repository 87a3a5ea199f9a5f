"""Sums of floats without rounding on the way, so that a total is the same however its parts are grouped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain


class ExactSum:
    """A running sum kept as floats that do not overlap (Shewchuk 1997, the algorithm behind `math.fsum`).

    Memory stays at a few floats however many terms are added.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, term: float) -> None:
        """Add a finite number."""
        parts = self._parts
        kept = 0
        for part in parts:
            big, small = (term, part) if abs(term) >= abs(part) else (part, term)
            term = big + small
            lost = small - (term - big)
            if lost:
                parts[kept] = lost
                kept += 1
        parts[kept:] = [term]

    @property
    def value(self) -> float:
        """The sum of all terms, correctly rounded."""
        return math.fsum(self._parts)


def total(sums: Iterable[ExactSum]) -> float:
    """The sum of all terms of several sums, correctly rounded: what `math.fsum` of every single term gives."""
    return math.fsum(chain.from_iterable(one._parts for one in sums))
