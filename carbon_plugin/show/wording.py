"""Write the quantities of reports, exports and tables for a person, by the functions of `spec.numbers.amounts`.

Every computed or measured value has three significant digits and the unit that fits its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from carbon_plugin.spec.numbers import amounts
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import (
    CARBON_UNITS,
    DEVICE_TIME_UNITS,
    ENERGY_UNITS,
    POWER_UNITS,
    TIME_UNITS,
    Units,
)


def number(value: float, digits: int = 3) -> str:
    """Return a computed or measured value with all its significant digits, for instance "1.50"."""
    return amounts.number(value, digits, padded=True)


def plain(value: float, digits: int = 4) -> str:
    """Return a stated number without further digits, for instance "5", "1.54" or "3,200"."""
    return amounts.number(value, digits)


def energy(joules: float) -> str:
    """Return an energy with its unit, for instance "12.3 kWh"."""
    return _amount(joules, ENERGY_UNITS)


def carbon(kilograms: float) -> str:
    """Return a mass of carbon dioxide equivalents with its unit, for instance "12.3 kgCO2e"."""
    return _amount(kilograms, CARBON_UNITS)


def power(watts: float) -> str:
    """Return a power with its unit, for instance "412 W"."""
    return _amount(watts, POWER_UNITS)


def duration(seconds: float) -> str:
    """Return a time with its unit, for instance "3.25 h"."""
    return _amount(seconds, TIME_UNITS)


def device_time(seconds: float) -> str:
    """Return device time with its unit, which is the hour at most: contracts and schedulers count device-hours."""
    return _amount(seconds, DEVICE_TIME_UNITS)


def energy_range(joules: Range | Figure) -> str:
    """Return p10 to p90 of an energy in the unit of its central value, for instance "11.0 to 13.1 kWh"."""
    return _range(joules, ENERGY_UNITS)


def carbon_range(kilograms: Range | Figure) -> str:
    """Return p10 to p90 of a carbon figure in the unit of its central value."""
    return _range(kilograms, CARBON_UNITS)


def energy_over_range(joules: Range | Figure) -> str:
    """Return an energy with its unit, and on the line below p10 to p90 in the same unit, for a cell of a table."""
    return _over_range(joules, ENERGY_UNITS)


def carbon_over_range(kilograms: Range | Figure) -> str:
    """Return a carbon figure with its unit, and on the line below p10 to p90 in the same unit, for a cell of a
    table."""
    return _over_range(kilograms, CARBON_UNITS)


def duration_range(seconds: Range | Figure) -> str:
    """Return p10 to p90 of a time in the unit of its central value."""
    return _range(seconds, TIME_UNITS)


def percent(share: float) -> str:
    """Return a share in percent. Only exactly nothing and exactly everything read as 0 and 100 %."""
    return amounts.percent(share)


def off_by(factor: float) -> str:
    """Return a factor as a signed percentage, for instance 1.12 as "+12 %". A factor of 2 or more, or of a half or
    less, is written as a factor, and one below a hundredth as a divisor.
    """
    if 0 < factor < 0.01:
        return f"÷ {number(1 / factor)}"
    if factor >= 2 or factor <= 0.5:
        return f"× {number(factor)}"
    change = 100 * (factor - 1)
    if abs(change) < 0.05:
        return "0 %"
    return f"{_sign(change)}{abs(change):.2g} %" if abs(change) < 9.95 else f"{_sign(change)}{abs(change):.0f} %"


def signed(value: float, *, of: float, digits: int = 3) -> str:
    """Return a difference with its sign; rounding noise beside a total of `of` reads as 0."""
    return "0" if _is_noise(value, of) else _sign(value) + number(abs(value), digits)


def field(value: object) -> str:
    """Return the value of a field of a spec as a user would write it. A missing value is an empty text, and a mapping
    is written as its fields with their values.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        texts = {name: field(inner) for name, inner in value.items()}
        return ", ".join(f"{name} {text}" for name, text in texts.items() if text)
    if isinstance(value, list | tuple):
        return ", ".join(map(field, value))
    return str(value)


def moment(unix_s: float) -> str:
    """Return a moment in UTC, for instance "2025-10-09 08:53:20 UTC", or its seconds where it is outside of any
    calendar.
    """
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{unix_s:g} s"


def _is_noise(value: float, total: float) -> bool:
    return abs(value) <= 1e-9 * abs(total)


def _sign(value: float) -> str:
    return "+" if value > 0 else "−"


def _amount(value: float, units: Units) -> str:
    return amounts.quantity(value, units, padded=True)


def _over_range(quantity: Range | Figure, units: Units) -> str:
    size, unit = amounts.fitting_unit(quantity.value, units)
    low, value, high = (number(end / size) for end in (quantity.low, quantity.value, quantity.high))
    return f"{value} {unit}\n{low}–{high}"


def _range(quantity: Range | Figure, units: Units) -> str:
    return amounts.quantity_range(quantity.low, quantity.high, quantity.value, units, padded=True)
