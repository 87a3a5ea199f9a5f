"""Define many numbers with their ranges as arrays, for sums over thousands of windows.

`spec.numbers.range` has single numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.spec.numbers.range import Range

Floats = NDArray[np.float64]


class RangeArray(NamedTuple):
    """Holds numbers with their 10th and 90th percentiles: three arrays of one shape, in the unit that the holder
    names.
    """

    value: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, value: Floats, low: Floats, high: Floats) -> RangeArray:
        """Return numbers with ranges that contain them. NaN is 0; an end that is NaN, or lies on the wrong side of its
        number, is the number itself."""
        known = ~np.isnan(value)
        value = np.where(known, value, 0.0)
        # fmin and fmax skip NaN.
        return cls(value, np.where(known, np.fmin(value, low), 0.0), np.where(known, np.fmax(value, high), 0.0))

    def at(self, chosen: int | NDArray[np.intp]) -> RangeArray:
        """Return the numbers of one row, or those that are chosen."""
        return RangeArray(self.value[chosen], self.low[chosen], self.high[chosen])

    def scaled(self, factors: float | Floats) -> RangeArray:
        """Return each number times its exact factor of 0 or more."""
        return RangeArray(self.value * factors, self.low * factors, self.high * factors)

    def total(self) -> Range:
        """Return the sum of all numbers, whose errors go together."""
        return Range(float(self.value.sum()), float(self.low.sum()), float(self.high.sum()))
