"""Checks of numbers that many specs share, with one form of error: field, value and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.figure import Sourced

MOST_RUN_S = 20 * 365.25 * 86_400.0
"""Longer than any hardware is in use: a job that lasts for longer is a slip or a broken record."""


def check_positive(value: Struct, *fields: str, owner: str = "") -> None:
    """Raise `SpecError` naming the first of the fields that is not above 0; None passes. `owner` is put before it."""
    for field, number in _numbers(value, fields):
        if number <= 0:
            kind = "integer" if isinstance(number, int) else "number"
            raise SpecError(f"{owner}{field} is {number:g}, expected a positive {kind}")


def check_not_negative(value: Struct, *fields: str, owner: str = "") -> None:
    """As `check_positive`, with 0 allowed."""
    for field, number in _numbers(value, fields):
        if number < 0:
            raise SpecError(f"{owner}{field} is {number:g}, expected 0 or more")


def _numbers(value: Struct, fields: Iterable[str]) -> Iterator[tuple[str, float]]:
    for field in fields:
        number = getattr(value, field)
        if number is not None:
            yield field, number.value if isinstance(number, Sourced) else number
