"""Joules with their range: the one value that meters add up."""

from __future__ import annotations

from msgspec import Struct


class Energy(Struct, frozen=True):
    """Joules with their p10-p90 range."""

    central_j: float = 0.0
    low_j: float = 0.0
    high_j: float = 0.0

    def plus(self, central_j: float, low_j: float, high_j: float) -> Energy:
        """This energy and one more stretch."""
        return Energy(self.central_j + central_j, self.low_j + low_j, self.high_j + high_j)

    def add(self, other: Energy) -> Energy:
        """This energy and another whose error goes with it."""
        return self.plus(other.central_j, other.low_j, other.high_j)

    def less(self, earlier: Energy) -> Energy:
        """What was added since an earlier value of the same sum."""
        return self.plus(-earlier.central_j, -earlier.low_j, -earlier.high_j)

    def times(self, factor: float) -> Energy:
        """A part of this energy."""
        return Energy(self.central_j * factor, self.low_j * factor, self.high_j * factor)

    def at_least(self, other: Energy) -> Energy:
        """The larger of two in each part, so that energy never falls."""
        return Energy(
            max(self.central_j, other.central_j), max(self.low_j, other.low_j), max(self.high_j, other.high_j)
        )
