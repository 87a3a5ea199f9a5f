"""Draw charts of a run's parts: where the energy went, forecast against result and its causes, and the uncertain
inputs."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.audit.report.charts.chart import Chart, chart
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.phrases import CARBON_NAMES
from carbon_plugin.footprint.values import comparable_kg
from carbon_plugin.show import plot, wording
from carbon_plugin.show.drawing import (
    OWN_PHASE_COLOUR,
    PHASE_COLOURS,
    PHASE_NAMES,
    RUNG_COLOURS,
    RUNG_NAMES,
    driver_name,
)
from carbon_plugin.spec.numbers.amounts import fitting_unit
from carbon_plugin.spec.numbers.units import CARBON_UNITS, ENERGY_UNITS

DRIVERS_SHOWN = 7
_NARROW_PX = 500.0


class EnergyPart(Struct, frozen=True):
    """A part of a whole: its name, its energy in J, and its colour."""

    name: str
    energy_j: float
    colour: str


def split_chart(summary: AuditSummary) -> Chart | None:
    """Draw the energy as several bars of the same total: by what drew it, with the facility, by phase, and by
    progress."""
    total_j = summary.energy.energy_j
    if total_j <= 0:
        return None
    rows = [("drawn by", _by_rung(summary)), ("spent on", _by_phase(summary))]
    wasted_j = summary.waste.redone_energy_j + summary.waste.restart_energy_j
    if wasted_j > 0:
        rows.append(
            (
                "progress",
                [
                    EnergyPart("new work", total_j - wasted_j, "less"),
                    EnergyPart("redone or restarting", wasted_j, "more"),
                ],
            )
        )
    widest_j = max(sum(part.energy_j for part in parts) for _, parts in rows)
    size, unit = fitting_unit(widest_j, ENERGY_UNITS)

    def draw(width_px: float) -> str:
        drawn, top = [], 4.0
        scale = plot.Scale(0, widest_j / size, 8, width_px - 14)
        for title, parts in rows:
            entries = [(part.colour, part.name) for part in parts]
            indent = plot.width_of(title) + 26
            markup, height = plot.legend(entries, width_px, indent)
            drawn.append(f'<g transform="translate(0 {top:g})">{plot.words(8, 14, title, bold=True)}{markup}</g>')
            top += height
            left_j = 0.0
            for part in parts:
                left, right = scale.at(left_j / size), scale.at((left_j + part.energy_j) / size)
                share = wording.percent(part.energy_j / sum(one.energy_j for one in parts))
                tip = f"{part.name}: {wording.energy(part.energy_j)}, {share}"
                drawn.append(plot.box(left, top, max(1.0, right - left - 1), 20, part.colour, tip))
                left_j += part.energy_j
            top += 30
        of = plot.Frame(width_px, top + 42, scale, plot.Scale(0, 1, top, 0))
        marks = plot.labelled(plot.ticks(0, widest_j / size, 8 if width_px > _NARROW_PX else 4))
        drawn.append(plot.x_axis(of, marks, f"energy, {unit}"))
        return plot.drawing(width_px, of.height_px, drawn)

    table = [
        [title, part.name, wording.number(part.energy_j / size), wording.number(100 * part.energy_j / whole_j)]
        for title, parts in rows
        for whole_j in (sum(one.energy_j for one in parts),)
        for part in parts
    ]
    return chart(
        "phases",
        "One energy, seen " + ("three ways" if len(rows) == 3 else "two ways"),
        "What drew it and what the building added, what it was spent on, and whether the work was new."
        if len(rows) == 3
        else "What drew it and what the building added, and what it was spent on.",
        draw,
        ["view", "part", f"energy, {unit}", "share, %"],
        table,
    )


def forecast_chart(summary: AuditSummary) -> Chart | None:
    """Draw the steps from the carbon of the forecast to the actual carbon, a bar for each cause."""
    forecast, footprint = summary.forecast, summary.footprint
    if forecast is None or footprint is None or not forecast.parts:
        return None
    counted, planned, actual = comparable_kg(forecast.footprint, footprint)
    carbon, planned_kg, actual_kg = CARBON_NAMES[counted], planned.value, actual.value
    size, unit = fitting_unit(max(planned_kg, actual_kg), CARBON_UNITS)
    changes: list[tuple[str, float]] = [(part.name, part.carbon_kg) for part in forecast.parts]
    changes += [("embodied", forecast.embodied_kg)] if forecast.embodied_kg is not None else []
    levels, reached = [planned_kg, actual_kg], planned_kg
    for _, change_kg in changes:
        reached += change_kg
        levels.append(reached)
    low, high = min(0.0, *levels) / size, max(levels) / size

    def draw(width_px: float) -> str:
        narrow = width_px < _NARROW_PX
        names = ["forecast", *(name for name, _ in changes), "actual"]
        left_px = max(map(plot.width_of, names)) + 14
        height_px = 26.0 * len(names) + 50
        of = plot.frame(width_px, height_px, (low, 1.02 * high), (0, 1), left_px=left_px, right_px=76, top_px=6)
        marks = plot.labelled(plot.ticks(low, high, 4 if narrow else 8))
        drawn, level = [plot.x_axis(of, marks, f"{carbon}, {unit}", grid=True)], planned_kg / size
        for place, name in enumerate(names):
            top = 8 + 26.0 * place
            if name in ("forecast", "actual") and place in (0, len(names) - 1):
                value_kg, start, end, colour = (planned_kg, 0.0, planned_kg / size, "gpu")
                if place:
                    value_kg, end, colour = actual_kg, actual_kg / size, "slate"
                text = wording.number(value_kg / size)
            else:
                change_kg = changes[place - 1][1]
                start, end = level, level + change_kg / size
                colour = "more" if change_kg > 0 else "less"
                text = wording.signed(change_kg / size, of=actual_kg / size, digits=2)
                level = end
            left, right = sorted((of.x.at(start), of.x.at(end)))
            drawn.append(plot.box(left, top, right - left, 17, colour, f"{name}: {text} {unit}"))
            drawn.append(plot.words(left_px - 8, top + 13, name, anchor="end"))
            drawn.append(plot.words(right + 6, top + 13, text, colour="dim"))
        return plot.drawing(width_px, height_px, drawn)

    rows = [["forecast", wording.number(planned_kg / size)]]
    rows += [[name, wording.signed(kg / size, of=actual_kg / size)] for name, kg in changes]
    return chart(
        "forecast",
        "From the forecast to the result",
        f"Each bar is what one cause added to or took from the {carbon} of the forecast.",
        draw,
        ["cause", f"carbon, {unit}"],
        [*rows, ["actual", wording.number(actual_kg / size)]],
    )


def driver_chart(summary: AuditSummary) -> Chart | None:
    """Draw a tornado: the total carbon with one input at its p10 and at its p90, and all others at their central
    values.
    """
    footprint = summary.footprint
    largest = summary.drivers[:DRIVERS_SHOWN]
    if footprint is None or not largest or footprint.counted_kg.value <= 0:
        return None
    central_kg, carbon = footprint.counted_kg.value, CARBON_NAMES[footprint.counted]
    size, unit = fitting_unit(central_kg, CARBON_UNITS)
    edges = [edge / size for driver in largest for edge in (driver.at_p10_kg, driver.at_p90_kg)]
    low, high = min(edges), max(edges)
    room = 0.06 * (high - low) or 0.1 * high
    names = [driver_name(driver.scope) for driver in largest]

    def draw(width_px: float) -> str:
        most = 20 if width_px < _NARROW_PX else 44
        left_px = max(plot.width_of(plot.shortened(name, most)) for name in names) + 16
        height_px = 28.0 * len(largest) + 50
        of = plot.frame(width_px, height_px, (low - room, high + room), (0, 1), left_px=left_px, top_px=6)
        marks = plot.labelled(plot.ticks(low - room, high + room, 4 if width_px < _NARROW_PX else 8))
        drawn, middle = [plot.x_axis(of, marks, f"{carbon}, {unit}", grid=True)], of.x.at(central_kg / size)
        for place, (driver, name) in enumerate(zip(largest, names, strict=True)):
            top = 10 + 28.0 * place
            for edge_kg, colour, word in ((driver.at_p10_kg, "band", "p10"), (driver.at_p90_kg, "gpu", "p90")):
                left, right = sorted((of.x.at(edge_kg / size), middle))
                tip = f"{name} at its {word}: the {carbon} is {wording.carbon(edge_kg)}"
                drawn.append(plot.box(left, top, right - left, 16, colour, tip))
            drawn.append(plot.words(left_px - 8, top + 12, plot.shortened(name, most), anchor="end"))
        drawn.append(plot.rule(middle, 6, middle, of.y.start_px, "ink"))
        legend = plot.legend([("band", "input at its p10"), ("gpu", "input at its p90")], width_px)
        return plot.drawing(width_px, height_px, drawn, top=legend)

    rows = [
        [name, wording.number(driver.at_p10_kg / size), wording.number(driver.at_p90_kg / size)]
        for name, driver in zip(names, largest, strict=True)
    ]
    return chart(
        "drivers",
        f"What makes the {carbon} uncertain",
        f"The {carbon} with one input at the low and the high end of its range and all others at their central "
        "value. The vertical line is the result.",
        draw,
        ["input", f"{carbon} with it at its p10, {unit}", f"{carbon} with it at its p90, {unit}"],
        rows,
    )


def _by_rung(summary: AuditSummary) -> Sequence[EnergyPart]:
    parts = [
        EnergyPart(RUNG_NAMES[rung], energy.energy_j, RUNG_COLOURS[rung])
        for rung, energy in summary.by_rung.items()
        if rung != "facility" and energy.energy_j > 0
    ]
    if summary.footprint is not None:
        added_j = summary.footprint.energy_j["facility"].value - summary.energy.energy_j
        parts += [EnergyPart("cooling and power distribution", added_j, "facility")] if added_j > 0 else []
    return parts


def _by_phase(summary: AuditSummary) -> Sequence[EnergyPart]:
    phases = sorted(summary.by_phase.items(), key=lambda item: -item[1].energy_j)
    return [
        EnergyPart(PHASE_NAMES.get(phase, phase), energy.energy_j, PHASE_COLOURS.get(phase, OWN_PHASE_COLOUR))
        for phase, energy in phases
        if energy.energy_j > 0
    ]
