"""Write several runs side by side as one page: their totals on one scale, each quantity with bars, and the fields of
the spec that differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.report.environment import environment, styles
from carbon_plugin.audit.report.first_screen import RunTotal, total_of
from carbon_plugin.audit.report.tables.forecast import unit_of_time
from carbon_plugin.audit.report.tables.table import Unit, unit_of_carbon, unit_of_energy
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.runs import ComparedQuantity, Number, RunComparison, compare_runs, state_of
from carbon_plugin.audit.sentences import narrative
from carbon_plugin.show import wording

UNITS = {"J": unit_of_energy, "kgCO2e": unit_of_carbon, "s": unit_of_time}


FAR_APART = 1e3
"""Numbers further apart than this have the unit that fits their middle."""


class ComparedCell(Struct, frozen=True, kw_only=True):
    """The value of one run: its text, its number, the length of its bar in percent of the largest, its difference
    from the first run, its p10 and p90 and what it is known by. Where the value is not a number, the bar is None and
    the difference is empty.
    """

    text: str
    raw: float | None = None
    bar_percent: float | None = None
    change: str = ""
    known: str = ""


class ComparedRow(Struct, frozen=True, kw_only=True):
    """One quantity with its unit and its value in each run."""

    name: str
    unit: str
    cells: list[ComparedCell]


class RunCard(Struct, frozen=True, kw_only=True):
    """One card is the summary of a run at the top of the page."""

    name: str
    subtitle: str
    state: str
    total: RunTotal


def render_comparison(summaries: Sequence[AuditSummary], losses: Sequence[float] = ()) -> str:
    """Return the comparison of two or more runs as HTML. Raises `CarbonPluginError` as `compare_runs` does."""
    found = compare_runs(summaries, losses)
    most_kg = max((one.footprint.counted_kg.high for one in summaries if one.footprint), default=0.0)
    most_j = max(one.energy.high_j for one in summaries)
    context: dict[str, Any] = {
        "styles": styles(),
        "runs": found.runs,
        "cards": [
            RunCard(
                name=one.run.name,
                subtitle=narrative.subtitle(one),
                state=state_of(one),
                total=total_of(one, most=most_kg if one.footprint else most_j),
            )
            for one in summaries
        ],
        "cautions": found.cautions,
        "rows": rows_of(found),
        "differences": [one for one in found.spec if _stated(one) > 1],
        "alone": [one for one in found.spec if _stated(one) <= 1],
        "version": summaries[0].plugin_version,
    }
    return environment().get_template("compare.html.j2").render(context)


def _stated(field: ComparedQuantity) -> int:
    """Return how many runs state a field."""
    return sum(value is not None for value in field.values)


def rows_of(found: RunComparison) -> list[ComparedRow]:
    """Return the quantities of a comparison as text, each in one unit that fits the largest of its values."""
    return [_row(quantity) for quantity in found.quantities]


def _row(quantity: ComparedQuantity) -> ComparedRow:
    numbers = [float(value) for value in quantity.values if isinstance(value, int | float)]
    largest = max(numbers, default=0.0)
    unit = UNITS[quantity.unit](_middle(numbers)) if quantity.unit in UNITS else Unit(1.0, quantity.unit)
    if quantity.unit == "share":
        unit = Unit(0.01, "%")
    first = quantity.values[0]
    said = [_known(*one, unit) for one in zip(quantity.ranges, quantity.known_by, strict=True)]
    cells = [
        _cell(value, unit, largest, first if at else None, said[at] if said else "")
        for at, value in enumerate(quantity.values)
    ]
    return ComparedRow(name=quantity.name, unit=unit.name, cells=cells)


def _middle(numbers: Sequence[float]) -> float:
    """Return the number that decides on the unit: the largest, or the geometric middle of numbers that are too far
    apart for one unit.
    """
    positive = [number for number in numbers if number > 0]
    least, largest = min(positive, default=0.0), max(positive, default=0.0)
    return math.sqrt(least * largest) if largest > FAR_APART * least else largest


def _known(ends: tuple[float, float] | None, by: str | None, unit: Unit) -> str:
    """Return the range of a value and what it is known by, in words, without a range that has no width."""
    between = ""
    if ends is not None and ends[0] < ends[1]:
        between = " to ".join(wording.plain(end / unit.size) for end in ends)
    return ", ".join(filter(None, (between, by)))


def _cell(value: Number, unit: Unit, largest: float, first: Number, known: str) -> ComparedCell:
    """Return one value as text. `first` is the value of the first run, or None for the first run itself."""
    if value is None:
        return ComparedCell(text="–")
    if isinstance(value, str):
        return ComparedCell(text=value)
    text = f"{value:,}" if isinstance(value, int) else wording.plain(value / unit.size)
    comparable = isinstance(first, int | float) and first > 0 and value > 0
    return ComparedCell(
        text=text,
        raw=value,
        bar_percent=100 * value / largest if value > 0 else None,
        change=wording.off_by(value / first) if comparable and isinstance(first, int | float) else "",
        known=known,
    )
