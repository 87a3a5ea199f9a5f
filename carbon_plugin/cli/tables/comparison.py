"""Print a comparison as a table or JSON, and draw it as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from carbon_plugin.cli.printing import print_numbers, print_table
from carbon_plugin.cli.tables.plan_run import best_case_phrase
from carbon_plugin.cli.terminal import echo
from carbon_plugin.errors import SpecError
from carbon_plugin.footprint.values import Footprint
from carbon_plugin.plan.whatif.comparison import Alternative, Comparison
from carbon_plugin.show import plot
from carbon_plugin.spec.numbers.amounts import fitting_unit, number, percent
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import CARBON_UNITS, ENERGY_UNITS, TIME_UNITS, Units
from carbon_plugin.spec.parsing.saving import save

WIDTH_PX, ROW_PX = 820.0, 34.0
SAME_PUE = 1.001
"""Two values of PUE up to this ratio apart count as the same. Others get a column of their own."""


def show_comparison(comparison: Comparison, *, output: Path | None, as_json: bool) -> None:
    """Print a comparison, and write it to a file if one is given: as a chart to a .svg file, as JSON to any other.

    Raises `SpecError` if no alternative has numbers or there is nothing to draw, and `OSError` if the file cannot be
    written.
    """
    if all(one.footprint is None for one in comparison.alternatives):
        first = comparison.alternatives[0]
        raise SpecError(f"comparison: {label_of(first)}: {first.reason}")
    document = msgspec.json.format(msgspec.json.encode(comparison), indent=2).decode()
    if output is not None:
        save(output, comparison_chart(comparison) if output.suffix == ".svg" else f"{document}\n")
    if as_json:
        echo(document)
        return
    print_comparison(comparison)
    if output is not None:
        echo(f"comparison written to {output}")


def label_of(alternative: Alternative) -> str:
    """Return the changes of an alternative in few words."""
    named = ("start", "hour", "pause_above")
    words = (f"{axis} {value}" if axis in named else value for axis, value in alternative.changes.items())
    return ", ".join(words) or "as it is"


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print every alternative beside the run, then the notes on them."""
    out = console or Console()
    alternatives = [comparison.base, *comparison.alternatives]
    footprints = [one.footprint for one in alternatives if one.footprint is not None]
    carbon = fitting_unit(max((one.counted_kg.value for one in footprints), default=0.0), CARBON_UNITS)
    energy = fitting_unit(max((one.energy_j["facility"].value for one in footprints), default=0.0), ENERGY_UNITS)
    marginal = any(one.marginal_kg is not None for one in alternatives)
    table = Table(box=None, padding=(0, 1), title_justify="left", title_style="bold")
    table.title = f"what if: {escape(comparison.name)}, energy of the facility in {energy[1]}, carbon in {carbon[1]}"
    ratios = [
        one.energy_j["facility"].value / one.energy_j["it"].value for one in footprints if one.energy_j["it"].value
    ]
    with_pue = max(ratios, default=1.0) > SAME_PUE * min(ratios, default=1.0)
    pue = ["PUE"] if with_pue else []
    headings = ["", "time", "energy", *pue, "g/kWh", "operational", "embodied", "total", "p10 to p90", "change"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for number_of_row, one in enumerate(alternatives):
        table.add_row(str(number_of_row), *_cells(one, comparison, carbon[0], energy[0], with_pue=with_pue))
    print_numbers(out, table)
    rows_of = _shared_notes(alternatives)
    for number_of_row, one in enumerate(alternatives):
        own = (note for note in one.notes if note not in rows_of)
        said = "; ".join(filter(None, (_extras(one, carbon), one.reason, *own)))
        rest = f": [dim]{escape(said)}[/]" if said else ""
        print_table(out, Padding(f"{number_of_row}  [bold]{escape(label_of(one))}[/]{rest}", (0, 0, 0, 1)))
    for note, rows in rows_of.items():
        print_table(out, Padding(f"[dim]{', '.join(map(str, rows))}: {escape(note)}[/]", (0, 0, 0, 1)))
    if any(one.best_case is not None for one in alternatives):
        print_table(
            out, "The table is of real runs, which take longer than the best case of their layout (docs/goodput.md)."
        )
    if marginal:
        print_table(
            out, "At the margin: what one kWh more or less causes; beside the average, never part of the total."
        )
    for warning in comparison.warnings:
        print_table(out, f"[yellow]warning:[/] {escape(warning)}")


def _shared_notes(alternatives: Sequence[Alternative]) -> dict[str, list[int]]:
    """Return the notes that more than one row has, each with its rows. They are printed once."""
    rows: dict[str, list[int]] = {}
    for number_of_row, one in enumerate(alternatives):
        for note in dict.fromkeys(one.notes):
            rows.setdefault(note, []).append(number_of_row)
    return {note: of_note for note, of_note in rows.items() if len(of_note) > 1}


def comparison_chart(comparison: Comparison) -> str:
    """Draw operational and embodied carbon of every alternative, and the marginal figure as a mark beside them.

    Raises `SpecError` if no alternative has numbers.
    """
    shown = [one for one in (comparison.base, *comparison.alternatives) if one.footprint is not None]
    totals = [one.footprint.counted_kg for one in shown if one.footprint is not None]
    if not totals:
        raise SpecError("comparison: no alternative can be computed, so there is nothing to draw")
    size, unit = fitting_unit(max(total.value for total in totals), CARBON_UNITS)
    marginal_kg = [one.marginal_kg for one in shown if one.marginal_kg is not None]
    most = max([*(total.high for total in totals), *marginal_kg]) / size
    names = [plot.shortened(label_of(one)) for one in shown]
    left_px, height_px = max(map(plot.width_of, names)) + 18, ROW_PX * len(shown) + 50
    of = plot.frame(WIDTH_PX, height_px, (0, 1.04 * most), (0, 1), left_px=left_px, top_px=4)
    label = f"{unit}, with p10 to p90 of the total"
    parts = [plot.x_axis(of, plot.labelled(plot.ticks(0, most, 8)), label, grid=True)]
    for place, (name, one, total) in enumerate(zip(names, shown, totals, strict=True)):
        assert one.footprint is not None  # it is shown
        parts += _bars(of, 6 + ROW_PX * place, one.footprint, total, size)
        parts.append(plot.words(left_px - 8, 6 + ROW_PX * place + 15, name, anchor="end"))
        if one.marginal_kg is not None:
            parts.append(plot.dot(of.x.at(one.marginal_kg / size), 6 + ROW_PX * place + 11, "more"))
    entries = [("gpu", "operational, average"), ("host", "embodied")]
    entries += [("more", "operational, marginal")] if marginal_kg else []
    return plot.standalone(plot.drawing(WIDTH_PX, height_px, parts, top=plot.legend(entries, WIDTH_PX)))


def _bars(of: plot.Frame, top: float, footprint: Footprint, total: Figure, size: float) -> list[str]:
    """Draw operational and embodied carbon of one alternative end to end, and the range of the total over them."""
    start, between, end = (of.x.at(kg / size) for kg in (0.0, footprint.operational_kg.value, total.value))
    low, high = of.x.at(total.low / size), of.x.at(total.high / size)
    whisker = [plot.rule(low, top + 11, high, top + 11), *(plot.rule(x, top + 7, x, top + 15) for x in (low, high))]
    bars = [
        plot.box(start, top, between - start, 22, "gpu"),
        plot.box(between, top, end - between, 22, "host"),
    ]
    return [*bars, *whisker]


def _cells(alternative: Alternative, comparison: Comparison, kg: float, joules: float, *, with_pue: bool) -> list[str]:
    """Return the cells of a row, with carbon in units of `kg` kilograms and energy in units of `joules` joules."""
    footprint = alternative.footprint
    if footprint is None:
        return ["-"]
    total, counted, relative = footprint.total_kg, footprint.counted_kg, comparison.relative(alternative)
    return [
        "" if alternative.elapsed_s is None else _amount(alternative.elapsed_s, TIME_UNITS),
        number(footprint.energy_j["facility"].value / joules),
        *([_pue(footprint)] if with_pue else []),
        "" if alternative.g_per_kwh is None else number(alternative.g_per_kwh),
        number(footprint.operational_kg.value / kg),
        "unknown" if footprint.embodied_kg is None else number(footprint.embodied_kg.value / kg),
        "unknown" if total is None else number(total.value / kg),
        # Where the manufacture of the hardware is unknown, so is the total, and the range is that of what is known.
        f"{number(counted.low / kg)}-{number(counted.high / kg)}{' (operational)' * (total is None)}",
        "" if alternative is comparison.base or relative is None else percent(relative, 0, signed=True),
    ]


def _pue(footprint: Footprint) -> str:
    """Return facility energy over IT energy as text, empty if there is no IT energy."""
    it_j = footprint.energy_j["it"].value
    return number(footprint.energy_j["facility"].value / it_j) if it_j else ""


def _extras(alternative: Alternative, carbon: tuple[float, str]) -> str:
    """Return in words what has no column: marginal carbon, pauses and the best case."""
    found = []
    if alternative.marginal_kg is not None:
        found.append(f"operational at the margin {number(alternative.marginal_kg / carbon[0])} {carbon[1]}")
    if alternative.paused_s:
        found.append(f"{_amount(alternative.paused_s, TIME_UNITS)} of the time in pauses")
    if alternative.best_case is not None:
        found.append(best_case_phrase(alternative.best_case))
    return "; ".join(found)


def _amount(value: float, units: Units) -> str:
    size, unit = fitting_unit(value, units)
    return f"{number(value / size)} {unit}"
