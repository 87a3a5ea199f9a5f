"""Print `carbon-plugin validate --explain ROW`: the predicted step of one row term by term, and the measured one."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carbon_plugin.calibrate.rows.rows import unknown_fields
from carbon_plugin.cli.tables.plan_step import TERMS, span
from carbon_plugin.cli.terminal import echo_json
from carbon_plugin.spec.numbers.amounts import fitting_unit, number, percent
from carbon_plugin.spec.numbers.units import STEP_TIME_UNITS
from carbon_plugin.validate.step.explain import RowExplanation, explain_row


def print_explanation(name: str, records: Path | None, *, as_json: bool) -> None:
    """Print one row as text or JSON. Raises what `explain_row` raises."""

    found = explain_row(name, records)
    if as_json:
        echo_json(found)
        return
    show(found, Console(highlight=False))


def show(found: RowExplanation, out: Console) -> None:
    """Print one row as text."""
    prediction = found.prediction
    size, unit = fitting_unit(found.measured_step_time_s, STEP_TIME_UNITS)
    out.print(f"[bold]{escape(found.id)}[/]  {escape(found.accelerator)}, {escape(found.layout)}")
    out.print(
        f"measured {number(found.measured_step_time_s / size)} {unit}, predicted "
        f"{span(prediction.step_time_s.scaled(1 / size))} {unit}, {percent(found.ratio - 1, 1, signed=True)}; class "
        f"{prediction.accuracy_class}, MFU {percent(prediction.mfu, 1)}, memory "
        f"{prediction.memory.total_bytes / 2**30:.1f} of {prediction.memory.capacity_bytes / 2**30:.1f} GiB"
    )
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for group, terms in found.groups_s.items():
        total = math.fsum(terms.values())
        table.add_row(f"[bold]{group}[/]", *_cells(total, prediction.step_time_s.value, size, unit))
        if len(terms) > 1 or group == "exposed communication":
            for term, seconds in terms.items():
                name = f"  {TERMS.get(term, term)}"
                table.add_row(name, *_cells(seconds, prediction.step_time_s.value, size, unit))
    out.print(table)
    if found.assumed:
        out.print(f"assumed: {'; '.join(found.assumed)}", markup=False)
    if found.not_read:
        out.print(unknown_fields(found.not_read), markup=False)


def _cells(seconds: float, total_s: float, size: float, unit: str) -> tuple[str, str]:
    return f"{number(seconds / size)} {unit}", percent(seconds / total_s, 1)
