"""Write the audit in two dozen lines of plain text, for a terminal and a log."""

from __future__ import annotations

from carbon_plugin.audit.findings.energy import Energy
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import narrative, phrases
from carbon_plugin.audit.sentences.verdict import verdict_line
from carbon_plugin.printable import printable
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import RUNG_NAMES


def render_text(summary: AuditSummary) -> str:
    """Return the main numbers with ranges, how much is measured, how prediction and forecast compare, and the
    warnings."""
    period = summary.period
    lines = [
        f"{summary.run.name}  {wording.moment(period.start_unix_s)} to {wording.moment(period.end_unix_s)}",
        "",
        narrative.opening(summary),
        "",
        *_table([*_energy_rows(summary), *_carbon_rows(summary)]),
        *_comparison(summary),
    ]
    for warning in narrative.warnings(summary):
        lines.append(f"note: {warning}")
    lines.append("; ".join([verdict_line(summary.verification), *phrases.gaps(summary)]))
    return printable("\n".join(lines)) + "\n"


def _energy_rows(summary: AuditSummary) -> list[tuple[str, str, str, str]]:
    rows = []
    for rung, energy in summary.by_rung.items():
        rows.append(_energy_row(f"energy, {RUNG_NAMES[rung]}", energy))
    rows.append(_energy_row("energy, machines", summary.energy))
    if summary.footprint is not None and summary.factors is not None:
        facility = summary.footprint.energy_j["facility"]
        rows.append(
            (
                "energy, facility",
                wording.energy(facility.value),
                wording.energy_range(facility),
                f"machines x PUE {wording.plain(summary.factors.pue.value)}",
            )
        )
    return rows


def _energy_row(name: str, energy: Energy) -> tuple[str, str, str, str]:
    return (name, phrases.energy_text(energy), phrases.energy_span(energy), phrases.energy_how(energy))


def _carbon_rows(summary: AuditSummary) -> list[tuple[str, str, str, str]]:
    if summary.footprint is None:
        return [("carbon", "not stated", "", summary.no_carbon_reason or "")]
    footprint = summary.footprint
    grid = f"{wording.number(phrases.grid_g_per_kwh(summary))} g/kWh"
    without = phrases.without_embodied(summary)
    rows = [
        (name, wording.carbon(figure.value), wording.carbon_range(figure), how)
        for name, figure, how in (
            ("operational carbon", footprint.operational_kg, grid),
            ("embodied carbon", footprint.embodied_kg, f"{wording.device_time(summary.reserved.device_s)} of devices"),
            ("total carbon", footprint.total_kg, f"{without}, which is unknown" if without else ""),
        )
        if figure is not None
    ]
    if footprint.embodied_kg is None:
        rows.append(("embodied carbon", "unknown", "", "no profile of the hardware: in no total"))
    if footprint.market is not None:
        figure = footprint.market.operational_kg
        beside = "beside the total, not in it"
        rows.append(("operational, by contract", wording.carbon(figure.value), wording.carbon_range(figure), beside))
    return rows


def _comparison(summary: AuditSummary) -> list[str]:
    lines = []
    steps = summary.steps
    if steps is not None:
        line = f"step time: measured {wording.duration(steps.measured_step_time_s.value)}"
        if steps.basis != "spans":
            line += f" ({wording.duration_range(steps.measured_step_time_s)}, {phrases.steps_basis(steps)})"
        if steps.predicted_step_time_s is not None:
            predicted = steps.predicted_step_time_s
            ratio = wording.off_by(steps.measured_step_time_s.value / predicted.value)
            line += f", predicted {wording.duration(predicted.value)} ({wording.duration_range(predicted)}): {ratio}"
        lines.append(line)
    if summary.forecast is not None and summary.forecast.parts:
        causes = ", ".join(f"{part.name} {wording.off_by(part.factor)}" for part in summary.forecast.parts)
        lines.append(f"forecast of operational carbon was off by: {causes}")
    return [*lines, ""] if lines else []


def _table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {span:>{widths[2]}}  {how}".rstrip()
        for name, value, span, how in rows
    ]
    return [*lines, ""]
