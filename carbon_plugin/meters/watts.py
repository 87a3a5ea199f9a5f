"""Define power with its range, and the type of the functions that tell it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Watts(Struct, frozen=True):
    """One instance holds a power in W with its range."""

    low: float
    central: float
    high: float

    def times(self, factor: float) -> Watts:
        """Return this power scaled by a positive factor."""
        return Watts(self.low * factor, self.central * factor, self.high * factor)

    def plus(self, other: Watts) -> Watts:
        """Return the sum of two powers whose errors go together."""
        return Watts(self.low + other.low, self.central + other.central, self.high + other.high)

    def less(self, known_w: float) -> Watts:
        """Return what remains of this power when a part is measured elsewhere, never below zero."""
        return Watts(max(0.0, self.low - known_w), max(0.0, self.central - known_w), max(0.0, self.high - known_w))


PowerSource = Callable[[float], Watts]
"""A function that returns the mean power of the stretch that ends now and took the given number of seconds."""
