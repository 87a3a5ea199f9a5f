"""Make the tables of energy and carbon: by rung, by phase, the parts of the carbon, and figures beside the total."""

from __future__ import annotations

from carbon_plugin.audit.findings.energy import Energy
from carbon_plugin.audit.report.tables.table import Cell, Table, Unit, table, unit_of_carbon, unit_of_energy
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import PHASE_NAMES, RUNG_NAMES, SCOPE_NAMES


def rung_table(summary: AuditSummary) -> Table:
    """Return the energy of each rung of the boundary, of all machines, and of the facility."""
    facility_j = summary.footprint.energy_j["facility"].value if summary.footprint else 0.0
    energy, carbon = unit_of_energy(max(summary.energy.energy_j, facility_j)), _carbon_unit(summary)
    notes, rows = phrases.rung_notes(summary), []
    for rung in ("gpu", "host", "network"):
        if rung in summary.by_rung:
            field = f"by_rung.{rung}"
            rows.append(
                _energy_row(summary, Cell(RUNG_NAMES[rung], notes[rung]), summary.by_rung[rung], energy, carbon, field)
            )
        elif rung != "gpu" or summary.coverage.gpus:
            absent = Cell("not metered in this run", kind="absent")
            rows.append([Cell(RUNG_NAMES[rung]), Cell("–"), Cell(""), Cell("–"), absent, Cell("–")])
    if "facility" in summary.by_rung:
        name = Cell("facility meter", "not added: it contains the rungs above")
        rows.append(_energy_row(summary, name, summary.by_rung["facility"], energy, carbon, "by_rung.facility"))
    if summary.footprint is not None and summary.factors is not None:
        figure = summary.footprint.energy_j["facility"]
        factor = f"machines × PUE {wording.plain(summary.factors.pue.value)}"
        rows.append(
            [
                Cell("facility", "machines with cooling and power distribution"),
                energy.cell(figure.value, "footprint.energy_j.facility.value"),
                Cell(energy.span(figure.low, figure.high)),
                Cell(""),
                Cell(factor, kind="modelled"),
                Cell("the same"),
            ]
        )
    machines = _energy_row(summary, Cell("machines (IT)"), summary.energy, energy, carbon, "energy")
    known = f"{wording.percent(phrases.measured_share(summary))} of the energy measured"
    machines[4] = Cell(known, kind=phrases.energy_quality(summary.energy))
    return table(_headings("rung", energy, carbon), [*rows, machines], (1, 2, 3, 5), summed=True)


def phase_table(summary: AuditSummary) -> Table:
    """Return the energy of each phase of the training, the largest first."""
    energy, carbon = unit_of_energy(summary.energy.energy_j), _carbon_unit(summary)
    phases = sorted(summary.by_phase.items(), key=lambda item: -item[1].energy_j)
    rows = [
        _energy_row(summary, Cell(PHASE_NAMES.get(phase, phase)), one, energy, carbon, f"by_phase.{phase}")
        for phase, one in phases
    ]
    return table(_headings("phase", energy, carbon), rows, (1, 2, 3, 5))


def carbon_table(summary: AuditSummary) -> Table | None:
    """Return a table of operational carbon, each part of embodied carbon, and their total."""
    footprint = summary.footprint
    if footprint is None or summary.factors is None:
        return None
    unit = unit_of_carbon(footprint.counted_kg.value)
    facility = wording.energy(footprint.energy_j["facility"].value)
    intensity = wording.plain(phrases.grid_g_per_kwh(summary))
    grid = f"{facility} at {intensity} g/kWh ({summary.factors.intensity.zone_name})"
    parts = [("operation", "footprint.operational_kg", footprint.operational_kg, grid)]
    how = phrases.embodied_how(summary)
    for scope, figure in footprint.embodied_parts_kg.items():
        name = f"manufacture, {SCOPE_NAMES.get(scope, scope)}"
        parts.append((name, f"footprint.embodied_parts_kg.{scope}", figure, how.get(scope, "")))
    if footprint.total_kg is not None:
        without = phrases.without_embodied(summary)
        parts.append(("total", "footprint.total_kg", footprint.total_kg, without))
    rows = [
        [Cell(name), unit.cell(figure.value, f"{field}.value"), Cell(unit.span(figure.low, figure.high)), Cell(text)]
        for name, field, figure, text in parts
    ]
    if footprint.embodied_kg is None:
        unknown = "no profile of the hardware: in no total"
        rows.append([Cell("manufacture"), Cell("unknown"), Cell(""), Cell(unknown)])
    summed = footprint.total_kg is not None
    return table(["part", unit.name, f"p10 to p90, {unit.name}", "how"], rows, (1, 2), summed=summed)


def beside_table(summary: AuditSummary) -> Table | None:
    """Return figures that stand beside the total and are not part of it. Each row is a quantity of its own."""
    rows = [[Cell(row.name), Cell(row.value), Cell(row.range), Cell(row.how)] for row in phrases.beside_rows(summary)]
    return table(["figure", "amount", "range", "how"], rows, (1, 2)) if rows else None


def _headings(first: str, energy: Unit, carbon: Unit) -> list[str]:
    return [
        first,
        energy.name,
        f"p10 to p90, {energy.name}",
        "share of IT, %",
        "how it is known, by device time",
        f"operational, {carbon.name}",
    ]


def _carbon_unit(summary: AuditSummary) -> Unit:
    return unit_of_carbon(summary.energy.operational_kg or 0.0)


def _energy_row(summary: AuditSummary, name: Cell, one: Energy, energy: Unit, carbon: Unit, field: str) -> list[Cell]:
    share = 100 * one.energy_j / summary.energy.energy_j if summary.energy.energy_j else 0.0
    known = phrases.energy_how(one) if one.estimated_j else phrases.meters_phrase(one.meters)
    kilograms = one.operational_kg
    is_known = one.is_known
    return [
        name,
        energy.cell(one.energy_j, f"{field}.energy_j") if is_known else Cell("unknown"),
        Cell(energy.span(one.low_j, one.high_j) if is_known else ""),
        Cell(wording.number(share) if is_known else "–"),
        Cell(known, kind=one.meters.quality),
        Cell("–") if kilograms is None or not is_known else carbon.cell(kilograms, f"{field}.operational_kg"),
    ]
