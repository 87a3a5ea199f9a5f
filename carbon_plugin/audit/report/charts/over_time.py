"""Draw charts of a run over time: power of single GPUs, grid intensity, emissions since the start, and step time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from statistics import fmean, median
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.report.charts.chart import NARROW_PX, Chart, chart, height_of
from carbon_plugin.audit.report.charts.time_axis import (
    TABLE_ROWS,
    Extremes,
    Values,
    cell_of,
    envelope,
    hidden_extremes,
    it_rungs,
    live_data,
    marks_of,
    rounded,
    table_rows,
    time_axis,
    time_marks,
)
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.show import plot, wording
from carbon_plugin.show.drawing import LINE_COLOURS
from carbon_plugin.spec.numbers.amounts import fitting_unit
from carbon_plugin.spec.numbers.units import CARBON_UNITS, G_PER_KWH_OF_KG_PER_J


def intensity_chart(summary: AuditSummary) -> Chart | None:
    """Draw the mean grid intensity of the windows in each bin, if it changed during the run."""
    factors = summary.factors
    if factors is None:
        return None
    rungs = it_rungs(summary)
    energy_j = [sum(parts) * factors.pue.value for parts in zip(*rungs.values(), strict=True)] if rungs else []
    pairs = zip(summary.series.operational_kg, energy_j, strict=False)
    grams = [kg / j * G_PER_KWH_OF_KG_PER_J if j > 0 else None for kg, j in pairs]
    known = [value for value in grams if value is not None]
    if not known or max(known) - min(known) < 0.01 * max(known):
        return None
    edges, _, axis = time_axis(summary)
    grams += [None] * (len(edges) - 1 - len(grams))
    extremes = hidden_extremes(grams, summary.series.intensity_low_g_per_kwh, summary.series.intensity_high_g_per_kwh)
    top = max(*known, extremes.top if extremes else 0.0)
    xs, ys = plot.steps(edges, grams)

    def draw(width_px: float) -> str:
        of = plot.frame(width_px, height_of(width_px), (0, edges[-1]), (0, 1.08 * top))
        parts = [
            plot.y_axis(of, plot.labelled(plot.ticks(0, top)), "gCO2e a kWh"),
            envelope(of, edges, extremes, "checkpoint"),
            plot.line(of, xs, ys, "checkpoint"),
            plot.x_axis(of, time_marks(edges[-1], width_px), axis),
        ]
        return plot.drawing(width_px, height_of(width_px), parts)

    series = [
        {"name": "grid intensity", "colour": "checkpoint", "values": rounded(grams), "kind": "step"} | _live(extremes)
    ]
    headings = [axis, "grid intensity, gCO2e/kWh"]
    return chart(
        "intensity",
        "Grid intensity while the run drew power",
        f"Grid intensity in {factors.intensity.zone_name} that each interval's energy was counted with.",
        draw,
        headings + (["lowest, gCO2e/kWh", "highest, gCO2e/kWh"] if extremes else []),
        table_rows(edges, [grams], [extremes]),
        live_data(edges, axis, "grid intensity", "gCO2e/kWh", series),
    )


def cumulative_chart(summary: AuditSummary) -> Chart | None:
    """Draw the operational carbon since the start."""
    kilograms = list(accumulate(summary.series.operational_kg))
    if not kilograms or kilograms[-1] <= 0:
        return None
    edges, per, axis = time_axis(summary)
    size, unit = fitting_unit(kilograms[-1], CARBON_UNITS)
    edges = edges[: len(kilograms) + 1]
    reached = [0.0, *(value / size for value in kilograms)]

    def draw(width_px: float) -> str:
        of = plot.frame(width_px, height_of(width_px), (0, edges[-1]), (0, 1.06 * reached[-1]))
        parts = [
            plot.y_axis(of, plot.labelled(plot.ticks(0, reached[-1])), f"operational, {unit}"),
            plot.area(of, edges, [0.0] * len(edges), reached, "gpu", opacity=0.16),
            plot.line(of, edges, reached, "gpu", width_px=2),
            plot.x_axis(of, time_marks(edges[-1], width_px), axis),
        ]
        return plot.drawing(width_px, height_of(width_px), parts)

    every = max(1, -(-len(reached) // TABLE_ROWS))
    picked = sorted({*range(0, len(reached), every), len(reached) - 1})
    series = [
        {"name": "operational carbon since the start", "colour": "gpu", "values": rounded(reached), "kind": "line"}
    ]
    return chart(
        "emissions",
        "Emissions since the start",
        "Operational carbon that the run had caused by each moment; the manufacture of the hardware is not in it.",
        draw,
        [axis, f"operational carbon so far, {unit}"],
        [[wording.number(edges[at], 4), wording.number(reached[at], 4)] for at in picked],
        {
            "x": rounded(edges),
            "axis": axis,
            "label": "operational carbon",
            "unit": unit,
            "series": series,
            "marks": marks_of(summary, per),
        },
    )


def step_chart(summary: AuditSummary) -> Chart | None:
    """Draw the step time as it was measured and as it was predicted, with the predicted range as a band."""
    times = _step_times(summary)
    if times is None:
        return None
    at, measured, predicted, extremes = times.at, times.measured, times.predicted, times.extremes
    dotted = len(summary.series.steps.at_s) < 60

    def draw(width_px: float) -> str:
        of = plot.frame(width_px, height_of(width_px), (0, times.end), (0, 1.1 * times.top))
        parts = [plot.y_axis(of, plot.labelled(plot.ticks(0, times.top)), f"step time, {times.unit}")]
        entries = [("more", "measured")]
        expected = [value for value in predicted if value is not None]  # all of them, or none
        if times.low < times.high:
            below, above = [value * times.low for value in expected], [value * times.high for value in expected]
            parts.append(plot.area(of, at, below, above, "band", opacity=0.25))
            entries.append(("band", "predicted, p10 to p90"))
        if expected:
            parts.append(plot.line(of, at, expected, "gpu", dashed=True))
            entries.insert(1, ("gpu", "predicted"))
        parts.append(envelope(of, at, extremes, "more"))
        parts.append(plot.line(of, at, measured, "more"))
        if dotted:
            parts += [plot.dot(of.x.at(x), of.y.at(y), "more") for x, y in zip(at, measured, strict=True) if y]
        parts.append(plot.x_axis(of, time_marks(times.end, width_px), times.axis))
        return plot.drawing(width_px, height_of(width_px), parts, top=plot.legend(entries, width_px))

    headings = [times.axis, f"measured, {times.unit}", f"predicted, {times.unit}"]
    headings += [f"fastest stretch, {times.unit}", f"slowest stretch, {times.unit}"] if extremes else []
    return chart(
        "steps",
        "Time of an optimizer step",
        "Mean of the optimizer steps in each interval as they were measured, beside the prediction and its range.",
        draw,
        headings,
        times.rows(),
        {
            "x": rounded(at),
            "axis": times.axis,
            "label": "step time",
            "unit": times.unit,
            "series": times.series("points" if dotted else "line"),
            "marks": [],
        },
    )


class _StepTimes(Struct, frozen=True, kw_only=True):
    """One instance holds the lines of the chart of step times, in `unit`, until the end of the run on its `axis`.

    `extremes` are None where the means hide none. `low` and `high` are the ends of the predicted range as factors, and
    are both 1 where there is no range.
    """

    at: list[float]
    measured: Values
    predicted: Values
    extremes: Extremes | None
    low: float
    high: float
    unit: str
    axis: str
    end: float
    top: float

    def rows(self) -> list[list[str]]:
        """Return the rows of the table below the chart."""
        lines = [self.measured, self.predicted]
        if self.extremes is not None:
            lines += [self.extremes.lows, self.extremes.highs]
        every = max(1, -(-len(self.at) // TABLE_ROWS))
        return [
            [wording.number(self.at[i], 4), *(cell_of(line[i]) for line in lines)]
            for i in range(0, len(self.at), every)
            if self.measured[i] is not None
        ]

    def series(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines in the form that the page's script reads. `kind` is that of the measured one."""
        found: list[dict[str, Any]] = [
            {"name": "measured", "colour": "more", "values": rounded(self.measured), "kind": kind}
            | (self.extremes.live() if self.extremes else {})
        ]
        if any(value is not None for value in self.predicted):
            found.append({"name": "predicted", "colour": "gpu", "values": rounded(self.predicted), "kind": "dashed"})
        if self.low < self.high:
            for name, factor, end in (("predicted, p10", self.low, "low"), ("predicted, p90", self.high, "high")):
                edge = [None if value is None else value * factor for value in self.predicted]
                found.append({"name": name, "colour": "band", "values": rounded(edge), "kind": end})
        return found


