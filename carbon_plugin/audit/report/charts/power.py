"""Draw charts of the power over a run, stacked by what drew it and by what it was spent on, above a strip of
attempts."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.audit.report.charts.chart import Chart, chart
from carbon_plugin.audit.report.charts.time_axis import (
    Values,
    it_rungs,
    live_data,
    marks_of,
    rounded,
    table_rows,
    time_axis,
    time_marks,
    widths_of_bins_s,
)
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.show import plot, wording
from carbon_plugin.show.drawing import (
    OWN_PHASE_COLOUR,
    PHASE_COLOURS,
    PHASE_NAMES,
    RUNG_COLOURS,
    RUNG_NAMES,
)
from carbon_plugin.spec.amounts import fitting_unit
from carbon_plugin.spec.units import POWER_UNITS

HEIGHT_PX, STRIP_PX = 240.0, 26.0


class Layer(Struct, frozen=True):
    """One layer of a stack: its name, its colour, and its energy in each bin in J."""

    name: str
    colour: str
    energy_j: Sequence[float]


def power_chart(summary: AuditSummary) -> Chart | None:
    """Draw the mean power in each bin, stacked by rung, above a strip of attempts and recorded faults."""
    layers = [Layer(RUNG_NAMES[rung], RUNG_COLOURS[rung], bins) for rung, bins in it_rungs(summary).items()]
    return _stacked(
        summary,
        layers,
        "power",
        "Power over the run",
        "Mean power of each interval, stacked by what drew it. The strip below shows the attempts, and marks events "
        "that the monitor recorded. Where nothing was recorded there is no power.",
    )


def doing_chart(summary: AuditSummary) -> Chart | None:
    """Draw the same power stacked by the phase that it was spent on, where there are several phases."""
    layers = [
        Layer(PHASE_NAMES.get(phase, phase), PHASE_COLOURS.get(phase, OWN_PHASE_COLOUR), bins)
        for phase, bins in summary.series.phase_energy_j.items()
        if any(bins)
    ]
    if len(layers) < 2:
        return None
    caption = "The same power, stacked by the phase of the training in which it was drawn."
    return _stacked(summary, layers, "doing", "What the run was doing", caption)


def _stacked(summary: AuditSummary, layers: Sequence[Layer], name: str, title: str, caption: str) -> Chart | None:
    widths_s = widths_of_bins_s(summary)
    if not layers or not sum(widths_s):
        return None
    energies = zip(*(layer.energy_j for layer in layers), strict=True)
    peak_w = max(sum(parts) / width_s for parts, width_s in zip(energies, widths_s, strict=True) if width_s)
    size, unit = fitting_unit(peak_w, POWER_UNITS)
    values = [
        [j / width_s / size if width_s else 0.0 for j, width_s in zip(layer.energy_j, widths_s, strict=True)]
        for layer in layers
    ]
    edges, per, axis = time_axis(summary)

    def draw(width_px: float) -> str:
        of = plot.frame(width_px, HEIGHT_PX, (0, edges[-1]), (0, 1.06 * peak_w / size), bottom_px=42 + STRIP_PX)
        parts = [plot.y_axis(of, plot.labelled(plot.ticks(0, peak_w / size)), f"mean power, {unit}")]
        below = [0.0] * len(widths_s)
        for layer, bins in zip(layers, values, strict=True):
            above = [low + value for low, value in zip(below, bins, strict=True)]
            xs, highs = plot.steps(edges, above)
            lows = plot.steps(edges, below)[1]
            parts.append(plot.area(of, xs, _solid(lows), _solid(highs), layer.colour))
            below = above
        parts.append(_strip(summary, of, per))
        strip = plot.frame(width_px, HEIGHT_PX, (0, edges[-1]), (0, 1))
        parts.append(plot.x_axis(strip, time_marks(edges[-1], width_px), axis))
        entries = [(layer.colour, layer.name) for layer in layers]
        return plot.drawing(width_px, HEIGHT_PX, parts, top=plot.legend(entries, width_px))

    series = [
        {"name": layer.name, "colour": layer.colour, "values": rounded(bins), "kind": "stack"}
        for layer, bins in zip(layers, values, strict=True)
    ]
    live = live_data(edges, axis, "mean power", unit, series, marks_of(summary, per))
    headings = [axis, *(f"{layer.name}, {unit}" for layer in layers)]
    attempts = {"attempts": _attempts(summary, per)}
    return chart(name, title, caption, draw, headings, table_rows(edges, values), live | attempts)


def _strip(summary: AuditSummary, of: plot.Frame, per: float) -> str:
    """Draw the attempts as bars below a chart, and a mark for each of the first events."""
    start, top, parts = summary.period.start_unix_s, of.y.start_px + 6, []
    for place, one in enumerate(summary.period.attempts):
        left, right = (of.x.at((moment - start) / per) for moment in (one.start_unix_s, one.end_unix_s))
        ended = one.ended or "killed, or still running"
        lasted = wording.duration(one.end_unix_s - one.start_unix_s)
        tip = f"attempt {one.attempt}: {lasted}, {one.steps:,} steps, {ended}"
        parts.append(plot.box(left, top, right - left, 9, ("checkpoint", "slate")[place % 2], tip))
    for event in summary.events[:60]:
        at = of.x.at((event.at_unix_s - start) / per)
        parts.append(plot.rule(at, top - 2, at, top + 13, "more", 1.4))
    return "".join(parts)


def _attempts(summary: AuditSummary, per: float) -> list[dict[str, float]]:
    start = summary.period.start_unix_s
    return [
        {"from": (one.start_unix_s - start) / per, "to": (one.end_unix_s - start) / per}
        for one in summary.period.attempts[:200]
    ]


def _solid(values: Values) -> list[float]:
    return [value or 0.0 for value in values]
