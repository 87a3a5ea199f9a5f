"""Print lines and tables on a terminal. No line ends with blanks, and no number is cut short."""

from __future__ import annotations

import re

from rich.console import Console, RenderableType
from rich.table import Table

WIDEST = 200
"""The largest width of a table, characters."""
LABEL_WIDTH = 10
_JOINT = "\ue000"
"""Stands for the blank in "81 %" until lines are broken. Rich breaks them at every other blank, at a fixed one too."""


def unbroken(text: str) -> str:
    """Return a text for `print_table` in which no line begins with the percent sign of a number before it."""
    return re.sub(r"(?<=\d) (?=%)", _JOINT, text)


def print_table(out: Console, table: RenderableType) -> None:
    """Print a table or a paragraph. The blanks that fill its lines to the width of the terminal are left out."""
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().replace(_JOINT, " ").splitlines():
        out.file.write(f"{line.rstrip()}\n")


def print_numbers(out: Console, table: Table) -> None:
    """Print a table of numbers at its full width. A narrow terminal may wrap a line, but a number that is cut short
    would be another number."""
    terminal = out.width
    out.width = max(terminal, out.measure(table, options=out.options.update(max_width=WIDEST)).maximum)
    try:
        print_table(out, table)
    finally:
        out.width = terminal


def print_line(out: Console, label: str, text: str) -> None:
    """Print a label and a text beside it. Further lines of the text begin below its first."""
    table = Table.grid(padding=0)
    table.add_column(width=LABEL_WIDTH)
    table.add_column()
    table.add_row(f"[bold]{label}[/]", unbroken(text))
    print_table(out, table)
