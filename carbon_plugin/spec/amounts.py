"""Numbers for a person: significant digits, thousands separated, and how many there are of something."""

from __future__ import annotations

MOST_WRITTEN_OUT = 1e15
COUNT_UNITS = ((1.0, ""), (1e3, " k"), (1e6, " M"), (1e9, " B"), (1e12, " T"))

Units = tuple[tuple[float, str], ...]


def number(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, with thousands separated and no exponent in everyday sizes."""
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    if not 1 <= abs(value) < MOST_WRITTEN_OUT:
        return text
    _, point, decimals = text.partition(".")
    return f"{float(text):,.{len(decimals) if point and 'e' not in text else 0}f}"


def days_phrase(days: float, digits: int = 3) -> str:
    """A time in days: 1 day, 1.5 days."""
    text = number(days, digits)
    return f"{text} day{'s' * (text != '1')}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """A count with its noun, for instance "1 step" or "2,000 steps"; `nouns` is a plural without a plain s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or noun + 's'}"


def verb(count: int, one: str, several: str) -> str:
    """The verb that agrees with a count: "is" or "are", "was" or "were"."""
    return one if count == 1 else several


def fitting_unit(value: float, units: Units, digits: int = 3) -> tuple[float, str]:
    """The largest unit of a rising row that `value` reaches, once rounded to so many digits; else the smallest."""
    rounded = abs(float(f"{value:.{digits}g}"))
    reached = [unit for unit in units if rounded >= unit[0]]
    return reached[-1] if reached else units[0]


def count(amount: float, digits: int = 3) -> str:
    """How many, in thousands, millions, billions or trillions: 8.03 B."""
    size, unit = fitting_unit(amount, COUNT_UNITS, digits)
    return f"{number(amount / size, digits)}{unit}"