def _step_times(summary: AuditSummary) -> _StepTimes | None:
    """Return the measured and the predicted step times over the run, or None where none was measured."""
    found, comparison = summary.series.steps, summary.steps
    if not found.at_s or comparison is None:
        return None
    longest_s = max(found.measured_s + [value for value in found.predicted_s if value is not None])
    size, unit = fitting_unit(longest_s, ((1e-3, "ms"), (1.0, "s")))
    _, per, axis = time_axis(summary)
    end = max(summary.period.wall_s, found.at_s[-1]) / per
    hidden = hidden_extremes(found.measured_s, found.lowest_s, found.highest_s) if found.lowest_s else None
    in_unit = hidden.in_unit(size) if hidden else None
    none: Values = [None] * len(found.at_s)
    broken = _interrupted(
        [value / per for value in found.at_s],
        [value / size for value in found.measured_s],
        [None if value is None else value / size for value in found.predicted_s],
        in_unit.lows if in_unit else none,
        in_unit.highs if in_unit else none,
    )
    at, (measured, predicted, lows, highs) = _from_start_to_end(*broken, end)
    predicted = _bridged(predicted)
    extremes = Extremes(lows, highs) if in_unit else None
    figure = comparison.predicted_step_time_s
    central = next((value for value in predicted if value is not None), None)
    band = figure is not None and figure.low < figure.high and central is not None
    low, high = (figure.low / figure.value, figure.high / figure.value) if figure is not None and band else (1.0, 1.0)
    return _StepTimes(
        at=at,
        measured=measured,
        predicted=predicted,
        extremes=extremes,
        low=low,
        high=high,
        unit=unit,
        axis=axis,
        end=end,
        top=max(longest_s / size, (central or 0.0) * high, extremes.top if extremes else 0.0),
    )


