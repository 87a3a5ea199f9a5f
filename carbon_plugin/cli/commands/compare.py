"""`carbon-plugin compare`: compare runs by what they used and by the fields of the spec in which they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from carbon_plugin.cli.options import Argument, AsJson, Option
from carbon_plugin.cli.terminal import echo, echo_json


def compare(
    places: Annotated[list[Path], Argument("Two or more run directories, or files report.json.", metavar="RUN...")],
    as_json: AsJson = False,
    loss: Annotated[
        str | None, Option("Losses that the runs reached, in their order, for instance 2.31,2.28.", names=("--loss",))
    ] = None,
    html: Annotated[Path | None, Option("Write the comparison as a page to this file.", names=("--html",))] = None,
) -> None:
    """Put runs beside one another: energy, carbon, step time, tokens, and the fields of the spec that differ."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from carbon_plugin.audit.exports.evidence import read_summary
    from carbon_plugin.audit.report.comparison import render_comparison, rows_of
    from carbon_plugin.audit.report.write import write_file
    from carbon_plugin.audit.runs import compare_runs
    from carbon_plugin.cli.printing import print_numbers

    summaries = [read_summary(place) for place in places]
    losses = numbers_of(loss)
    found = compare_runs(summaries, losses)
    if html is not None:
        write_file(html, render_comparison(summaries, losses).encode())
    if as_json:
        echo_json(found)
        return
    table = Table(box=None, padding=(0, 1))
    table.add_column("")
    for name in found.runs:
        table.add_column(escape(name), justify="right")
    for row in rows_of(found):
        name = f"{row.name}, {row.unit}" if row.unit else row.name
        table.add_row(escape(name), *(escape(cell.text) for cell in row.cells))
        if any(cell.known for cell in row.cells):
            table.add_row("", *(escape(cell.known) for cell in row.cells), style="dim")
    for difference in found.spec:
        values = ("–" if value is None else str(value) for value in difference.values)
        table.add_row(escape(difference.name), *map(escape, values), style="dim")
    print_numbers(Console(highlight=False), table)
    echo("below a value: its range from p10 to p90, and how it is known; `audit RUN --explain` has the sources")
    for caution in found.cautions:
        echo(caution)
    if html is not None:
        echo(f"wrote {html}")


def numbers_of(text: str | None) -> list[float]:
    """Return the losses of the option --loss. Raises `CarbonPluginError` for anything but numbers."""
    from carbon_plugin.errors import CarbonPluginError
    from carbon_plugin.spec.parsing.boundary import finite_number

    numbers = [finite_number(one) for one in text.split(",")] if text else []
    found = [number for number in numbers if number is not None]
    if len(found) < len(numbers):
        raise CarbonPluginError(f"--loss: {text!r}, expected numbers with commas, for instance 2.31,2.28")
    return found
