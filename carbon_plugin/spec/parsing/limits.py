"""Check numbers that many specs contain, with errors of one form: field, value and what was expected.

A comparison is written so that NaN, which a script can pass and no file, does not satisfy it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers import amounts
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.numbers.units import SECONDS_PER_YEAR

MOST_LAYERS = 100_000
MOST_WIDTH = 10**9
"""The most layers of a model, and the largest width, length or batch: far more than any model that anybody
considers.
"""
MOST_COUNT = 10**12
"""The most steps of a run, and the most sequences of an evaluation."""
MOST_PLANNED_S, MOST_DEVICE_HOURS = 1e5 * SECONDS_PER_YEAR, 1e13
"""The longest and the largest run that is planned. The first is a large model on a laptop; the second is a thousand
times all accelerators that were made, for a year.
"""
MOST_RUN_S = 20 * SECONDS_PER_YEAR
"""This is longer than any hardware is in use: a job that lasts longer is a mistake or a broken record."""


def check_positive(value: Struct, *fields: str, owner: str = "") -> None:
    """Raise `SpecError` naming the first of the fields that is not above 0; None passes. `owner` is put before it."""
    for field, number in _numbers(value, fields):
        if not number > 0:
            kind = "integer" if isinstance(number, int) else "number"
            raise SpecError(f"{owner}{field} is {number:g}, expected a positive {kind}")


def check_not_negative(value: Struct, *fields: str, owner: str = "") -> None:
    """Raise `SpecError` naming the first of the fields that is below 0, as `check_positive` does."""
    for field, number in _numbers(value, fields):
        if not number >= 0:
            raise SpecError(f"{owner}{field} is {number:g}, expected 0 or more")


def check_at_most(value: Struct, most: float, *fields: str, owner: str = "") -> None:
    """Raise `SpecError` naming the first of the fields that is above `most`, as `check_positive` does.

    Such a number is a mistake and would only lead to absurd figures.
    """
    for field, number in _numbers(value, fields):
        if not number <= most:
            raise SpecError(f"{owner}{field} is {number:g}, expected at most {most:g}")


def check_possible_run(run_time_s: float, device_hours: float) -> None:
    """Raise `SpecError` for a run that is longer or larger than any plan: its figures would be absurd."""
    if not run_time_s <= MOST_PLANNED_S or not device_hours <= MOST_DEVICE_HOURS:
        raise SpecError(
            f"the run would take {amounts.number(run_time_s / SECONDS_PER_YEAR)} years and "
            f"{amounts.number(device_hours)} device-hours, expected at most "
            f"{amounts.number(MOST_PLANNED_S / SECONDS_PER_YEAR)} years and {amounts.number(MOST_DEVICE_HOURS)} "
            "device-hours; check seq_len, global_batch_size, steps or tokens, evaluation and cluster.nodes"
        )


def _numbers(value: Struct, fields: Iterable[str]) -> Iterator[tuple[str, float]]:
    for field in fields:
        number = getattr(value, field)
        if number is not None:
            yield field, number.value if isinstance(number, Sourced) else number
