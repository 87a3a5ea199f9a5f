"""Checks of numbers that many specs share, with one form of error: field, value and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec import amounts
from carbon_plugin.spec.figure import Sourced
from carbon_plugin.spec.units import SECONDS_PER_YEAR

MOST_LAYERS = 100_000
MOST_WIDTH = 10**9
"""Layers, and widths, lengths and batches, of a model beyond any that is thought of."""
MOST_COUNT = 10**12
"""Steps of a run, or sequences of an evaluation."""
MOST_PLANNED_S, MOST_DEVICE_HOURS = 1e5 * SECONDS_PER_YEAR, 1e13
"""A large model on a laptop, and a thousand times all accelerators that were made for a year."""
MOST_RUN_S = 20 * SECONDS_PER_YEAR
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


def check_at_most(value: Struct, most: float, *fields: str, owner: str = "") -> None:
    """As `check_positive`, for numbers above `most`, which are slips and would only make absurd figures."""
    for field, number in _numbers(value, fields):
        if number > most:
            raise SpecError(f"{owner}{field} is {number:g}, expected at most {most:g}")


def check_possible_run(run_time_s: float, device_hours: float) -> None:
    """Raise `SpecError` for a run that no plan is about: figures of it would be absurd, whatever was meant."""
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