def gpu_chart(summary: AuditSummary) -> Chart | None:
    """Draw the mean power of single GPUs in each bin. Where there are many GPUs, only those that differ most
    are drawn.
    """
    known = {key: bins for key, bins in summary.series.gpu_power_w.items() if any(bins)}
    if len(known) < 2:
        return None
    found = _most_different(known)
    hosts = {device.identity.key: device.hostname for device in summary.devices}
    names = {key: f"{plot.shortened(hosts.get(key, '?'), 16)}, {key[-9:]}" for key in found}
    colours = dict(zip(found, LINE_COLOURS, strict=False))
    lows, highs = summary.series.gpu_low_w, summary.series.gpu_high_w
    extremes = {key: hidden_extremes(bins, lows.get(key, []), highs.get(key, [])) for key, bins in found.items()}
    gpus = sum(device.identity.rung == "gpu" for device in summary.devices)
    which = "the GPUs" if len(found) == gpus else f"{len(found)} of {gpus:,} GPUs"
    peaks_w = [one.top for one in extremes.values() if one is not None]
    peak_w = max(*peaks_w, *(value for bins in found.values() for value in bins if value is not None))
    lines = " Thin lines show the lowest and the highest power of a window in each interval." if peaks_w else ""
    edges, per, axis = time_axis(summary)
    padded = {key: [*bins, *([None] * (len(edges) - 1 - len(bins)))] for key, bins in found.items()}

    def draw(width_px: float) -> str:
        of = plot.frame(width_px, height_of(width_px), (0, edges[-1]), (0, 1.08 * peak_w))
        parts = [plot.y_axis(of, plot.labelled(plot.ticks(0, peak_w)), "mean power, W")]
        for key, bins in padded.items():
            xs, ys = plot.steps(edges, bins)
            if width_px > NARROW_PX:
                parts.append(envelope(of, edges, extremes[key], colours[key]))
            parts.append(plot.line(of, xs, ys, colours[key], width_px=1.2))
        parts.append(plot.x_axis(of, time_marks(edges[-1], width_px), axis))
        entries = [(colours[key], names[key]) for key in padded]
        return plot.drawing(width_px, height_of(width_px), parts, top=plot.legend(entries, width_px))

    series = [
        {"name": names[key], "colour": colours[key], "values": rounded(bins), "kind": "step"} | _live(extremes[key])
        for key, bins in padded.items()
    ]
    return chart(
        "gpus",
        "Power of single GPUs",
        f"Mean power of {which}. A line is interrupted where its GPU could not be read.{lines}",
        draw,
        [axis, *(f"{names[key]}, W" for key in padded)],
        table_rows(edges, list(padded.values())),
        live_data(edges, axis, "mean power", "W", series, marks_of(summary, per)),
    )


