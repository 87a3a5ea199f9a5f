"""Define the accounts of a fleet as plain frozen values: the content of `fleet report --json`.

Energies are in kWh and masses in kgCO2e. Carbon is a sum of the central values that the audits
of the runs state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.run_carbon import plus_independent
from carbon_plugin.fleet.coverage import SchedulerCoverage
from carbon_plugin.fleet.restate.restatement import Restatement
from carbon_plugin.fleet.store.schema import ENDS, MJ_PER_J, MS_PER_S, UG_PER_KG
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import JOULES_PER_KWH, SECONDS_PER_HOUR

ACCOUNTS_VERSION = 1
MJ_PER_KWH = MJ_PER_J * JOULES_PER_KWH


class FleetWaste(Struct, frozen=True, kw_only=True):
    """Energy that brought nothing new, kWh, each joule counted once, and its operational carbon. All totals contain it.

    `failed` is the energy of failed runs that is in none of the other three parts: steps done again, starting up again,
    and waiting or accelerators that nobody claimed. `operational_kg` is None where no carbon of the energy is known;
    its p10 and p90 are as far from it as those of all operational carbon are.
    """

    failed_kwh: float
    redone_kwh: float
    restart_kwh: float
    idle_kwh: float
    operational_kg: float | None
    operational_low_kg: float | None
    operational_high_kg: float | None

    @property
    def kwh(self) -> float:
        """Return the sum of all parts, kWh."""
        return self.failed_kwh + self.redone_kwh + self.restart_kwh + self.idle_kwh


class AccountLine(Struct, frozen=True, kw_only=True):
    """The account of one group, and of one month where `month` is not None (202511 is November 2025).

    `energy_kwh` is that of the machines, of which `measured_kwh` was measured; `low_kwh` and `high_kwh` add up the
    meters' ranges. `location_kg` and `market_kg` are operational carbon by location and by contract. `embodied_kg` is
    booked by the rule of the report. `total_kg` is location and embodied where that is known. The `low` and `high` of
    a mass are its p10 and p90: those of the runs' audits added up, as if all errors were one. A mass is None where
    nothing of it is known. `without_facility_kwh` is energy whose PUE is not known.
    `without_carbon_kwh`, `without_market_kwh` and `without_embodied_h` are energy and
    device-hours of which the carbon is not known and in no sum.
    """

    group: dict[str, str]
    month: int | None
    runs: int
    device_hours: float
    energy_kwh: float
    measured_kwh: float
    low_kwh: float
    high_kwh: float
    facility_kwh: float
    location_kg: float | None
    location_low_kg: float | None
    location_high_kg: float | None
    market_kg: float | None
    market_low_kg: float | None
    market_high_kg: float | None
    embodied_kg: float | None
    embodied_low_kg: float | None
    embodied_high_kg: float | None
    total_kg: float | None
    total_low_kg: float | None
    total_high_kg: float | None
    without_facility_kwh: float
    without_carbon_kwh: float
    without_market_kwh: float
    without_embodied_h: float
    waste: FleetWaste


class RunLine(Struct, frozen=True, kw_only=True):
    """One of the runs with the most carbon, with the place of its ledgers and of its own report."""

    name: str
    run_id: str
    place: str
    team: str
    programme: str
    role: str
    region: str
    hardware: str
    start_unix_s: float
    failed: bool
    energy_kwh: float
    location_kg: float | None
    location_low_kg: float | None
    location_high_kg: float | None
    embodied_kg: float | None
    embodied_low_kg: float | None
    embodied_high_kg: float | None
    total_kg: float | None
    total_low_kg: float | None
    total_high_kg: float | None


class ForecastMonth(Struct, frozen=True, kw_only=True):
    """One instance says how good the forecasts were of the runs that started in a month. The error is the actual total
    carbon over the forecast one, minus 1.

    `bias` is the error of the sums and `median_absolute_error` that of a usual run. `energy_bias` is the error of the
    sums of the energy of the machines, None where no forecast states it.
    """

    month: int
    runs: int
    bias: float
    median_absolute_error: float
    energy_bias: float | None = None


class YearLine(Struct, frozen=True, kw_only=True):
    """One line of the greenhouse gas inventory of a calendar year (GHG Protocol). `kg` is None where it is wholly
    unknown.
    """

    year: int
    scope: int
    category: int | None
    name: str
    kg: float | None
    note: str
    method: str | None = None
    energy_kwh: float | None = None


class MissingRun(Struct, frozen=True, kw_only=True):
    """A run directory whose run is in no total, or whose newest state is in no total."""

    place: str
    reason: str


class Accounts(Struct, frozen=True, kw_only=True):
    """The accounts of a fleet.

    `counts` says which emissions of the grids count in location-based lines, and `embodied_rule` when the manufacture
    of hardware is booked. `lines` are by group and month, `groups` by group, `months` by month. `states` counts runs by
    how far their ledgers can be believed.
    """

    version: int
    plugin_version: str
    store: str
    catalogue: int
    engine: str
    by: list[str]
    first_month: int | None
    last_month: int | None
    counts: str
    embodied_rule: str
    totals: AccountLine
    months: list[AccountLine]
    groups: list[AccountLine]
    lines: list[AccountLine]
    regions: list[AccountLine]
    top_runs: list[RunLine]
    forecasts: list[ForecastMonth]
    years: list[YearLine]
    states: dict[str, int]
    missing: list[MissingRun]
    copies: int
    notes: list[str]
    coverage: SchedulerCoverage | None = None
    restatement: Restatement | None = None


def line_of(row: Mapping[str, Any], by: list[str], scope: str, booked: Mapping[str, Any] | None = None) -> AccountLine:
    """Return a row of sums as a line.

    `booked` is what another rule books of hardware, as `queries.hardware_by` returns it; None for that of the row.
    """
    location = _known(row, scope, row["energy_mj"], row[f"with_{scope}_mj"])
    market = _known(row, f"market_{scope}", row["energy_mj"], row[f"with_market_{scope}_mj"])
    if booked is None:
        embodied = _known(row, "embodied", row["device_ms"], row["with_embodied_ms"])
    else:
        embodied = _known(booked, "embodied", booked["devices"], booked["devices"] - booked["unknown"])
    total = None
    if location is not None and embodied is not None:
        # Hardware that is booked by another rule is not what the runs' audits have in their totals.
        summed = plus_independent(location, embodied)
        total = summed if booked is not None else _ranged(row, f"total_{scope}", summed.value)
    every_known = booked is not None and not booked["unknown"]
    waste_ug = row[f"failed_{scope}_ug"] + row[f"wasted_{scope}_ug"]
    return AccountLine(
        group={name: row[name] for name in by if name != "month"},
        month=row.get("month"),
        runs=row["runs"],
        device_hours=hours(row["device_ms"]),
        energy_kwh=kwh(row["energy_mj"]),
        measured_kwh=kwh(row["measured_mj"]),
        low_kwh=kwh(row["low_mj"]),
        high_kwh=kwh(row["high_mj"]),
        facility_kwh=kwh(row["facility_mj"]),
        **masses(location=location, market=market, embodied=embodied, total=total),
        without_facility_kwh=kwh(row["energy_mj"] - row["with_facility_mj"]),
        without_carbon_kwh=kwh(row["energy_mj"] - row[f"with_{scope}_mj"]),
        without_market_kwh=kwh(row["energy_mj"] - row[f"with_market_{scope}_mj"]),
        without_embodied_h=0.0 if every_known else hours(row["device_ms"] - row["with_embodied_ms"]),
        waste=FleetWaste(
            failed_kwh=kwh(row["failed_mj"]),
            redone_kwh=kwh(row["redone_mj"]),
            restart_kwh=kwh(row["restart_mj"]),
            idle_kwh=kwh(row["idle_mj"]),
            **masses(operational=None if location is None else _part(location, waste_ug / UG_PER_KG)),
        ),
    )


def masses(**carbon: Range | None) -> dict[str, Any]:
    """Return each carbon as three fields: "total" as total_kg, total_low_kg and total_high_kg."""
    found: dict[str, Any] = {}
    for name, mass in carbon.items():
        value, low, high = (None, None, None) if mass is None else (mass.value, mass.low, mass.high)
        found |= {f"{name}_kg": value, f"{name}_low_kg": low, f"{name}_high_kg": high}
    return found


def _known(row: Mapping[str, Any], carbon: str, of: int, known: int) -> Range | None:
    """Return one carbon of a row with its range, kg, or None where none of it is known."""
    value = known_kg(row[f"{carbon}_ug"], of, known)
    return None if value is None else _ranged(row, carbon, value)


def _ranged(row: Mapping[str, Any], carbon: str, value: float) -> Range:
    low, high = (row[f"{end}_{carbon}_ug"] / UG_PER_KG for end in ENDS)
    return Range(value, low, high).ordered()


def _part(whole: Range, value: float) -> Range:
    """Return a part of a range whose ends are as far from it as those of the whole."""
    return whole.scaled(value / whole.value if whole.value else 0.0)


def known_kg(mass_ug: int, of: int, known: int) -> float | None:
    """Return a mass, kg, or None where none of it is known. `known` is the amount, out of `of`, whose mass is known."""
    return None if of > 0 and known <= 0 else mass_ug / UG_PER_KG


def known_sum(masses_kg: Iterable[float | None]) -> float | None:
    """Return the sum of the masses that are known, or None where none is."""
    known = [mass_kg for mass_kg in masses_kg if mass_kg is not None]
    return sum(known) if known else None


def carbon_of_run(row: Mapping[str, Any], scope: str) -> dict[str, Any]:
    """Return the masses of a run from a row of `queries.runs_by_size`. The total is None where a part is unknown, as in
    `audit.run_carbon`.
    """

    def ranged(name: str, mass_ug: int, *, known: bool) -> Range | None:
        value = mass_ug / UG_PER_KG
        return Range(value, value * row[f"low_{name}"], value * row[f"high_{name}"]) if known else None

    located, made = bool(row[f"has_{scope}"]), bool(row["has_embodied"])
    whole_ug = row[f"{scope}_ug"] + row["embodied_ug"]
    return masses(
        location=ranged(scope, row[f"{scope}_ug"], known=located),
        embodied=ranged("embodied", row["embodied_ug"], known=made),
        total=ranged(f"total_{scope}", whole_ug, known=located and made),
    )


def forecasts_of(month: int, rows: Sequence[Mapping[str, int]]) -> ForecastMonth:
    """Return how good the forecasts were of the runs that started in a month, from the rows of `queries.forecasts`."""
    energies = [(row["forecast_mj"], row["run_energy_mj"]) for row in rows if row["forecast_mj"]]
    forecast_mj = sum(forecast for forecast, _ in energies)
    return ForecastMonth(
        month=month,
        runs=len(rows),
        bias=sum(row["actual_ug"] for row in rows) / sum(row["forecast_ug"] for row in rows) - 1,
        median_absolute_error=median(abs(row["actual_ug"] / row["forecast_ug"] - 1) for row in rows),
        energy_bias=sum(actual for _, actual in energies) / forecast_mj - 1 if forecast_mj else None,
    )


def kwh(millijoules: int) -> float:
    """Return an energy in kWh."""
    return millijoules / MJ_PER_KWH


def hours(milliseconds: int) -> float:
    """Return a time in hours."""
    return milliseconds / (MS_PER_S * SECONDS_PER_HOUR)
