"""`carbon-plugin compare`: compare runs by what they used and by the fields of the spec in which they differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import Argument, AsJson
from carbon_plugin.cli.terminal import echo_json

if TYPE_CHECKING:
    from carbon_plugin.audit.runs import ComparedQuantity


def compare(
    places: Annotated[list[Path], Argument("Two or more run directories, or files report.json.", metavar="RUN...")],
    as_json: AsJson = False,
) -> None:
    """Put runs beside one another: energy, carbon, step time, tokens, and the fields of the spec that differ."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from carbon_plugin.audit.exports.evidence import read_summary
    from carbon_plugin.audit.runs import compare_runs
    from carbon_plugin.cli.printing import print_numbers

    found = compare_runs([read_summary(place) for place in places])
    if as_json:
        echo_json(found)
        return
    table = Table(box=None, padding=(0, 1))
    table.add_column("")
    for name in found.runs:
        table.add_column(escape(name), justify="right")
    for row in found.quantities:
        table.add_row(*map(escape, _cells(row)))
    for row in found.spec:
        table.add_row(*map(escape, _cells(row)), style="dim")
    print_numbers(Console(highlight=False), table)


def _cells(row: ComparedQuantity) -> list[str]:
    """Return the name of a quantity with one unit for all runs, and its values in that unit."""
    from carbon_plugin.audit.report.tables.forecast import unit_of_time
    from carbon_plugin.audit.report.tables.table import Unit, unit_of_carbon, unit_of_energy
    from carbon_plugin.show import wording

    largest = max((value for value in row.values if isinstance(value, int | float)), default=0.0)
    fitting = {"J": unit_of_energy, "kgCO2e": unit_of_carbon, "s": unit_of_time}
    unit = fitting[row.unit](largest) if row.unit in fitting else Unit(1.0, row.unit)
    if row.unit == "share":
        unit = Unit(0.01, "%")
    texts = [
        "–"
        if value is None
        else value
        if isinstance(value, str)
        else f"{value:,}"
        if isinstance(value, int)
        else wording.plain(value / unit.size)
        for value in row.values
    ]
    return [f"{row.name}, {unit.name}" if unit.name else row.name, *texts]
