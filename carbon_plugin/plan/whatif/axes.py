"""Parse the axes of a comparison, in words such as "zone=SWE,USA accelerator=h100-sxm,b200-sxm", and list every
combination.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.boundary import finite_number
from carbon_plugin.spec.parsing.moment import unix_s
from carbon_plugin.spec.parsing.names import unknown_name

MOST_ALTERNATIVES = 200
_PARTS = re.compile(r"\s+(?=[^\s=,]+=)")
"""The blanks before a word that begins another axis."""

Axes = Mapping[str, tuple[str, ...]]


def parse_axes(words: Iterable[str], known: Iterable[str]) -> Axes:
    """Return the axes and their values from words of the form name=value,value.

    A word may hold several axes, with blanks between them, and a value may hold blanks too (zone=New York,Texas).
    Raises `SpecError` for another form, no axis, an unknown axis, an axis given twice, a start that is no moment, a
    threshold that is no number, an hour that no day has, or more than `MOST_ALTERNATIVES` combinations.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for word in filter(None, _PARTS.split(" ".join(words).strip())):
        name, separator, values = word.partition("=")
        chosen = tuple(value.strip() for value in values.split(",") if value.strip())
        if not separator or not chosen:
            raise SpecError(f"comparison: {word!r} is not of the form zone=SWE,USA")
        if name not in tuple(known):
            raise unknown_name("axis of comparison", name, known)
        if name in axes:
            raise SpecError(f"comparison: {name} is given twice; write {name}=A,B")
        axes[name] = chosen
    if not axes:
        raise SpecError(f"comparison: names no axis, expected for instance zone=SWE,USA; known: {', '.join(known)}")
    for start in axes.get("start", ()):
        unix_s(start, "comparison: start")
    for threshold in axes.get("pause_above", ()):
        pause_threshold(threshold)
    for hour in axes.get("hour", ()):
        start_hour(hour)
    combinations = 1
    for values_of_axis in axes.values():
        combinations *= len(values_of_axis)
    if combinations > MOST_ALTERNATIVES:
        raise SpecError(f"comparison: {combinations} combinations, expected at most {MOST_ALTERNATIVES}")
    return axes


def pause_threshold(text: str) -> float:
    """Return the intensity in g/kWh above which a run pauses. Raises `SpecError` for anything but a number of 0 or
    more.
    """
    value = finite_number(text)
    if value is None or value < 0:
        raise SpecError(f"comparison: pause_above is {text!r}, expected a number of g/kWh")
    return value


def start_hour(text: str) -> int:
    """Return the hour of the day, UTC, at which a run starts. Raises `SpecError` for anything but 0 to 23."""
    if not text.isdecimal() or int(text) > 23:
        raise SpecError(f"comparison: hour is {text!r}, expected a whole number from 0 to 23 (UTC)")
    return int(text)


def combinations_of(axes: Axes) -> list[dict[str, str]]:
    """Return every combination of the values of all axes, where the last axis changes fastest; none without an axis."""
    if not axes:
        return []
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
