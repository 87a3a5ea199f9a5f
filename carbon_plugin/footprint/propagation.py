"""Evaluate the equations of carbon accounting over arrays, with one column per draw of every uncertain input.

    E_it = duration * sum(E_item)                       E_facility = PUE * E_it
    operational = PUE * duration * sum(E_item * I_item) * (I / I_central)
    embodied_scope = kg_scope * unit_years_scope * duration / (lifetime * utilisation)
    building = kg_building * device_years * duration
    water on site = l_per_kwh * E_it                    water off site = l_per_kwh * E_facility

`footprint.account` evaluates them at the medians and at samples, `footprint.drivers` with one input at a time at
its p10 and p90.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from carbon_plugin.footprint.checks import check_inputs
from carbon_plugin.footprint.factors.water import OFF_SITE
from carbon_plugin.footprint.market import Contracts, Market
from carbon_plugin.footprint.uncertainty import Floats, mean_of, spread
from carbon_plugin.footprint.values import BUILDING, IT_RUNGS, EnergyItem, Factors, Reservation
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH, SECONDS_PER_YEAR
from carbon_plugin.threads.turns import give_way

_RUN_SCOPES = ("intensity", "pue", "lifetime", "utilisation", "duration")
_UNITS = ("device", "host", "network")
_CERTAIN = (1.0, 1.0, 1.0)
Number = TypeVar("Number", float, Floats)
"""One value, or an array with one value a draw. The equations are the same."""


class UncertainInputs(NamedTuple):
    """Holds uncertain inputs, one row each, and how they combine.

    `rows` are the values of each input with their p10 and p90: the energy items ordered by rung; then intensity
    (relative to its central value), PUE - 1, lifetime, fleet utilisation and duration factor; then kg of each embodied
    scope, kg of the building a device-year where it is charged, and liters a kWh of each kind of water. `scopes` names
    the draw of each row: rows of one scope share it.
    """

    scopes: tuple[str, ...]
    rows: list[tuple[float, float, float]]
    rungs: dict[str, slice]
    item_g_per_kwh: list[float]
    unit_years: dict[str, float]
    amortised: int
    water: tuple[str, ...]
    contracts: Contracts | None

    @property
    def of_carbon(self) -> UncertainInputs:
        """Return the inputs of energy and location-based carbon only, without those of water and of contracts."""
        end = len(self.rows) - len(self.water)
        return self._replace(scopes=self.scopes[:end], rows=self.rows[:end], water=(), contracts=None)

    def columns(self) -> tuple[Floats, Floats, Floats]:
        """Return the values, the low and the high ends, each of shape (rows,)."""
        value, low, high = np.array(self.rows, dtype=np.float64).T
        return value, low, high


class Carbon(NamedTuple, Generic[Number]):
    """Holds the energy by rung with "it" and "facility" (J) and carbon (kgCO2e): one value, or one value per draw."""

    energy_j: dict[str, Number]
    operational_kg: Number
    embodied_parts_kg: dict[str, Number]
    embodied_kg: Number
    total_kg: Number


class Outcome(NamedTuple):
    """Holds what `Carbon` holds, with water (L) and the market-based line, one value per draw."""

    energy_j: dict[str, Floats]
    operational_kg: Floats
    embodied_parts_kg: dict[str, Floats]
    embodied_kg: Floats
    total_kg: Floats
    water_l: dict[str, Floats]
    market: Market | None


def gather(
    energies: Sequence[EnergyItem],
    reservations: Sequence[Reservation],
    factors: Factors,
    duration_spread: tuple[float, float],
) -> UncertainInputs:
    """Return the rows of one accounting. Raises `FootprintError` for impossible values."""
    check_inputs(energies, reservations, factors, duration_spread)
    give_way()
    items = sorted(energies, key=lambda item: IT_RUNGS.index(item.rung))
    unit_years = _unit_years(reservations)
    intensity, pue, life = factors.intensity.figure, factors.pue, factors.lifetime_years
    rows = [_ends(item.energy) for item in items]
    # Relative, so that it also spreads items with an intensity of their own. Zero has no range (checked).
    rows.append(
        (1.0, intensity.low / intensity.value, intensity.high / intensity.value) if intensity.value else _CERTAIN
    )
    # The overhead is what varies: a PUE never falls below 1.
    rows.append((pue.value - 1, pue.low - 1, pue.high - 1))
    rows.append(_ends(life))
    rows.append(_CERTAIN if factors.fleet_utilisation is None else _ends(factors.fleet_utilisation))
    rows.append((1.0, *duration_spread))
    rows += [_ends(factors.embodied_kg[scope]) for scope in unit_years]
    amortised = len(unit_years)
    if factors.building_kg is not None and "device" in unit_years:
        # The building stands around the devices: it is charged with their reserved time.
        unit_years[BUILDING] = unit_years["device"]
        rows.append(_ends(factors.building_kg))
    rows += [_ends(liters) for liters in factors.water_l_per_kwh.values()]
    return UncertainInputs(
        scopes=(
            *(f"energy {item.scope}" for item in items),
            *_RUN_SCOPES,
            *(f"embodied {scope}" for scope in unit_years),
            *(f"water {place}" for place in factors.water_l_per_kwh),
        ),
        rows=rows,
        rungs=_rung_slices(items),
        item_g_per_kwh=[
            intensity.value if item.intensity_g_per_kwh is None else item.intensity_g_per_kwh for item in items
        ],
        unit_years=unit_years,
        amortised=amortised,
        water=tuple(factors.water_l_per_kwh),
        contracts=Contracts.of(factors),
    )


def certain_inputs() -> UncertainInputs:
    """Return the inputs of an invented run whose values are all 1, with the scopes that most runs have."""
    unit_years = dict.fromkeys((*_UNITS, BUILDING), 1.0)
    scopes = ("energy", *_RUN_SCOPES, *(f"embodied {scope}" for scope in unit_years))
    return UncertainInputs(
        scopes=scopes,
        rows=[_CERTAIN] * len(scopes),
        rungs={IT_RUNGS[0]: slice(0, 1)},
        item_g_per_kwh=[1.0],
        unit_years=unit_years,
        amortised=len(_UNITS),
        water=(),
        contracts=None,
    )


def evaluate(inputs: UncertainInputs, scores: Floats) -> Outcome:
    """Evaluate the equations at given scores, shape (rows of `inputs`, draws). See `uncertainty.spread`."""
    return _outcome(inputs, spread(*inputs.columns(), scores))


def sampled_carbon(inputs: UncertainInputs, scores: Floats) -> Carbon[Floats]:
    """Return the energy and location-based carbon that `evaluate` returns."""
    columns = inputs.columns()
    give_way()
    drawn = spread(*columns, scores)
    give_way()
    return _combine(inputs, list(drawn))


def central(inputs: UncertainInputs) -> Carbon[float]:
    """Evaluate the equations at the central value of every input."""
    return _combine(inputs, [value for value, _, _ in inputs.rows])


def central_outcome(inputs: UncertainInputs) -> Outcome:
    """Evaluate the equations at the central value of every input, with water and the market-based line."""
    median, _, _ = inputs.columns()
    return _outcome(inputs, median[:, None])


def central_and_mean(inputs: UncertainInputs) -> Outcome:
    """Evaluate the equations at the central value and at the mean of every input, two values each.

    The inputs are independent, so that the mean of a product is the product of the means. For lifetime and utilisation,
    by which the equations divide, the mean of the inverse is used.
    """
    median, low, high = inputs.columns()
    means = mean_of(median, low, high)
    items = len(inputs.item_g_per_kwh)
    divisors = slice(items + _RUN_SCOPES.index("lifetime"), items + _RUN_SCOPES.index("utilisation") + 1)
    means[divisors] = 1 / mean_of(1 / median[divisors], 1 / high[divisors], 1 / low[divisors])
    return _outcome(inputs, np.stack([median, means], axis=1))


def _outcome(inputs: UncertainInputs, drawn: Floats) -> Outcome:
    """Evaluate all equations at given values of the inputs, shape (rows of `inputs`, draws)."""
    carbon = _combine(inputs, list(drawn))
    it_j, facility_j = carbon.energy_j["it"], carbon.energy_j["facility"]
    liters = drawn[len(drawn) - len(inputs.water) :]
    return Outcome(
        *carbon,
        water_l={
            place: row * (facility_j if place == OFF_SITE else it_j) / JOULES_PER_KWH
            for place, row in zip(inputs.water, liters, strict=True)
        },
        market=inputs.contracts.settle(facility_j, carbon.operational_kg) if inputs.contracts else None,
    )


def _combine(inputs: UncertainInputs, rows: Sequence[Number]) -> Carbon[Number]:
    """Evaluate the equations of carbon at given values of the inputs, one a row of `inputs`."""
    items = len(inputs.item_g_per_kwh)
    of_embodied = items + len(_RUN_SCOPES)
    relative_intensity, overhead, lifetime_years, utilisation, duration = rows[items:of_embodied]
    nothing = 0.0 * duration
    item_j = [row * duration for row in rows[:items]]
    energy_j = {rung: sum(item_j[of_rung], nothing) for rung, of_rung in inputs.rungs.items()}
    it_j = sum(energy_j.values(), nothing)
    facility_factor = 1 + overhead
    give_way()
    emitting = sum((joules * grams for joules, grams in zip(item_j, inputs.item_g_per_kwh, strict=True)), nothing)
    operational_kg = emitting * relative_intensity * facility_factor / (JOULES_PER_KWH * GRAMS_PER_KG)
    charged_years = lifetime_years * utilisation
    give_way()
    parts_kg = {}
    for number, (scope, years) in enumerate(inputs.unit_years.items()):
        part_kg = rows[of_embodied + number] * years * duration
        parts_kg[scope] = part_kg / charged_years if number < inputs.amortised else part_kg
    embodied_kg = sum(parts_kg.values(), nothing)
    return Carbon(
        energy_j=energy_j | {"it": it_j, "facility": it_j * facility_factor},
        operational_kg=operational_kg,
        embodied_parts_kg=parts_kg,
        embodied_kg=embodied_kg,
        total_kg=operational_kg + embodied_kg,
    )


def _ends(number: Range | Figure) -> tuple[float, float, float]:
    return number.value, number.low, number.high


def _unit_years(reservations: Sequence[Reservation]) -> dict[str, float]:
    total: dict[str, float] = {}
    for reservation in reservations:
        years = reservation.units * reservation.time_s / SECONDS_PER_YEAR
        total[reservation.scope] = total.get(reservation.scope, 0.0) + years
    return total


def _rung_slices(items: Sequence[EnergyItem]) -> dict[str, slice]:
    """Return the rows of each rung that occurs, in items ordered by rung."""
    rungs = [item.rung for item in items]
    return {rung: slice(rungs.index(rung), rungs.index(rung) + rungs.count(rung)) for rung in dict.fromkeys(rungs)}
