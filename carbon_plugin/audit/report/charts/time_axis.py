"""The time axis of a run's charts: edges of the bins, a unit that fits the run, and the table behind a chart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.show import plot, wording

TABLE_ROWS = 24
"""At most so many rows has the table behind a chart over time; each then stands for several bins."""
_TIME_UNITS = (
    (2 * 86400.0, 86400.0, "days"),
    (2 * 3600.0, 3600.0, "hours"),
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
    """Return how long each bin is."""
    return [end - start for start, end in pairwise(edges_s(summary))]


def time_axis(summary: AuditSummary) -> tuple[list[float], float, str]:
    """Return the edges of the bins in a unit that fits the run, the seconds of that unit, and the axis's label."""
    size, name = next((size, name) for least, size, name in _TIME_UNITS if summary.period.wall_s >= least)
    return [edge / size for edge in edges_s(summary)], size, f"{name} since the start"


def time_marks(end: float, width_px: float) -> list[plot.Tick]:
    """Return the marks of a time axis that ends at `end`."""
    return plot.labelled(plot.ticks(0, end, 8 if width_px > 500 else 5))


def table_rows(edges: Sequence[float], columns: Sequence[Values]) -> list[list[str]]:
    """Return a row for every few bins: when they start, and the mean of each column over them."""
    every = max(1, -(-(len(edges) - 1) // TABLE_ROWS))
    rows = []
    for first in range(0, len(edges) - 1, every):
        cells = []
        for column in columns:
            known = [value for value in column[first : first + every] if value is not None]
            cells.append(cell_of(sum(known) / len(known) if known else None))
        rows.append([wording.number(edges[first], 4), *cells])
    return rows


def cell_of(value: float | None) -> str:
    """Return a value as a cell of a table, a dash where there is none."""
    return "–" if value is None else wording.number(value, 4)


def rounded(values: Values) -> list[float | None]:
    """Round to seven digits, which is more than any meter has, so that the page stays small."""
    return [None if value is None else float(f"{value:.7g}") for value in values]
