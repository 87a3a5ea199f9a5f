"""Replace functions of numpy by functions that are faster for a single case.

The equations of a step hold for one layout and for a million. A single case is a plain float, on which Python computes
several times faster than numpy does; these functions answer it in plain Python and hand arrays on to numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]] | float
"""An array of float64, or a float for a single case."""
Flags = NDArray[np.bool_]


def values(number: float | bool | Values) -> Values:
    """Return a number as a float, or an array as float64."""
    if isinstance(number, ndarray):
        return np.asarray(number, dtype=np.float64)
    return float(number)


def where(condition: Any, chosen: Any, otherwise: Any) -> Values:
    """Return `np.where(condition, chosen, otherwise)`."""
    if isinstance(condition, ndarray) or isinstance(chosen, ndarray) or isinstance(otherwise, ndarray):
        return np.asarray(np.where(condition, chosen, otherwise))
    one: float = chosen if condition else otherwise
    return one


def any_of(flags: Any) -> bool:
    """Return whether a flag, or any flag of an array, is set. A number counts as set when it is not zero."""
    return bool(flags.any()) if isinstance(flags, ndarray) else bool(flags)


def maximum(first: Any, second: Any) -> Values:
    """Return `np.maximum(first, second)`."""
    if isinstance(first, ndarray) or isinstance(second, ndarray):
        return np.asarray(np.maximum(first, second))
    larger: float = first if first > second else second
    return larger


def minimum(first: Any, second: Any) -> Values:
    """Return `np.minimum(first, second)`."""
    if isinstance(first, ndarray) or isinstance(second, ndarray):
        return np.asarray(np.minimum(first, second))
    smaller: float = first if first < second else second
    return smaller


def clip(number: Any, low: Any, high: Any) -> Values:
    """Return `np.clip(number, low, high)`."""
    return minimum(maximum(number, low), high)


def sum_of(several: Iterable[Values]) -> Values:
    """Return the sum of values, which is 0 where there are none."""
    return sum(several, 0.0)


def sqrt(number: Any) -> Values:
    """Return `np.sqrt(number)`."""
    return np.asarray(np.sqrt(number)) if isinstance(number, ndarray) else math.sqrt(number)


def exp(number: Any) -> Values:
    """Return `np.exp(number)`."""
    return np.asarray(np.exp(number)) if isinstance(number, ndarray) else math.exp(number)


def log2(number: Any) -> Values:
    """Return `np.log2(number)`."""
    return np.asarray(np.log2(number)) if isinstance(number, ndarray) else math.log2(number)


def floor(number: Any) -> Values:
    """Return `np.floor(number)`."""
    return np.asarray(np.floor(number)) if isinstance(number, ndarray) else float(math.floor(number))


def ceil(number: Any) -> Values:
    """Return `np.ceil(number)`."""
    return np.asarray(np.ceil(number)) if isinstance(number, ndarray) else float(math.ceil(number))


def interpolated(number: Any, table: NDArray[np.float64]) -> Values:
    """Return the value between the entries of a table that stand for 0, 1, 2 and so on; beyond its end the last one."""
    if isinstance(number, ndarray):
        return np.interp(number, np.arange(table.size), table)
    before = min(int(number), table.size - 1)
    after = min(before + 1, table.size - 1)
    return float(table[before] + (number - before) * (table[after] - table[before]))


def common_divisor(first: Any, second: Any) -> Values:
    """Return `np.gcd(first, second)` of whole numbers that are kept as floats."""
    if isinstance(first, ndarray) or isinstance(second, ndarray):
        return np.gcd(np.asarray(first, np.int64), np.asarray(second, np.int64)).astype(np.float64)
    return float(math.gcd(int(first), int(second)))
