"""Define the one type for a number with its range, and the arithmetic of such numbers.

A range says how far off a number may be: `low` and `high` are its 10th and 90th percentile. It has no unit and no
source: the name of the field that holds it says the unit (`energy_j`, `power_w`), and where a number leaves the program
with its source it becomes a `Figure`. Sums of many independent errors are sampled in `footprint.propagation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

P90_SIGMAS = 1.2815515655446004
"""Standard deviations from the median of a normal distribution to its p90."""


class Range(Struct, frozen=True, gc=False):
    """Holds a number with its 10th and 90th percentile, all three in the unit that the holding field names.

    Every operation keeps `low <= value <= high` where its inputs have it, unless its docstring says otherwise.
    """

    value: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Range:
        """Return a number that is known without error."""
        return cls(value, value, value)

    @classmethod
    def of(cls, value: float, low: float | None, high: float | None) -> Range:
        """Return the range with the given ends; an end that is None, or lies on the wrong side, is the value itself."""
        return cls(value, value if low is None else min(low, value), value if high is None else max(high, value))

    @classmethod
    def total(cls, ranges: Iterable[Range]) -> Range:
        """Return the sum of numbers whose errors go together, as `plus` does; the order of the terms does not matter.

        The sum of no terms is exactly 0.
        """
        terms = list(ranges)
        return (
            cls(
                math.fsum([one.value for one in terms]),
                math.fsum([one.low for one in terms]),
                math.fsum([one.high for one in terms]),
            )
            if terms
            else ZERO
        )

    def plus(self, other: Range) -> Range:
        """Return the sum of two numbers whose errors go together: both are too high, or both are too low."""
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)

    def since(self, earlier: Range) -> Range:
        """Return what a running sum has gained since an `earlier` value of it: each end less its earlier self.

        Where the sum was not added up by `plus` alone, the ends of the result may cross; see `ordered`.
        """
        return Range(self.value - earlier.value, self.low - earlier.low, self.high - earlier.high)

    def less(self, known: float) -> Range:
        """Return what remains beside a part that is known exactly, never below 0."""
        return Range(max(0.0, self.value - known), max(0.0, self.low - known), max(0.0, self.high - known))

    def less_independent(self, part: Range) -> Range:
        """Return what remains beside a part that another instrument measured, so that the errors are independent.

        The distances between value and end are added in quadrature; the low end is not below 0. The value may be
        negative, where the part is larger than the whole.
        """
        value = self.value - part.value
        below = math.hypot(self.value - self.low, part.high - part.value)
        above = math.hypot(self.high - self.value, part.value - part.low)
        return Range(value, max(0.0, value - below), value + above)

    def scaled(self, factor: float) -> Range:
        """Return the number times an exact factor of 0 or more."""
        return Range(self.value * factor, self.low * factor, self.high * factor)

    def times(self, factor: Range) -> Range:
        """Return the product of two numbers of 0 or more whose errors go together, such as an energy and a share."""
        return Range(self.value * factor.value, self.low * factor.low, self.high * factor.high)

    def at_least(self, other: Range) -> Range:
        """Return the larger of two numbers, end by end, so that a running sum never falls."""
        return Range(max(self.value, other.value), max(self.low, other.low), max(self.high, other.high))

    def towards(self, other: Range, part: float) -> Range:
        """Return the number at the fraction `part` (0 to 1) of the way to another, end by end."""
        return Range(
            self.value + part * (other.value - self.value),
            self.low + part * (other.low - self.low),
            self.high + part * (other.high - self.high),
        )

    def widened(self, value: float) -> Range:
        """Return the same number with a range that contains `value` too."""
        return Range(self.value, min(self.low, value), max(self.high, value))

    def ordered(self) -> Range:
        """Return the same number with a range that contains it, whatever its ends were."""
        return self.widened(self.value)


ZERO = Range(0.0, 0.0, 0.0)
"""The range of exactly 0, with which a sum begins."""
