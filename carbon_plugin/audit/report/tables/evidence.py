"""Make the tables of evidence: factors, assumptions, the spec that ran, attempts, devices, events and ledgers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carbon_plugin.audit.findings.energy import Energy
from carbon_plugin.audit.report.tables.forecast import unit_of_time
from carbon_plugin.audit.report.tables.table import Cell, Table, table, unit_of_energy
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import RUNG_NAMES, SCOPE_NAMES
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.site import stated_fields

LISTED_DEVICES = 64
LISTED_FILES = 64
LISTED_EVENTS = 200


def source_table(summary: AuditSummary) -> Table:
    """Return every factor and meter behind the totals with its unit, range, kind and source."""
    rows = [*_meter_rows(summary)]
    if summary.steps is not None:
        rows.append(_figure_row("step time, measured", summary.steps.measured_step_time_s, "s"))
        if summary.steps.predicted_step_time_s is not None:
            rows.append(_figure_row("step time, predicted", summary.steps.predicted_step_time_s, "s"))
    factors = summary.factors
    if factors is not None:
        rows.append(_figure_row(f"grid intensity, {factors.intensity.zone_name}", factors.intensity.figure, "g/kWh"))
        rows.append(_figure_row("PUE", factors.pue, ""))
        rows.append(_figure_row("lifetime", factors.lifetime_years, "years"))
        for scope, figure in factors.embodied_kg.items():
            rows.append(_figure_row(f"embodied, {SCOPE_NAMES.get(scope, scope)}", figure, "kgCO2e each"))
    intensity = factors.intensity if factors is not None else None
    licence = f" ({intensity.licence})" if intensity is not None and intensity.licence else ""
    note = f"{intensity.attribution}{licence}" if intensity is not None and intensity.attribution else ""
    return table(["quantity", "value", "p10 to p90", "unit", "kind", "source"], rows, (1, 2), note=note)


def assumption_table(summary: AuditSummary) -> Table | None:
    """Return the values that were assumed because nobody stated them."""
    rows = [[Cell(one.field), Cell(one.value), Cell(one.source)] for one in summary.assumptions]
    return table(["field", "value", "source"], rows) if rows else None


def spec_table(summary: AuditSummary) -> Table | None:
    """Return the spec that ran, a row for each field."""

    def text(field: str, value: Any) -> Cell:
        is_site = field == "site" and isinstance(value, Mapping)
        return Cell(wording.field(stated_fields(value) if is_site else value))

    rows = []
    for field, entry in summary.run.effective.items():
        known = entry if isinstance(entry, Mapping) else {"value": entry}
        names = ("value", "source", "planned", "declared", "detected")
        rows.append([Cell(field), *(text(field, known.get(name)) for name in names)])
    return table(["field", "value", "known from", "planned", "declared", "detected"], rows) if rows else None


def attempt_table(summary: AuditSummary) -> Table:
    """Return every start of the job with the step that it reached and the way in which it ended."""
    attempts = summary.period.attempts
    time = unit_of_time(max((one.end_unix_s - one.start_unix_s for one in attempts), default=0.0))
    rows = [
        [
            Cell(str(one.attempt)),
            Cell(wording.moment(one.start_unix_s)),
            Cell(time.number(one.end_unix_s - one.start_unix_s)),
            Cell(f"{one.nodes:,}"),
            Cell(f"{one.world_size:,}"),
            Cell(f"{one.steps:,}"),
            Cell(f"{one.last_step:,}"),
            Cell(f"{one.redone_steps:,}"),
            Cell(one.ended or "killed, or still running"),
        ]
        for one in attempts
    ]
    headings = ["attempt", "start", f"lasted, {time.name}", "nodes", "ranks", "steps", "up to step", "redone", "end"]
    return table(headings, rows, (2, 3, 4, 5, 6, 7))


def device_table(summary: AuditSummary) -> Table:
    """Return every metered device, the first few where there are many."""
    shown = summary.devices[:LISTED_DEVICES]
    energy = unit_of_energy(max((one.energy.energy_j for one in shown), default=0.0))
    rows = []
    for place, one in enumerate(shown):
        notes = "; ".join(note for note in (one.identity.note, *one.notes) if note)
        rows.append(
            [
                Cell(one.identity.name, one.identity.key),
                Cell(one.hostname),
                Cell(one.identity.meter, notes),
                energy.cell(one.energy.energy_j, f"devices.{place}.energy.energy_j")
                if one.energy.is_known
                else Cell("unknown"),
                Cell("–" if one.mean_power_w is None else wording.number(one.mean_power_w)),
                Cell(phrases.meters_phrase(one.energy.meters), kind=one.energy.meters.quality),
            ]
        )
    more = len(summary.devices) - len(shown)
    note = f"{plural(more, 'more device')} in report.json." if more > 0 else ""
    headings = ["device", "host", "meter", f"energy, {energy.name}", "mean power, W", "how it is known, by device time"]
    return table(headings, rows, (3, 4), note=note)


def event_table(summary: AuditSummary) -> Table | None:
    """Return the events that the monitor recorded, or the first few where there are many."""
    shown = summary.events[:LISTED_EVENTS]
    rows = [
        [
            Cell(wording.moment(one.at_unix_s)),
            Cell(str(one.node)),
            Cell(str(one.attempt)),
            Cell(one.kind),
            Cell(one.message),
        ]
        for one in shown
    ]
    more = sum(summary.event_counts.values()) - len(shown)
    note = f"{plural(more, 'more event')}; report.json lists them, up to 2,000." if more > 0 else ""
    return table(["when", "node", "attempt", "kind", "what"], rows, note=note) if rows else None


def ledger_table(summary: AuditSummary) -> Table:
    """Return every ledger file with the state and the head of its chain, the first few where there are many."""
    shown = summary.verification.files[:LISTED_FILES]
    rows = [
        [
            Cell(one.file),
            Cell(f"{one.records:,}"),
            Cell("intact" if one.intact else "broken"),
            Cell(one.closed or "–"),
            Cell(one.head, "; ".join(one.notes)),
        ]
        for one in shown
    ]
    more = len(summary.verification.files) - len(shown)
    note = f"{plural(more, 'more file')} in report.json." if more > 0 else ""
    return table(["ledger", "records", "chain", "end", "head"], rows, (1,), note=note)


def _meter_rows(summary: AuditSummary) -> list[list[Cell]]:
    """Return the energy that each kind of meter measured of each rung."""
    meters: dict[tuple[str, str], list[Energy]] = {}
    for device in summary.devices:
        meters.setdefault((device.identity.rung, device.identity.meter), []).append(device.energy)
    rows = []
    for (rung, meter), energies in meters.items():
        total_j = Range.total(energy.range for energy in energies)
        kinds = {phrases.energy_quality(energy) for energy in energies}
        unit = unit_of_energy(total_j.value)
        rows.append(
            [
                Cell(f"energy, {RUNG_NAMES[rung]}"),
                Cell(unit.number(total_j.value)),
                Cell(unit.span(total_j.low, total_j.high)),
                Cell(unit.name),
                Cell("", kind=kinds.pop() if len(kinds) == 1 else "mixed"),
                Cell(f"{meter}, {plural(len(energies), 'device')}"),
            ]
        )
    return rows


def _figure_row(name: str, figure: Figure, unit: str) -> list[Cell]:
    span = "" if figure.low == figure.high else f"{wording.plain(figure.low)} to {wording.plain(figure.high)}"
    return [
        Cell(name),
        Cell(wording.plain(figure.value)),
        Cell(span),
        Cell(unit),
        Cell("", kind=figure.kind),
        Cell(figure.source),
    ]