def _most_different(powers_w: Mapping[str, Values]) -> dict[str, Values]:
    """Return as many GPUs as there are colours, in their order: those whose mean power differs most from that of the
    others.
    """
    means_w = {key: fmean(one for one in bins if one is not None) for key, bins in powers_w.items()}
    middle_w = median(means_w.values())
    ranked = sorted(means_w, key=lambda key: -abs(means_w[key] - middle_w))
    chosen = set(ranked[: len(LINE_COLOURS)])
    return {key: bins for key, bins in powers_w.items() if key in chosen}


def _live(extremes: Extremes | None) -> dict[str, Any]:
    return extremes.in_unit(1.0).live() if extremes else {}


def _from_start_to_end(
    moments: list[float], lines: list[list[float | None]], end: float
) -> tuple[list[float], list[list[float | None]]]:
    """Add the start and the end of the run to the moments, at which no line has a value."""
    before, after = [0.0] if moments[0] > 0 else [], [end] if moments[-1] < end else []
    widened = [[*(None for _ in before), *line, *(None for _ in after)] for line in lines]
    return [*before, *moments, *after], widened


def _bridged(values: Sequence[float | None]) -> list[float | None]:
    """Return the values with each gap filled by the value before it, or by the value after it at the start.

    A prediction holds between two measurements too; drawn at the measurements alone, it and its range would be no line
    where each of them stands alone.
    """
    filled: list[float | None] = []
    for value in values:
        filled.append(value if value is not None or not filled else filled[-1])
    first = next((value for value in filled if value is not None), None)
    return [first if value is None else value for value in filled]


def _interrupted(moments: Sequence[float], *lines: Values) -> tuple[list[float], list[list[float | None]]]:
    """Break lines where two points are much further apart than usual, because nothing ran between them."""
    distances = [after - before for before, after in pairwise(moments)]
    usual = sorted(distances)[len(distances) * 3 // 4] if distances else 0.0
    at: list[float] = []
    broken: list[list[float | None]] = [[] for _ in lines]
    for place, moment in enumerate(moments):
        if place and distances[place - 1] > 4 * usual:
            at.append(moment - distances[place - 1] / 2)
            for line in broken:
                line.append(None)
        at.append(moment)
        for line, values in zip(broken, lines, strict=True):
            line.append(values[place])
    return at, broken
