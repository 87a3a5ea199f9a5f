"""Write the accounts of a fleet as one page that needs nothing from outside, in the look of a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.report.environment import environment, script_hashes, scripts, styles
from carbon_plugin.audit.report.tables.table import Table, table
from carbon_plugin.fleet.accounts import AccountLine, Accounts, RunLine
from carbon_plugin.fleet.page.charts import charts_of
from carbon_plugin.fleet.wording import (
    MOVED_SHOWN,
    cell,
    coverage_sentences,
    mass,
    month_name,
    rows_of,
    short,
    signed,
    waste_sentence,
)
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import COLOURS
from carbon_plugin.spec.numbers.amounts import fitting_unit, plural
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import CARBON_UNITS, ENERGY_UNITS, JOULES_PER_KWH

REPORT = "report.html"
MISSING_SHOWN = 200


class FleetTile(Struct, frozen=True, kw_only=True):
    """One figure of the first screen: its name, its value, and a remark that the reader should know."""

    what: str
    much: str
    more: str


class TopRun(Struct, frozen=True, kw_only=True):
    """A row of the table of runs. `address` is that of the run's own report, or empty where there is none."""

    name: str
    what: str
    started: str
    energy: str
    carbon: str
    place: str
    address: str
    failed: bool


def render(accounts: Accounts) -> str:
    """Return the page as HTML."""
    templates = environment("carbon_plugin.fleet", "page")
    return templates.get_template("fleet.html.j2").render(_context(accounts))


def _context(accounts: Accounts) -> dict[str, Any]:
    totals = accounts.totals
    size, unit = fitting_unit(totals.total_kg or totals.location_kg or 0.0, CARBON_UNITS)
    energy_unit, carbon_unit, top = _top_runs(accounts)
    return {
        "styles": styles(),
        "scripts": scripts(),
        "script_hashes": script_hashes(),
        "colours": COLOURS,
        "a": accounts,
        "charts": charts_of(accounts),
        "period": _period(accounts),
        "total": "unknown" if totals.total_kg is None else cell(totals.total_kg, size),
        "unit": "" if totals.total_kg is None else unit,
        "range": None
        if totals.total_kg is None
        else wording.carbon_range(Range.of(totals.total_kg, totals.total_low_kg, totals.total_high_kg)),
        "split": [
            ("gpu", "operational", totals.location_kg, _share(totals.location_kg, totals.total_kg)),
            ("host", "embodied", totals.embodied_kg, _share(totals.embodied_kg, totals.total_kg)),
        ],
        "carbon": mass,
        "tiles": _tiles(accounts),
        "groups": _table(", ".join(accounts.by), accounts.groups, totals) if accounts.groups else None,
        "months": _table("month", accounts.months, totals),
        "regions": _table("region", accounts.regions, totals),
        "years": _year_table(accounts),
        "forecasts": _forecast_table(accounts),
        "moved": _moved_table(accounts),
        "sentences": coverage_sentences(accounts),
        "waste": waste_sentence(totals),
        "top": top,
        "top_units": (energy_unit, carbon_unit),
        "missing": accounts.missing[:MISSING_SHOWN],
        "more_missing": max(0, len(accounts.missing) - MISSING_SHOWN),
    }


def _period(accounts: Accounts) -> str:
    first, last = month_name(accounts.first_month), month_name(accounts.last_month)
    return first if first == last else f"{first} to {last}"


def _share(part: float | None, whole: float | None) -> float:
    return 100 * (part or 0.0) / whole if whole else 0.0


