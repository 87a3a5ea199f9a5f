"""Compute the time axis of a run's charts: the edges of the bins, a suitable unit, and the table behind a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.show import plot, wording
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

TABLE_ROWS = 24
"""The table behind a chart over time has at most this many rows, each of which then stands for several bins."""
HIDDEN = 0.05
"""A mean hides an extreme that is further away than this part of it."""
_TIME_UNITS = (
    (2 * SECONDS_PER_DAY, SECONDS_PER_DAY, "days"),
    (2 * SECONDS_PER_HOUR, SECONDS_PER_HOUR, "hours"),
    (120.0, 60.0, "minutes"),
    (0.0, 1.0, "seconds"),
)

Values = Sequence[float | None]


def edges_s(summary: AuditSummary) -> list[float]:
    """Return the edges of the bins in seconds from the start; the last bin ends with the run."""
    count = max((len(bins) for bins in summary.series.rung_energy_j.values()), default=0)
    edges = [index * summary.series.width_s for index in range(count + 1)]
    return [*edges[:-1], max(edges[-2], min(edges[-1], summary.period.wall_s))] if count else edges


def widths_of_bins_s(summary: AuditSummary) -> list[float]:
    """Return the length of each bin, s."""
    return [end - start for start, end in pairwise(edges_s(summary))]


def time_axis(summary: AuditSummary) -> tuple[list[float], float, str]:
    """Return the edges of the bins in a suitable unit, the seconds of that unit, and the label of the axis."""
    size, name = next((size, name) for least, size, name in _TIME_UNITS if summary.period.wall_s >= least)
    return [edge / size for edge in edges_s(summary)], size, f"{name} since the start"


def time_marks(end: float, width_px: float) -> list[plot.Tick]:
    """Return the marks of a time axis that ends at `end`."""
    return plot.labelled(plot.ticks(0, end, 8 if width_px > 500 else 5))


class Extremes(Struct, frozen=True):
    """The lowest and the highest value in each bin. The chart draws the mean of the bin."""

    lows: Values
    highs: Values

    @property
    def top(self) -> float:
        """Return the highest of all values."""
        return max((high for high in self.highs if high is not None), default=0.0)

    def in_unit(self, size: float) -> Extremes:
        """Return the values in a unit of this size, rounded."""
        lows, highs = ([None if one is None else one / size for one in edge] for edge in (self.lows, self.highs))
        return Extremes(rounded(lows), rounded(highs))

    def live(self) -> dict[str, Any]:
        """Return the values in the form that the page's script reads."""
        return {"lows": list(self.lows), "highs": list(self.highs)}


def hidden_extremes(means: Values, lows: Values, highs: Values) -> Extremes | None:
    """Return the lowest and highest value of each bin, or None where the means already show them.

    A mean hides a value that lies more than `HIDDEN` beyond it and beyond the means of both neighbouring bins.
    """
    if any(_is_hidden(means, at, low, high) for at, (low, high) in enumerate(zip(lows, highs, strict=True))):
        return Extremes(lows, highs)
    return None


def _is_hidden(means: Values, at: int, low: float | None, high: float | None) -> bool:
    near = [one for one in means[max(0, at - 1) : at + 2] if one is not None]
    if low is None or high is None or not near:
        return False
    return high > (1 + HIDDEN) * max(near) or low < (1 - HIDDEN) * min(near)


def envelope(of: plot.Frame, xs: Sequence[float], extremes: Extremes | None, colour: str) -> str:
    """Draw a thin line through the lowest values and one through the highest.

    If `xs` has one item more than there are values, its items are the edges of bins, and a value stays the same within
    a bin.
    """
    if extremes is None:
        return ""
    lines = []
    for values in (extremes.lows, extremes.highs):
        points = plot.steps(xs, values) if len(xs) > len(values) else (xs, values)
        lines.append(plot.line(of, *points, colour, width_px=0.8, opacity=0.65))
    return "".join(lines)


def table_rows(
    edges: Sequence[float], columns: Sequence[Values], extremes: Sequence[Extremes | None] = ()
) -> list[list[str]]:
    """Return a row for each group of bins: its start, the mean of each column, and the lowest and highest value of each
    of the extremes.
    """
    every = max(1, -(-(len(edges) - 1) // TABLE_ROWS))
    rows = []
    for first in range(0, len(edges) - 1, every):
        cells = []
        for column in columns:
            known = [value for value in column[first : first + every] if value is not None]
            cells.append(cell_of(sum(known) / len(known) if known else None))
        for one in filter(None, extremes):
            lows, highs = ([v for v in edge[first : first + every] if v is not None] for edge in (one.lows, one.highs))
            cells += [cell_of(min(lows, default=None)), cell_of(max(highs, default=None))]
        rows.append([wording.number(edges[first], 4), *cells])
    return rows


def cell_of(value: float | None) -> str:
    """Return a value as a cell of a table, or a dash where there is none."""
    return "–" if value is None else wording.number(value, 4)


def rounded(values: Values) -> list[float | None]:
    """Round to six digits, which is more than any meter resolves, to keep the page small."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def it_rungs(summary: AuditSummary) -> Mapping[str, Sequence[float]]:
    """Return the energy in J of each rung of the machines in each bin. Rungs without any energy are left out."""
    return {rung: bins for rung, bins in summary.series.rung_energy_j.items() if any(bins) and rung != "facility"}


def marks_of(summary: AuditSummary, per: float) -> list[dict[str, Any]]:
    """Return time and text of the first events, for the marks of an interactive chart."""
    start = summary.period.start_unix_s
    return [
        {"x": round((event.at_unix_s - start) / per, 6), "text": plot.shortened(f"{event.kind}: {event.message}", 120)}
        for event in summary.events[:60]
    ]


def live_data(
    edges: Sequence[float],
    axis: str,
    label: str,
    unit: str,
    series: list[dict[str, Any]],
    marks: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the data that the page's script draws: a value at the start of each bin, and the last value again at the
    end.
    """
    for one in series:
        for name in {"values", "lows", "highs"} & one.keys():
            one[name] = [*one[name], one[name][-1]]
    return {"x": rounded(edges), "axis": axis, "label": label, "unit": unit, "series": series, "marks": list(marks)}
