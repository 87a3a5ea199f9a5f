"""Define the tables of the page. A column has one unit, which its heading names."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import fitting_unit
from carbon_plugin.spec.numbers.units import CARBON_UNITS, ENERGY_UNITS


class Cell(Struct, frozen=True):
    """One cell of a table.

    `small` is shown below its text. `kind` says how a number is known and becomes a badge. `field` is the place in
    report.json of the number that the cell shows, and `raw` is that number.
    """

    text: str
    small: str = ""
    kind: str = ""
    field: str = ""
    raw: float | None = None


class Table(Struct, frozen=True, kw_only=True):
    """One table. `numeric` are the positions of the columns with numbers. `summed` says that the last row is a sum."""

    headings: list[str]
    rows: list[list[Cell]]
    numeric: frozenset[int] = frozenset()
    summed: bool = False
    note: str = ""


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    numeric: Sequence[int] = (),
    *,
    summed: bool = False,
    note: str = "",
) -> Table:
    """Return a table whose cells may be given as plain text."""
    cells = [[Cell(one) if isinstance(one, str) else one for one in row] for row in rows]
    return Table(headings=list(headings), rows=cells, numeric=frozenset(numeric), summed=summed, note=note)


class Unit(Struct, frozen=True):
    """The unit of a column: its `size` in the unit of report.json, and its name."""

    size: float
    name: str

    def number(self, value: float) -> str:
        """Return a value in this unit without the unit's name."""
        return wording.number(value / self.size)

    def span(self, low: float, high: float) -> str:
        """Return a range in this unit without the unit's name."""
        return f"{self.number(low)} to {self.number(high)}"

    def cell(self, value: float, field: str = "") -> Cell:
        """Return a cell with a value in this unit. `field` is the place of the value in report.json."""
        return Cell(self.number(value), field=field, raw=value if field else None)


def unit_of_energy(joules: float) -> Unit:
    """Return the unit that fits an energy."""
    return Unit(*fitting_unit(joules, ENERGY_UNITS))


def unit_of_carbon(kilograms: float) -> Unit:
    """Return the unit that fits a mass of carbon dioxide equivalents."""
    return Unit(*fitting_unit(kilograms, CARBON_UNITS))
