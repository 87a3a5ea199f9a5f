"""Draw the charts of a fleet's page: the months, the groups, the waste and the regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from msgspec import Struct

from carbon_plugin.audit.report.charts.chart import Chart, chart
from carbon_plugin.fleet.accounts import AccountLine, Accounts
from carbon_plugin.fleet.wording import label_of, month_name
from carbon_plugin.show import plot, wording
from carbon_plugin.spec.numbers.amounts import fitting_unit
from carbon_plugin.spec.numbers.units import CARBON_UNITS, ENERGY_UNITS, JOULES_PER_KWH, Units

BARS = 24
"""So many groups are drawn, those with the most carbon. The table behind a chart holds all."""
HEIGHT_PX = 250.0
_ROW_PX, _NARROW_PX = 26.0, 500.0


class BarPart(Struct, frozen=True):
    """A part of each bar: its name, its colour, and the function that gives its size for a line, in the SI unit of
    `UNITS`.
    """

    name: str
    colour: str
    of: Callable[[AccountLine], float]


CARBON = (
    BarPart("operational", "gpu", lambda line: line.location_kg or 0.0),
    BarPart("embodied", "host", lambda line: line.embodied_kg or 0.0),
)
WASTE = (
    BarPart("failed runs", "more", lambda line: line.waste.failed_kwh * JOULES_PER_KWH),
    BarPart("steps done again", "host", lambda line: line.waste.redone_kwh * JOULES_PER_KWH),
    BarPart("starting up again", "network", lambda line: line.waste.restart_kwh * JOULES_PER_KWH),
    BarPart("idle", "facility", lambda line: line.waste.idle_kwh * JOULES_PER_KWH),
)


def charts_of(accounts: Accounts) -> dict[str, Chart | None]:
    """Return the charts of a page by name, with None for a chart that would be empty."""
    groups, months, by = accounts.groups, accounts.months, ", ".join(accounts.by)
    booked = "Operational carbon, location-based, when it was caused, and embodied carbon when it is booked."
    wasted = "Each joule once: what failed runs used, steps done again, starting up again, and waiting."
    largest = "The largest come first."
    title = "Energy that brought nothing new, by month"
    return {
        "trend": over_months(months, CARBON, CARBON_UNITS, "trend", "Carbon by month", booked),
        "groups": bars(groups, CARBON, CARBON_UNITS, "groups", f"Carbon by {by}", largest),
        "waste": over_months(months, WASTE, ENERGY_UNITS, "waste", title, wasted),
        "waste_groups": bars(groups, WASTE, ENERGY_UNITS, "waste_groups", f"The same by {by}", largest),
        "regions": bars(accounts.regions, CARBON, CARBON_UNITS, "regions", "Carbon by region", largest),
    }


def over_months(
    lines: Sequence[AccountLine], parts: Sequence[BarPart], units: Units, name: str, title: str, caption: str
) -> Chart | None:
    """Draw stacked columns, one for each month."""
    totals = [sum(part.of(line) for part in parts) for line in lines]
    most = max(totals, default=0.0)
    if most <= 0:
        return None
    size, unit = fitting_unit(most, units)
    names = [month_name(line.month) for line in lines]

    def draw(width_px: float) -> str:
        of = plot.frame(width_px, HEIGHT_PX, (0, len(lines)), (0, 1.06 * most / size))
        drawn = [plot.y_axis(of, plot.labelled(plot.ticks(0, most / size)), unit)]
        for place, line in enumerate(lines):
            left, right = of.x.at(place + 0.1), of.x.at(place + 0.9)
            values = [part.of(line) / size for part in parts]
            tops = list(accumulate(values))
            for part, value, top in zip(parts, values, tops, strict=True):
                tip = f"{names[place]}, {part.name}: {wording.number(value)} {unit}"
                low = of.y.at(top - value)
                if value > 0:
                    drawn.append(plot.box(left, of.y.at(top), right - left, low - of.y.at(top), part.colour, tip))
        drawn.append(plot.x_axis(of, [(place + 0.5, text) for place, text in enumerate(names)]))
        entries = [(part.colour, part.name) for part in parts]
        return plot.drawing(width_px, HEIGHT_PX, drawn, top=plot.legend(entries, width_px))

    live: dict[str, Any] = {
        "x": list(range(len(lines) + 1)),  # the end of the last month too
        "names": names,
        "axis": "month",
        "label": title.partition(",")[0],
        "unit": unit,
        "marks": [],
        "series": [
            {
                "name": part.name,
                "colour": part.colour,
                "kind": "stack",
                "values": [*(float(f"{part.of(line) / size:.6g}") for line in lines), None],
            }
            for part in parts
        ],
    }
    return chart(name, title, caption, draw, _headings("month", parts, unit), _rows(names, lines, parts, size), live)


def bars(
    lines: Sequence[AccountLine], parts: Sequence[BarPart], units: Units, name: str, title: str, caption: str
) -> Chart | None:
    """Draw one bar for each of the largest lines."""
    ranked = sorted(lines, key=lambda line: -sum(part.of(line) for part in parts))
    most = sum(part.of(ranked[0]) for part in parts) if ranked else 0.0
    if most <= 0:
        return None
    size, unit = fitting_unit(most, units)
    shown = ranked[:BARS]

    def draw(width_px: float) -> str:
        letters = 30 if width_px > _NARROW_PX else 14
        labels = [plot.shortened(label_of(line), letters) for line in shown]
        left = 16 + max(map(plot.width_of, labels))
        scale = plot.Scale(0, most / size, left, width_px - 14)
        drawn = []
        for place, (line, label) in enumerate(zip(shown, labels, strict=True)):
            top, done = 4 + place * _ROW_PX, 0.0
            drawn.append(plot.words(left - 8, top + 14, label, anchor="end"))
            for part in parts:
                value = part.of(line) / size
                if value > 0:
                    tip = f"{label_of(line)}, {part.name}: {wording.number(value)} {unit}"
                    start = scale.at(done)
                    drawn.append(plot.box(start, top, scale.at(done + value) - start, 18, part.colour, tip))
                done += value
        of = plot.Frame(width_px, 4 + len(shown) * _ROW_PX + 42, scale, plot.Scale(0, 1, 4 + len(shown) * _ROW_PX, 4))
        marks = plot.labelled(plot.ticks(0, most / size, 6 if width_px > _NARROW_PX else 3))
        drawn.append(plot.x_axis(of, marks, unit))
        entries = [(part.colour, part.name) for part in parts]
        return plot.drawing(width_px, of.height_px, drawn, top=plot.legend(entries, width_px))

    names = [label_of(line) for line in ranked]
    return chart(name, title, caption, draw, _headings("group", parts, unit), _rows(names, ranked, parts, size))


def _headings(first: str, parts: Sequence[BarPart], unit: str) -> list[str]:
    return [first, *(f"{part.name}, {unit}" for part in parts)]


def _rows(names: Sequence[str], lines: Sequence[AccountLine], parts: Sequence[BarPart], size: float) -> list[list[str]]:
    return [
        [name, *(wording.number(part.of(line) / size) for part in parts)]
        for name, line in zip(names, lines, strict=True)
    ]
