"""Compute how far the slowest of many ranks lies behind the mean, where their times scatter independently.

A step or a collective ends when the slowest rank is done. The expected maximum of n independent standard normal values
grows with the square root of 2 ln n (order statistics; H. A. David, Order Statistics, section 4.5).
"""

from __future__ import annotations

import numpy as np

from carbon_plugin.predict.arrays import Values, interpolated, log2, maximum

EXPECTED_MAXIMA = np.array(
    [
        *(0.0, 0.564, 1.029, 1.424, 1.766, 2.070, 2.344, 2.595, 2.827),
        *(3.044, 3.248, 3.442, 3.626, 3.802, 3.971, 4.134, 4.291, 4.443),
    ]
)
"""Expected maxima of 1, 2, 4, ... 131,072 standard normal values, by numerical integration."""


def expected_maximum(ranks: Values) -> Values:
    """Return the expected maximum of `ranks` independent standard normal values, in standard deviations."""
    return interpolated(log2(maximum(ranks, 1)), EXPECTED_MAXIMA)
