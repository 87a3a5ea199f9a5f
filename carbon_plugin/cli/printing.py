"""Lines and tables on a terminal, without the blanks that fill them up, and numbers that are never cut short."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

WIDEST = 200
"""Columns that a table may take."""
LABEL_WIDTH = 10


def print_table(out: Console, table: Table) -> None:
    """Print a table without the blanks that fill its last column."""
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        out.file.write(f"{line.rstrip()}\n")


def print_numbers(out: Console, table: Table) -> None:
    """Print a table of numbers whole: a narrow terminal may wrap its lines, but a number cut short is another one."""
    terminal = out.width
    out.width = max(terminal, out.measure(table, options=out.options.update(max_width=WIDEST)).maximum)
    try:
        print_table(out, table)
    finally:
        out.width = terminal


def print_line(out: Console, label: str, text: str) -> None:
    """Print a line with a label before it, whose text goes on below itself."""
    table = Table.grid(padding=0)
    table.add_column(width=LABEL_WIDTH)
    table.add_column()
    table.add_row(f"[bold]{label}[/]", text)
    print_table(out, table)
