"""`carbon-plugin runs`: list the runs below a directory, with what each used and its state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import Argument, AsJson
from carbon_plugin.cli.terminal import echo, echo_json

if TYPE_CHECKING:
    from carbon_plugin.audit.runs import ListedRun


def runs(
    place: Annotated[Path, Argument("Directory with runs in it or below.", metavar="DIR")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first: date, role, energy, carbon, result against forecast, and state."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from carbon_plugin.audit.runs import list_runs
    from carbon_plugin.cli.printing import print_numbers
    from carbon_plugin.show import wording

    found = list_runs(place)
    if as_json:
        echo_json(found)
        return
    table = Table(box=None, padding=(0, 1))
    numbers = ("energy", "measured", "carbon (p10 to p90)", "forecast")
    for heading in ("start", "run", "role", *numbers, "state", "directory"):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for run in found:
        if run.problem is None and run.start_unix_s is not None:
            table.add_row(
                wording.moment(run.start_unix_s),
                escape(run.name),
                escape(run.role or "–"),
                "unknown" if run.energy_j is None else wording.energy(run.energy_j),
                "–" if run.measured_share is None else wording.percent(run.measured_share),
                _carbon(run),
                "–" if run.forecast_error is None else wording.off_by(1 + run.forecast_error),
                escape(run.state),
                escape(os.path.relpath(run.directory)),
            )
    print_numbers(Console(highlight=False), table)
    unknown = sorted({name for run in found if run.operational_kg is not None for name in run.unknown_embodied})
    if unknown:
        echo(f"* without the manufacture of {' and '.join(unknown)}, which is unknown; all other carbon is the total")
    for run in found:
        if run.problem is not None:
            echo(f"not read: {run.problem}")


def _carbon(run: ListedRun) -> str:
    """Return the carbon that is known of a run with its range, and a mark where it is not the total."""
    from carbon_plugin.show import wording
    from carbon_plugin.spec.numbers.range import Range

    known = run.operational_kg if run.total_kg is None else run.total_kg
    if known is None or run.carbon_range_kg is None:
        return "–"
    between = wording.carbon_range(Range.of(known, *run.carbon_range_kg))
    return f"{wording.carbon(known)} ({between.rpartition(' ')[0]}){' *' * bool(run.unknown_embodied)}"
