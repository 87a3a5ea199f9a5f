"""Draw charts of the power over a run, stacked by what drew it and by what it was spent on, above a strip of
attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.report.charts.chart import Chart, chart, height_of
from carbon_plugin.audit.report.charts.time_axis import (
    Extremes,
    Values,
    envelope,
    hidden_extremes,
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
from carbon_plugin.spec.numbers.amounts import fitting_unit
from carbon_plugin.spec.numbers.units import POWER_UNITS

STRIP_PX = 26.0


class Layer(Struct, frozen=True):
    """One layer of a stack: its name, its colour, and its energy in each bin in J."""

    name: str
    colour: str
    energy_j: Sequence[float]


def power_chart(summary: AuditSummary) -> Chart | None:
    """Draw the mean power in each bin, stacked by rung, above a strip of attempts and recorded faults."""
    layers = [Layer(RUNG_NAMES[rung], RUNG_COLOURS[rung], bins) for rung, bins in it_rungs(summary).items()]
    series, widths_s = summary.series, widths_of_bins_s(summary)
    energies_j = [sum(parts) for parts in zip(*(layer.energy_j for layer in layers), strict=True)]
    means_w = [j / width_s if width_s else 0.0 for j, width_s in zip(energies_j, widths_s, strict=False)]
    peaks = hidden_extremes(means_w, series.power_low_w, series.power_high_w)
    caption = (
        "Mean power of each interval, stacked by what drew it. The strip below shows the attempts, and marks events "
        "that the monitor recorded. Where nothing was recorded there is no power."
    )
    return _stacked(summary, layers, "power", "Power over the run", f"{caption}{_said_of(summary, peaks)}", peaks)


def doing_chart(summary: AuditSummary) -> Chart | None:
    """Draw the same power stacked by the phase in which it was spent, if there are several phases."""
    layers = [
        Layer(PHASE_NAMES.get(phase, phase), PHASE_COLOURS.get(phase, OWN_PHASE_COLOUR), bins)
        for phase, bins in summary.series.phase_energy_j.items()
        if any(bins)
    ]
    if len(layers) < 2:
        return None
    caption = "The same power, stacked by the phase of the training in which it was drawn."
    return _stacked(summary, layers, "doing", "What the run was doing", caption)


def _stacked(
    summary: AuditSummary, layers: Sequence[Layer], name: str, title: str, caption: str, peaks: Extremes | None = None
) -> Chart | None:
    widths_s = widths_of_bins_s(summary)
    if not layers or not sum(widths_s):
        return None
    energies = zip(*(layer.energy_j for layer in layers), strict=True)
    peak_w = max(sum(parts) / width_s for parts, width_s in zip(energies, widths_s, strict=True) if width_s)
    peak_w = max(peak_w, peaks.top if peaks else 0.0)
    size, unit = fitting_unit(peak_w, POWER_UNITS)
    peaks = peaks.in_unit(size) if peaks else None
    values = [
        [j / width_s / size if width_s else 0.0 for j, width_s in zip(layer.energy_j, widths_s, strict=True)]
        for layer in layers
    ]
    totals = [sum(parts) for parts in zip(*values, strict=True)]
    edges, per, axis = time_axis(summary)

    def draw(width_px: float) -> str:
        of = plot.frame(
            width_px, height_of(width_px), (0, edges[-1]), (0, 1.06 * peak_w / size), bottom_px=42 + STRIP_PX
        )
        parts = [plot.y_axis(of, plot.labelled(plot.ticks(0, peak_w / size)), f"mean power, {unit}")]
        heights = list(totals)  # the tallest is drawn first, so that each layer shows above those below it
        for layer, bins in reversed(list(zip(layers, values, strict=True))):
            xs, highs = plot.steps(edges, heights)
            parts.append(plot.area(of, xs, [0.0] * len(xs), _solid(highs), layer.colour, opacity=1.0))
            heights = [height - value for height, value in zip(heights, bins, strict=True)]
        parts.append(envelope(of, edges, peaks, "ink"))
        parts.append(_strip(summary, of, per))
        strip = plot.frame(width_px, height_of(width_px), (0, edges[-1]), (0, 1))
        parts.append(plot.x_axis(strip, time_marks(edges[-1], width_px), axis))
        entries = [(layer.colour, layer.name) for layer in layers]
        entries += [("ink", "lowest, highest")] if peaks else []
        return plot.drawing(width_px, height_of(width_px), parts, top=plot.legend(entries, width_px))

    series: list[dict[str, Any]] = [
        {"name": layer.name, "colour": layer.colour, "values": rounded(bins), "kind": "stack"}
        for layer, bins in zip(layers, values, strict=True)
    ]
    headings = [axis, *(f"{layer.name}, {unit}" for layer in layers)]
    if peaks is not None:
        total = {"name": "all machines", "colour": "ink", "values": rounded(totals), "kind": "total", **peaks.live()}
        series.append(total)
        headings += [f"all machines, lowest, {unit}", f"highest, {unit}"]
    live = live_data(edges, axis, "mean power", unit, series, marks_of(summary, per))
    attempts = {"attempts": _attempts(summary, per)}
    return chart(name, title, caption, draw, headings, table_rows(edges, values, [peaks]), live | attempts)


def _said_of(summary: AuditSummary, peaks: Extremes | None) -> str:
    """Return the sentence of a caption on how lowest and highest values are known, or an empty text where there are
    none.
    """
    if peaks is None:
        return ""
    width = wording.duration(summary.series.width_s)
    every = wording.duration(summary.series.power_every_s)
    return f" An interval is {width} long; thin lines show the lowest and the highest power in it, taken every {every}."


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
