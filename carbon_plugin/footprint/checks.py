"""Refuse impossible inputs of the carbon accounting, with an error that names the value and its scope."""

from __future__ import annotations

import math
from collections.abc import Iterable

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.values import IT_RUNGS, EnergyItem, Factors, Reservation
from carbon_plugin.spec.numbers.range import Range

# A low or high that misses the central value by less than this share is rounding, not a mistake.
_ROUNDING = 1e-9
_PASSED: list[Factors] = []
"""The factors that were checked last and passed. A live monitor accounts with the same ones at every window."""


def check_inputs(
    energies: Iterable[EnergyItem],
    reservations: Iterable[Reservation],
    factors: Factors,
    duration_spread: tuple[float, float],
) -> None:
    """Raise `FootprintError`, naming scope and value, for an impossible input of the accounting."""
    for item in energies:
        name = f"energy of {item.rung} scope {item.scope!r}"
        if item.rung not in IT_RUNGS:
            raise FootprintError(f"{name}: rung is {item.rung!r}, expected one of {', '.join(IT_RUNGS)}")
        _check_range(name, "J", item.energy)
        own = item.intensity_g_per_kwh
        if own is not None and not 0 <= own < math.inf:
            raise FootprintError(f"{name}: intensity_g_per_kwh is {own}, expected 0 or more")
    for reservation in reservations:
        name = f"reservation of {reservation.scope!r}"
        if reservation.scope not in factors.embodied_kg:
            known = ", ".join(factors.embodied_kg) or "none"
            raise FootprintError(f"{name}: no embodied factor of that scope, expected one of: {known}")
        for field, value in (("units", reservation.units), ("time_s", reservation.time_s)):
            if not 0 <= value < math.inf:
                raise FootprintError(f"{name}: {field} is {value}, expected 0 or more")
    _check_factors(factors)
    short, long = duration_spread
    if not 0 < short <= 1 <= long < math.inf:
        raise FootprintError(f"duration_spread is ({short}, {long}), expected 0 < p10 <= 1 <= p90")


def _check_factors(factors: Factors) -> None:
    if not _PASSED or _PASSED[0] is not factors:
        _check_new_factors(factors)
        _PASSED[:] = [factors]


def _check_new_factors(factors: Factors) -> None:
    intensity, pue, life = factors.intensity.figure, factors.pue, factors.lifetime_years
    others = {
        "building": factors.building_kg,
        "fleet_utilisation": factors.fleet_utilisation,
        "residual": factors.residual,
    }
    known = {"intensity": intensity, "pue": pue, "lifetime": life, **factors.embodied_kg, **factors.water_l_per_kwh}
    for name, figure in (known | {name: figure for name, figure in others.items() if figure is not None}).items():
        _check_range(f"factor {name}", figure.unit, figure.range)
    if intensity.value == 0 < intensity.high:
        raise FootprintError(f"factor intensity: value is 0 with high {intensity.high}, expected no range around 0")
    if pue.low < 1:
        raise FootprintError(f"factor pue: low is {pue.low}, expected 1 or more")
    used = factors.fleet_utilisation
    if used is not None and not 0 < used.low <= used.high <= 1:
        raise FootprintError(f"factor fleet_utilisation: {used.low} to {used.high}, expected within 0 to 1")
    if life.low <= 0:
        raise FootprintError(f"factor lifetime: low is {life.low}, expected more than 0")


def _check_range(name: str, unit: str, number: Range) -> None:
    value, low, high = number.value, number.low, number.high
    slack = _ROUNDING * abs(value)
    if not (0 <= low <= value + slack and value - slack <= high < math.inf):
        raise FootprintError(
            f"{name}: low {low}, value {value}, high {high} {unit}, expected 0 <= low <= value <= high"
        )
