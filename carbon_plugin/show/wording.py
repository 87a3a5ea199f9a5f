"""Numbers as people read them: units that fit the size, few digits, a range in the same unit. Display only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from carbon_plugin.spec.figure import Figure

_ENERGY_UNITS = ((3.6e12, "GWh"), (3.6e9, "MWh"), (3.6e6, "kWh"), (3.6e3, "Wh"), (1.0, "J"))
_CARBON_UNITS = ((1e6, "ktCO2e"), (1e3, "tCO2e"), (1.0, "kgCO2e"), (1e-3, "gCO2e"), (1e-6, "mgCO2e"))
_POWER_UNITS = ((1e6, "MW"), (1e3, "kW"), (1.0, "W"), (1e-3, "mW"))
_TIME_UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))
_DEVICE_TIME_UNITS = ((3600.0, "h"),)

Units = Sequence[tuple[float, str]]


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, thousands separated, no exponent in everyday sizes."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    exponent = math.floor(math.log10(abs(rounded)))
    if not -4 <= exponent < 15:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}"


def plain(value: float, digits: int = 4) -> str:
    """A stated number without digits that nobody stated: 5, 1.54, 3,200."""
    text = number(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def unit_for(value: float, units: Units) -> tuple[float, str]:
    """The largest unit in which the value is at least 1, else the smallest."""
    return next((unit for unit in units if abs(value) >= unit[0]), units[-1])


def energy(joules: float) -> str:
    """An energy, for instance "12.3 kWh"."""
    return _amount(joules, _ENERGY_UNITS)


def carbon(kilograms: float) -> str:
    """A mass of carbon dioxide equivalents, for instance "12.3 kgCO2e"."""
    return _amount(kilograms, _CARBON_UNITS)


def power(watts: float) -> str:
    """A power, for instance "412 W"."""
    return _amount(watts, _POWER_UNITS)


def duration(seconds: float) -> str:
    """A time, for instance "3.25 h"."""
    return _amount(seconds, _TIME_UNITS)


def device_hours(seconds: float) -> str:
    """Device time in hours."""
    return _amount(seconds, _DEVICE_TIME_UNITS)


def energy_range(low_j: float, high_j: float, central_j: float) -> str:
    """A range in the unit of its central value, for instance "11.0 to 13.1 kWh"."""
    return _range(low_j, high_j, central_j, _ENERGY_UNITS)


def carbon_range(figure: Figure) -> str:
    """The p10 to p90 range of a carbon figure in the unit of its central value."""
    return _range(figure.low, figure.high, figure.value, _CARBON_UNITS)


def duration_range(figure: Figure) -> str:
    """The p10 to p90 range of a time in the unit of its central value."""
    return _range(figure.low, figure.high, figure.value, _TIME_UNITS)


def percent(share: float) -> str:
    """A share in percent; what is not quite nothing or everything never reads as 0 or 100 %."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.3g} %"


def off_by(factor: float) -> str:
    """A factor as a signed percentage, for instance 1.12 as "+12 %"; from doubling on as a factor."""
    if factor >= 2 or factor <= 0.5:
        return f"× {number(factor)}"
    change = 100 * (factor - 1)
    if abs(change) < 0.05:
        return "0 %"
    return f"{_sign(change)}{abs(change):.2g} %" if abs(change) < 9.95 else f"{_sign(change)}{abs(change):.0f} %"


def signed(value: float, *, of: float, digits: int = 3) -> str:
    """A difference with its sign; rounding noise beside a total of `of` reads as 0."""
    return "0" if _is_noise(value, of) else _sign(value) + number(abs(value), digits)


def signed_carbon(kilograms: float, *, of_kg: float) -> str:
    """A difference of carbon with its sign and unit; rounding noise beside a total of `of_kg` reads as 0."""
    return "0" if _is_noise(kilograms, of_kg) else _sign(kilograms) + carbon(abs(kilograms))


def moment(unix_s: float) -> str:
    """A moment in UTC, for instance "2025-10-09 08:53:20 UTC"; as seconds where no calendar has it."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{unix_s:g} s"


def _is_noise(value: float, total: float) -> bool:
    return abs(value) <= 1e-9 * abs(total)


def _sign(value: float) -> str:
    return "+" if value > 0 else "−"


def _amount(value: float, units: Units) -> str:
    size, name = unit_for(value, units)
    return f"{number(value / size)} {name}"


def _range(low: float, high: float, central: float, units: Units) -> str:
    size, name = unit_for(central, units)
    return f"{number(low / size)} to {number(high / size)} {name}"
