"""Write numbers for a person: significant digits, separated thousands, a unit that fits, and counted nouns.

This is the only place that turns a number into text for a reader; `show.wording` names its uses for outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from carbon_plugin.spec.numbers.units import COUNT_UNITS, MEMORY_UNITS, Units

SMALLEST_EXPONENT, LARGEST_EXPONENT = -4, 15
"""The powers of ten between which a number is written without an exponent."""


def number(value: float, digits: int = 3, *, padded: bool = False) -> str:
    """Return `value` with `digits` significant digits and separated thousands, for instance "1,230" or "0.0123".

    Zeros after the decimal point are left out ("1.5"), unless `padded` asks for all digits ("1.50"), which tells the
    reader how exactly a computed or measured value is written. Sizes beyond everyday ones get an exponent.
    """
    if not math.isfinite(value):
        return f"{value}"
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    exponent = math.floor(math.log10(abs(rounded)))
    if SMALLEST_EXPONENT <= exponent < LARGEST_EXPONENT:
        text = f"{rounded:,.{max(0, digits - 1 - exponent)}f}"
        return text if padded or "." not in text else text.rstrip("0").rstrip(".")
    return f"{rounded:.{digits - 1}e}" if padded else f"{rounded:.{digits}g}"


def fitting_unit(value: float, units: Units, digits: int = 3) -> tuple[float, str]:
    """Return the largest of the rising `units` that `value` reaches once rounded to `digits`, else the smallest."""
    rounded = abs(float(f"{value:.{digits}g}"))
    reached = [unit for unit in units if rounded >= unit[0]]
    return reached[-1] if reached else units[0]


def quantity(value: float, units: Units, digits: int = 3, *, padded: bool = False) -> str:
    """Return a quantity in SI units as text in the unit that fits it, for instance "12.3 kWh"."""
    size, unit = fitting_unit(value, units, digits)
    return f"{number(value / size, digits, padded=padded)} {unit}".rstrip()


def quantity_range(low: float, high: float, central: float, units: Units, *, padded: bool = False) -> str:
    """Return a range with both ends in the unit that fits its central value, for instance "11.0 to 13.1 kWh"."""
    size, unit = fitting_unit(central, units)
    return f"{number(low / size, padded=padded)} to {number(high / size, padded=padded)} {unit}".rstrip()


def count(amount: float, digits: int = 3) -> str:
    """Return how many there are in thousands, millions, billions or trillions, for instance "8.03 B"."""
    return quantity(amount, COUNT_UNITS, digits)


def memory(size_bytes: float, digits: int = 3) -> str:
    """Return a size of memory in the binary unit that fits it, for instance "79.1 GiB"."""
    return quantity(size_bytes, MEMORY_UNITS, digits)


def percent(share: float, decimals: int | None = None, *, signed: bool = False) -> str:
    """Return a share in percent, for instance "99.7 %". Without `decimals` it has three significant digits, and only
    exactly nothing and exactly everything read as 0 and 100 %. `signed` writes a plus, for instance "+12 %".
    """
    if decimals is None and 0 < share < 0.001:
        return "<0.1 %"
    if decimals is None and 0.999 < share < 1:
        return ">99.9 %"
    size = number(100 * abs(share)) if decimals is None else f"{100 * abs(share):,.{decimals}f}"
    if not any(digit in size for digit in "123456789"):  # what is written as nothing has no sign
        return f"{size} %"
    plus = "+" if signed else ""
    return f"{'−' if share < 0 else plus}{size} %"


def days_phrase(days: float, digits: int = 3) -> str:
    """Return a time in days with its noun, for instance "1 day" or "1.5 days"."""
    text = number(days, digits)
    return f"{text} day{'s' * (text != '1')}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a count with its noun, for instance "1 step" or "2,000 steps".

    `nouns` gives the plural of a noun that does not form it with an s.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or noun + 's'}"


def yaml_word(value: object) -> str:
    """Return a plain value as a YAML file writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def either(words: Sequence[str]) -> str:
    """Return words as alternatives: "a", "a or b", "a, b or c"."""
    *before, last = words
    return f"{', '.join(before)} or {last}" if before else last


def verb(count: int, one: str, several: str) -> str:
    """Return the form of a verb that agrees with a count: "is" or "are", "was" or "were"."""
    return one if count == 1 else several
