"""Show the run on other grids and at other hours, as `plan.whatif` computes it from the measured energy."""

from __future__ import annotations

from carbon_plugin.audit.measured import measured_run
from carbon_plugin.audit.report.tables.table import Cell, Table, table, unit_of_carbon
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.footprint.factors.grid import describe_basis
from carbon_plugin.footprint.values import Basis
from carbon_plugin.plan.whatif.comparison import Alternative, Comparison
from carbon_plugin.plan.whatif.measured_run import compare_run
from carbon_plugin.show import wording

ZONES = ("SWE", "FRA", "GBR", "USA", "DEU", "CHN", "IND", "WORLD")
"""Grids from clean to carbon-heavy, in which a reader may know data centres."""
HOURS = tuple(map(str, range(24)))
_TABLES = Basis(scope="lifecycle", signal="average", boundary="generation")
"""What the annual averages of countries count."""


def elsewhere(summary: AuditSummary) -> Table | str | None:
    """Return a table of the run at the annual averages of other grids.

    Return a sentence where the run's own intensity has another basis, and None for a run without carbon.
    """
    footprint, factors = summary.footprint, summary.factors
    if footprint is None or factors is None:
        return None
    here = factors.intensity
    if here.basis != _TABLES:
        counted = describe_basis(here.basis) if here.basis else "things that nobody stated"
        return (
            f"The run's intensity counts {counted}, and the annual averages of countries {describe_basis(_TABLES)}. "
            "They do not compare, so that none stands here."
        )
    if footprint.energy_j["facility"].value <= 0:
        return "The run took no energy."
    found = compare_run(measured_run(summary), {"zone": tuple(zone for zone in ZONES if zone != here.zone)})
    rows = sorted([found.base, *found.alternatives], key=_counted_kg)
    unit = unit_of_carbon(max(map(_counted_kg, rows)))
    cells: list[list[Cell | str]] = []
    for one in rows:
        if one.footprint is None or one.intensity is None:
            continue
        cells.append(
            [
                Cell(one.intensity.zone_name, "" if one.changes else "where the run was"),
                wording.number(one.g_per_kwh or 0.0),
                unit.number(one.footprint.operational_kg.value),
                "unknown" if one.footprint.total_kg is None else unit.number(one.footprint.total_kg.value),
                _change(found, one),
            ]
        )
    headings = [
        "grid",
        "gCO2e/kWh",
        f"operational, {unit.name}",
        f"total, {unit.name}",
        f"{phrases.carbon_name(summary)} against this run",
    ]
    sources = [one.intensity.figure.source for one in found.alternatives if one.intensity is not None]
    note = f"Annual averages; {sources[0]}" if sources else ""
    return table(headings, cells, (1, 2, 3, 4), note=note)


def at_hours(summary: AuditSummary) -> Comparison | str | None:
    """Return the carbon of the run for each hour of the day (UTC) as its start, if at least two can be computed.

    Otherwise return a sentence that says why not, or None for a run without carbon.
    """
    if summary.footprint is None or summary.factors is None:
        return None
    if not summary.series.grid_by_hour_g_per_kwh:
        intensity = summary.factors.intensity
        return (
            f"The run was counted with one intensity ({intensity.zone_name}, {intensity.granularity}), which is the "
            "same at every hour. A site with a live service or a series of intensity shows here what another hour "
            "would have meant."
        )
    found = compare_run(measured_run(summary), {"hour": HOURS})
    if sum(one.footprint is not None for one in found.alternatives) < 2:
        known = sum(one is not None for one in summary.series.grid_by_hour_g_per_kwh)
        return (
            f"The run recorded the grid in {known} hours of the day only, so that no other start can be computed from "
            "its ledgers."
        )
    return found


def _counted_kg(one: Alternative) -> float:
    return one.footprint.counted_kg.value if one.footprint else 0.0


def _change(found: Comparison, one: Alternative) -> str:
    relative = found.relative(one)
    return "–" if relative is None else wording.off_by(1 + relative)
