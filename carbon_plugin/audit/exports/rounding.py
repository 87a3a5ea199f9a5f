"""Round the numbers of an export to as many significant figures as anybody can use.

Carbon is known to about 20 %, so that four figures lose nothing, and parts still add up to their sum within the last
figure. Whole numbers (counts of tokens, steps and devices) and moments in time are exact and stay as they are.
"""

from __future__ import annotations

from typing import Any

import msgspec

DIGITS = 4
MOMENT = "_unix_s"
"""The names of fields that hold a moment end like this."""


def significant(value: float, digits: int = DIGITS) -> float:
    """Return a number rounded to this many significant digits."""
    return float(f"{value:.{digits}g}")


def presentable(document: Any) -> Any:
    """Return an export as plain data whose numbers are rounded to `DIGITS` significant figures."""
    return _rounded(msgspec.to_builtins(document))


def _rounded(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner, name) for inner in value]
    if isinstance(value, float) and not value.is_integer() and not name.endswith(MOMENT):
        return significant(value)
    return value
