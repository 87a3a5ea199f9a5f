"""Replace `where`, `any` and `clip` of numpy by functions that are faster for a single case.

The equations of a step hold for one layout and for a million. In a single prediction numpy's own functions on scalars
take a large part of the time. These functions answer a scalar in plain Python and hand arrays on to numpy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64] | np.float64
"""A float64 array, or a float64 scalar."""
Flags = NDArray[np.bool_]


def values(number: float | bool | Values) -> Values:
    """Return a number or an array as float64."""
    if isinstance(number, np.ndarray):
        return np.asarray(number, dtype=np.float64)
    return np.float64(number)


def where(condition: Any, chosen: Any, otherwise: Any) -> Values:
    """Return `np.where(condition, chosen, otherwise)`."""
    if isinstance(condition, np.ndarray) or isinstance(chosen, np.ndarray) or isinstance(otherwise, np.ndarray):
        return np.asarray(np.where(condition, chosen, otherwise))
    return np.float64(chosen if condition else otherwise)


def any_of(flags: Any) -> bool:
    """Return whether a flag, or any flag of an array, is set. A number counts as set when it is not zero."""
    return bool(flags.any()) if isinstance(flags, np.ndarray) else bool(flags)


def clip(number: Any, low: Any, high: Any) -> Values:
    """Return `np.clip(number, low, high)`."""
    if isinstance(number, np.ndarray) or isinstance(low, np.ndarray) or isinstance(high, np.ndarray):
        return np.asarray(np.minimum(np.maximum(number, low), high))
    return np.float64(min(max(number, low), high))


def common_divisor(first: Any, second: Any) -> Values:
    """Return `np.gcd(first, second)` of whole numbers that are kept as floats."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.gcd(np.asarray(first, np.int64), np.asarray(second, np.int64)).astype(np.float64)
    return np.float64(math.gcd(int(first), int(second)))
