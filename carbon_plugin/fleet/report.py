"""Answer for a fleet from its store: accounts by month and group, waste, coverage, forecasts and restatement."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import carbon_plugin
from carbon_plugin.audit.allocation.kubernetes import read_kubernetes
from carbon_plugin.audit.allocation.slurm import read_sacct
from carbon_plugin.audit.counted_twice import UNSEEN
from carbon_plugin.audit.programme import SUM_OF_CENTRAL_VALUES
from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.accounts import (
    ACCOUNTS_VERSION,
    AccountLine,
    Accounts,
    ForecastMonth,
    MissingRun,
    RunLine,
    YearLine,
    carbon_of_run,
    forecasts_of,
    known_kg,
    known_sum,
    kwh,
    line_of,
)
from carbon_plugin.fleet.coverage import SchedulerCoverage, coverage_of
from carbon_plugin.fleet.inventory import BOUNDARIES, year_lines
from carbon_plugin.fleet.query import queries
from carbon_plugin.fleet.query.engine import DUCKDB, Engine, Months, open_engine
from carbon_plugin.fleet.restate.restatement import Restatement, restate
from carbon_plugin.fleet.store.catalogue import Catalogue, read_catalogue
from carbon_plugin.fleet.store.places import open_place
from carbon_plugin.fleet.store.schema import DIMENSIONS, MS_PER_S
from carbon_plugin.ledger.held.account_inputs import stated_factors
from carbon_plugin.spec.numbers.amounts import plural, verb
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR

BY_TIME, BY_PURCHASE = "reserved-time", "first-use"
RULES = {
    BY_TIME: "by reserved time over the lifetime of the hardware (ISO/IEC 21031), in the hours in which it was used",
    BY_PURCHASE: "whole, each device once over all runs, in the month in which a run first used it",
}
"""When the manufacture of hardware is booked."""

COUNTS = ("lifecycle", "direct")
TOP_RUNS = 20
NOTHING_BOOKED = {"devices": 0, "unknown": 0, "embodied_ug": 0, "low_embodied_ug": 0, "high_embodied_ug": 0}
"""What is booked for a group whose devices other runs used first."""
_OF_RUN = ("name", "run_id", "place", "team", "programme", "role", "region", "hardware")

_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


class Asked(Struct, frozen=True, kw_only=True):
    """One instance holds the question that a report answers.

    `by` are columns of `DIMENSIONS`, or "month". `counts` says which emissions of grids count; None means those that
    all runs count. `first` and `last` are months such as "2025-11". `sacct` and `kubernetes` are files with the
    scheduler's account. `factors` is a YAML file with new factors, or "current".
    """

    by: tuple[str, ...] = ("team",)
    engine: str = DUCKDB
    first: str | None = None
    last: str | None = None
    counts: str | None = None
    embodied: str = BY_TIME
    boundary: str | None = None
    sacct: Path | None = None
    kubernetes: Path | None = None
    factors: str | None = None
    cache: Path | None = None


def report(store: str, asked: Asked) -> Accounts:
    """Return the accounts of the store at `store`.

    Raises `FleetError` for a store that is empty or cannot be read, and for a question that cannot be answered.
    """
    by = checked_groups(asked.by)
    if asked.embodied not in RULES:
        raise FleetError(f"--embodied {asked.embodied!r}: expected one of {', '.join(RULES)}")
    if asked.counts is not None and asked.counts not in COUNTS:
        raise FleetError(f"--counts {asked.counts!r}: expected one of {', '.join(COUNTS)}")
    if asked.sacct is not None and asked.kubernetes is not None:
        raise FleetError("--sacct and --kubernetes: one scheduler's account at a time")
    if asked.boundary is not None and asked.boundary not in BOUNDARIES:
        raise FleetError(
            f"--boundary {asked.boundary!r}: expected own (your machines in your building), colo (your machines in "
            "another's building) or cloud (rented machines)"
        )
    months = _months(asked.first, asked.last)
    place = open_place(store)
    catalogue = read_catalogue(place)
    if catalogue is None or not catalogue.held:
        raise FleetError(f"{store}: no store here that holds runs; carbon-plugin fleet ingest SOURCE --into {store}")
    with open_engine(place, catalogue, asked.engine, months, asked.cache) as engine:
        return _Report(engine, catalogue, asked, by, months, store).accounts()


def checked_groups(by: Sequence[str]) -> list[str]:
    """Return the columns to group by, each once, without "month", which every report has.

    Raises `FleetError` for an unknown name.
    """
    names = [name.strip() for text in by for name in text.split(",") if name.strip()]
    if by and not names:
        raise FleetError(f"--by {by[0]!r}: expected some of {', '.join((*DIMENSIONS, queries.MONTH))}")
    for name in names:
        if name not in (*DIMENSIONS, queries.MONTH):
            raise FleetError(f"--by {name!r}: expected some of {', '.join((*DIMENSIONS, queries.MONTH))}")
    return [name for name in dict.fromkeys(names) if name != queries.MONTH]


def _months(first: str | None, last: str | None) -> Months | None:
    if first is None and last is None:
        return None
    found = (_month("--from", first) if first else 0, _month("--to", last) if last else 999_912)
    if found[0] > found[1]:
        raise FleetError(f"--from {first} --to {last}: expected a first month before the last")
    return found


def _month(option: str, text: str) -> int:
    match = _MONTH.fullmatch(text)
    if match is None:
        raise FleetError(f"{option} {text!r}: expected a month such as 2025-11")
    return 100 * int(match[1]) + int(match[2])


class _Report:
    """A report in the making: the engine, the question, and the basis that follows from the store."""

    def __init__(
        self, engine: Engine, catalogue: Catalogue, asked: Asked, by: list[str], months: Months | None, store: str
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._asked = asked
        self._by = by
        self._months = months
        self._store = store
        self._bases = queries.bases(engine)
        stated = {row["scope"] for row in self._bases if row["scope"] in COUNTS}
        self._scope = asked.counts or (stated.pop() if len(stated) == 1 else "lifecycle")
        # Several sections need the same sums, and each question reads the hours, or the devices, of all runs.
        self._sums = cache(self._summed)
        self._hardware = cache(lambda *names: queries.hardware_by(engine, names, months))

    def accounts(self) -> Accounts:
        whole = self._sums()
        if not whole or not whole[0]["runs"]:
            unread = len(queries.runs_without_hours(self._engine))
            known = f" ({plural(unread, 'run')} of unknown energy {verb(unread, 'is', 'are')} in no total)"
            raise FleetError(f"{self._store}: no run in these months{known if unread else ''}")
        restated = self._restated()  # before the accounts: a file of factors may be refused
        months = self._lines([queries.MONTH])
        return Accounts(
            version=ACCOUNTS_VERSION,
            plugin_version=carbon_plugin.__version__,
            store=self._store,
            catalogue=self._catalogue.number,
            engine=self._engine.name,
            by=self._by,
            first_month=months[0].month,
            last_month=months[-1].month,
            counts=self._scope,
            embodied_rule=RULES[self._asked.embodied],
            totals=self._lines([])[0],
            months=months,
            groups=self._lines(self._by) if self._by else [],
            lines=self._lines([*self._by, queries.MONTH]) if self._by else months,
            regions=self._lines(["region"]),
            top_runs=self._top_runs(),
            forecasts=self._forecasts(),
            years=self._years(),
            states={row["state"]: row["runs"] for row in queries.states(self._engine)},
            missing=[MissingRun(place=one.place, reason=one.problem) for one in self._catalogue.problems],
            copies=len(self._catalogue.copies),
            notes=self._notes(whole[0]),
            coverage=self._coverage(months),
            restatement=restated,
        )

    def _summed(self, *by: str) -> list[dict[str, Any]]:
        finest = (*self._by, queries.MONTH)
        if by != finest and set(by) <= set(finest):
            return queries.sums_of(self._sums(*finest), self._engine, by, self._months)
        return queries.sums_by(self._engine, by, self._months)

    def _lines(self, by: list[str]) -> list[AccountLine]:
        rows = self._sums(*by)
        if self._asked.embodied == BY_TIME:
            return [line_of(row, by, self._scope) for row in rows]
        booked = {tuple(row[name] for name in by): row for row in self._hardware(*by)}
        return [
            line_of(row, by, self._scope, booked.get(tuple(row[name] for name in by), NOTHING_BOOKED)) for row in rows
        ]

    def _top_runs(self) -> list[RunLine]:
        rows = queries.runs_by_size(self._engine, self._scope, self._months, TOP_RUNS)
        return [
            RunLine(
                **{name: row[name] for name in _OF_RUN},
                start_unix_s=row["start_ms"] / MS_PER_S,
                failed=bool(row["failed"]),
                energy_kwh=kwh(row["energy_mj"]),
                **carbon_of_run(row, self._scope),
            )
            for row in rows
        ]

    def _forecasts(self) -> list[ForecastMonth]:
        by_month: dict[int, list[dict[str, int]]] = {}
        for row in queries.forecasts(self._engine, self._months):
            by_month.setdefault(row["month"], []).append(row)
        return [forecasts_of(month, rows) for month, rows in sorted(by_month.items())]

    def _years(self) -> list[YearLine]:
        if self._asked.boundary is None:
            return []
        capital_kg: dict[int, float | None] = {}
        for row in self._hardware(queries.MONTH):
            year = row["month"] // 100
            booked_kg = known_kg(row["embodied_ug"], row["devices"], row["devices"] - row["unknown"])
            capital_kg[year] = known_sum([capital_kg.get(year), booked_kg])
        rows = self._sums(queries.MONTH)
        both = {scope: [line_of(row, [queries.MONTH], scope) for row in rows] for scope in COUNTS}
        return year_lines(both, capital_kg, self._asked.boundary, self._scope)

    def _restated(self) -> Restatement | None:
        if self._asked.factors is None:
            return None
        capital = self._asked.embodied == BY_PURCHASE or self._asked.boundary is not None
        documents = {
            digest: factors
            for digest, document in queries.documents(self._engine).items()
            if (factors := stated_factors(msgspec.json.decode(document))) is not None
        }
        return restate(
            queries.hours_of_runs(self._engine, self._months),
            queries.capital_goods(self._engine, self._months) if capital else [],
            documents,
            "direct" if self._scope == "direct" else "lifecycle",
            self._asked.factors,
        )

    def _coverage(self, months: list[AccountLine]) -> SchedulerCoverage | None:
        recorded_h = {line.month or 0: line.device_hours for line in months}
        if self._asked.sacct is not None:
            path = self._asked.sacct
            return coverage_of(read_sacct(path), recorded_h, f"sacct, {path.name}", self._months)
        if self._asked.kubernetes is not None:
            path = self._asked.kubernetes
            hosts, end_s = queries.gpus_by_host(self._engine), queries.last_moment_ms(self._engine) / MS_PER_S
            allocations = read_kubernetes(path, gpus_by_host=hosts, until_unix_s=end_s)
            return coverage_of(allocations, recorded_h, f"Kubernetes, {path.name}", self._months)
        return None

    def _notes(self, whole: dict[str, Any]) -> list[str]:
        return [*self._carbon_notes(whole), *self._hardware_notes(), *self._contract_notes(), *self._missing_notes()]

    def _carbon_notes(self, whole: dict[str, Any]) -> list[str]:
        """Return how operational carbon is summed up, and what of it is not known."""
        found = [f"{SUM_OF_CENTRAL_VALUES}; p10 and p90 are added in the same way, as if all errors were one"]
        turned = sum(row["runs"] for row in self._bases if row["scope"] in COUNTS and row["scope"] != self._scope)
        if turned:
            found.append(
                f"{plural(turned, 'run')} {verb(turned, 'counts', 'count')} other emissions of the grid than the "
                f"{self._scope} ones of this report and {verb(turned, 'was', 'were')} turned into them, if known"
            )
        without = sum(row["runs"] for row in self._bases if not row[f"has_{self._scope}"])
        unknown_kwh = kwh(whole["energy_mj"] - whole[f"with_{self._scope}_mj"])
        if without:
            found.append(
                f"{plural(without, 'run')} {verb(without, 'has', 'have')} no {self._scope} operational carbon (no "
                f"site, or a basis that is not stated): {unknown_kwh:.4g} kWh are in the energy and in no carbon"
            )
        return found

    def _hardware_notes(self) -> list[str]:
        """Return of which hardware the manufacture is not known, and which is counted twice."""
        found = []
        unknown = sum(row["runs"] for row in self._bases if not row["has_embodied"])
        if unknown:
            found.append(f"the manufacture of the hardware of {plural(unknown, 'run')} is not known and in no sum")
        if self._asked.embodied == BY_PURCHASE or self._asked.boundary is not None:
            lacking = sum(row["unknown"] for row in self._hardware())
            if lacking:
                found.append(
                    f"no run knows the manufacture of {plural(lacking, 'device')}: nothing of them is in capital goods"
                )
        twice = queries.counted_twice(self._engine, self._months)
        if twice["gpus"]:
            hours = twice["excess_ms"] / MS_PER_S / SECONDS_PER_HOUR
            found.append(
                f"{plural(twice['gpus'], 'GPU')} {verb(twice['gpus'], 'is', 'are')} counted by several runs at the "
                f"same time, for {hours:.4g} device-hours too long: {UNSEEN}"
            )
        return found

    def _contract_notes(self) -> list[str]:
        """Return which runs state no contract for their electricity."""
        uncontracted = sum(row["runs"] for row in self._bases if not row["has_market"])
        if all(not row["has_market"] for row in self._bases):
            return [
                "no run states a contract for its electricity (site.instruments) or a residual mix "
                "(site.residual_g_per_kwh), so the market-based figures equal the location-based ones"
            ]
        if not uncontracted:
            return []
        return [
            f"{plural(uncontracted, 'run')} {verb(uncontracted, 'states', 'state')} no contract and no residual "
            "mix: the average of the location stands in for them in market-based lines"
        ]

    def _missing_notes(self) -> list[str]:
        """Return which runs and directories are in no total."""
        found = []
        for run in queries.runs_without_hours(self._engine):
            found.append(
                f"nothing of the energy of run {run['name']} ({run['place']}) was read or modelled, as where a job is "
                "killed before its first window: it is in no total"
            )
        problems = len(self._catalogue.problems)
        if problems:
            directories = plural(problems, "run directory", "run directories")
            found.append(
                f"{directories} could not be read and {verb(problems, 'is', 'are')} in no total, or not with the "
                "newest state: see missing"
            )
        return found
