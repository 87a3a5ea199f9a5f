"""Define the accounts of a fleet as plain frozen values: the content of `fleet report --json`.

Energies are in kWh and masses in kgCO2e. Carbon is a sum of the central values that the audits
of the runs state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from msgspec import Struct

from carbon_plugin.fleet.coverage import SchedulerCoverage
from carbon_plugin.fleet.restate.restatement import Restatement
from carbon_plugin.fleet.store.schema import MJ_PER_J, MS_PER_S, UG_PER_KG
from carbon_plugin.spec.numbers.units import JOULES_PER_KWH, SECONDS_PER_HOUR

ACCOUNTS_VERSION = 1
MJ_PER_KWH = MJ_PER_J * JOULES_PER_KWH


class FleetWaste(Struct, frozen=True, kw_only=True):
    """Energy that brought nothing new, kWh, each joule counted once, and its operational carbon. All totals contain it.

    `failed` is the energy of failed runs that is in none of the other three parts: steps done again, starting up again,
    and waiting or accelerators that nobody claimed. `operational_kg` is None where no carbon of the energy is known.
    """

    failed_kwh: float
    redone_kwh: float
    restart_kwh: float
    idle_kwh: float
    operational_kg: float | None

    @property
    def kwh(self) -> float:
        """Return the sum of all parts, kWh."""
        return self.failed_kwh + self.redone_kwh + self.restart_kwh + self.idle_kwh


class AccountLine(Struct, frozen=True, kw_only=True):
    """The account of one group, and of one month where `month` is not None (202511 is November 2025).

    `energy_kwh` is that of the machines, of which `measured_kwh` was measured; `low_kwh` and `high_kwh` add up the
    meters' ranges. `location_kg` and `market_kg` are operational carbon by location and by contract. `embodied_kg` is
    booked by the rule of the report. `total_kg` is location and embodied where that is known. A mass is None where
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
    market_kg: float | None
    embodied_kg: float | None
    total_kg: float | None
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
    embodied_kg: float | None
    total_kg: float | None


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
    location = known_kg(row[f"{scope}_ug"], row["energy_mj"], row[f"with_{scope}_mj"])
    if booked is None:
        embodied = known_kg(row["embodied_ug"], row["device_ms"], row["with_embodied_ms"])
    else:
        embodied = known_kg(booked["embodied_ug"], booked["devices"], booked["devices"] - booked["unknown"])
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
        location_kg=location,
        market_kg=known_kg(row[f"market_{scope}_ug"], row["energy_mj"], row[f"with_market_{scope}_mj"]),
        embodied_kg=embodied,
        total_kg=total_kg(location, embodied),
        without_facility_kwh=kwh(row["energy_mj"] - row["with_facility_mj"]),
        without_carbon_kwh=kwh(row["energy_mj"] - row[f"with_{scope}_mj"]),
        without_market_kwh=kwh(row["energy_mj"] - row[f"with_market_{scope}_mj"]),
        without_embodied_h=0.0 if every_known else hours(row["device_ms"] - row["with_embodied_ms"]),
        waste=FleetWaste(
            failed_kwh=kwh(row["failed_mj"]),
            redone_kwh=kwh(row["redone_mj"]),
            restart_kwh=kwh(row["restart_mj"]),
            idle_kwh=kwh(row["idle_mj"]),
            operational_kg=None if location is None else waste_ug / UG_PER_KG,
        ),
    )


def known_kg(mass_ug: int, of: int, known: int) -> float | None:
    """Return a mass, kg, or None where none of it is known. `known` is the amount, out of `of`, whose mass is known."""
    return None if of > 0 and known <= 0 else mass_ug / UG_PER_KG


def known_sum(masses_kg: Iterable[float | None]) -> float | None:
    """Return the sum of the masses that are known, or None where none is."""
    known = [mass_kg for mass_kg in masses_kg if mass_kg is not None]
    return sum(known) if known else None


def total_kg(operational: float | None, embodied: float | None) -> float | None:
    """Return operational and embodied carbon together, or None where one is unknown, as `audit.run_carbon` does."""
    return None if operational is None or embodied is None else operational + embodied


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