def _tiles(accounts: Accounts) -> list[FleetTile]:
    totals = accounts.totals
    measured = wording.percent(totals.measured_kwh / totals.energy_kwh if totals.energy_kwh else 0.0)
    wasted = wording.percent(totals.waste.kwh / totals.energy_kwh if totals.energy_kwh else 0.0)
    found = [
        FleetTile(
            what="Energy of the machines",
            much=wording.energy(totals.energy_kwh * JOULES_PER_KWH),
            more=f"{measured} measured; {wording.energy(totals.facility_kwh * JOULES_PER_KWH)} with the facility",
        ),
        FleetTile(what="Runs", much=f"{totals.runs:,}", more=f"{totals.device_hours:,.4g} device-hours"),
        FleetTile(
            what="Market-based",
            much=mass(totals.market_kg),
            more=f"beside {mass(totals.location_kg)} by location; never added",
        ),
        FleetTile(what="Waste", much=wasted, more=f"of the energy; {mass(totals.waste.operational_kg)}"),
    ]
    if accounts.forecasts:
        last = accounts.forecasts[-1]
        more = f"in sum; a usual run is {wording.percent(last.median_absolute_error)} off, {plural(last.runs, 'run')}"
        what = f"Forecasts of {month_name(last.month)}"
        found.append(FleetTile(what=what, much=wording.off_by(1 + last.bias), more=more))
    if accounts.coverage:
        coverage = accounts.coverage
        more = f"of {coverage.allocated_h:,.4g} device-hours by the scheduler"
        found.append(FleetTile(what="Recorded", much=wording.percent(coverage.share), more=more))
    return found


def _table(title: str, lines: list[AccountLine], totals: AccountLine) -> Table:
    headings, rows = rows_of(title, [*lines, totals])
    rows[-1][0] = "all"
    return table(headings, rows, range(1, len(headings)), summed=True)


def _year_table(accounts: Accounts) -> Table | None:
    if not accounts.years:
        return None
    size, unit = fitting_unit(max(line.kg or 0.0 for line in accounts.years), CARBON_UNITS)
    rows = [
        [
            f"{line.year}",
            f"scope {line.scope}" + (f", category {line.category}" if line.category else ""),
            line.name,
            line.method or "",
            cell(line.kg, size),
            line.note,
        ]
        for line in accounts.years
    ]
    return table(["year", "scope", "line", "method", f"carbon, {unit}", "how"], rows, [4])


def _forecast_table(accounts: Accounts) -> Table | None:
    rows = [
        [
            month_name(one.month),
            f"{one.runs:,}",
            wording.off_by(1 + one.bias),
            wording.percent(one.median_absolute_error),
        ]
        for one in accounts.forecasts
    ]
    return table(["month", "runs", "sum against forecast", "a usual run is off by"], rows, [1, 2, 3]) if rows else None


def _moved_table(accounts: Accounts) -> Table | None:
    restated = accounts.restatement
    if restated is None:
        return None
    totals = [one for one in restated.totals if one.before_kg or one.after_kg]
    rows = [
        [one.total, one.region, month_name(one.month), mass(one.before_kg), mass(one.after_kg), short(one.reason)]
        for one in restated.moved[:MOVED_SHOWN]
    ]
    for one in totals:
        by = ", ".join(f"{factor} {signed(by_kg)}" for factor, by_kg in one.by_factor_kg.items())
        rows.append([one.total, "all", "", mass(one.before_kg), mass(one.after_kg), by or "nothing moved"])
    return table(["total", "region", "month", "before", "after", "why"], rows, [3, 4])


def _top_runs(accounts: Accounts) -> tuple[str, str, list[TopRun]]:
    runs = accounts.top_runs
    energy_size, energy_unit = fitting_unit(max(run.energy_kwh for run in runs) * JOULES_PER_KWH, ENERGY_UNITS)
    carbon_size, carbon_unit = fitting_unit(max(run.total_kg or run.location_kg or 0.0 for run in runs), CARBON_UNITS)
    rows = [
        TopRun(
            name=run.name,
            what=" · ".join((run.team, run.programme, run.role, run.hardware, run.region)),
            started=wording.moment(run.start_unix_s),
            energy=wording.number(run.energy_kwh * JOULES_PER_KWH / energy_size),
            carbon=cell(run.location_kg, carbon_size) + " in operation"
            if run.total_kg is None and run.location_kg is not None
            else cell(run.total_kg, carbon_size),
            place=run.place,
            address=_address(run),
            failed=run.failed,
        )
        for run in runs
    ]
    return energy_unit, carbon_unit, rows


def _address(run: RunLine) -> str:
    """Return the address of a run's own report, or an empty text where none lies beside its ledgers on this machine."""
    if "://" in run.place:
        return ""
    path = Path(run.place) / REPORT
    return path.as_uri() if path.exists() else ""
