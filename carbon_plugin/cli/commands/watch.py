"""`carbon-plugin watch`: show a run while it goes on, from another shell, by reading its ledgers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import AsJson, Option, RunDirectory
from carbon_plugin.cli.terminal import echo, echo_json, steering_console
from carbon_plugin.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from carbon_plugin.audit.live import LiveView

LEAST_PAUSE_S = 0.5
REST = 9.0
"""The pause after a reading as a multiple of its time, so that reading the ledgers takes one tenth of the
time at most.
"""


def watch(
    run_dir: RunDirectory,
    interval: Annotated[float, Option("Seconds between two readings of the ledgers.")] = 5.0,
    once: Annotated[bool, Option("Show the run once and leave.")] = False,
    line: Annotated[bool, Option("Print one line, for the comment of a job, and leave.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run while it goes on: power, step, spent, projection, GPUs, events. It ends with the run, or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    from carbon_plugin.audit.live import live_view, summary_line
    from carbon_plugin.errors import CarbonPluginError

    if not interval > 0:
        raise CarbonPluginError(f"--interval: {interval:g} s, expected more than 0")
    if line:
        echo(summary_line(run_dir))
        return
    found = live_view(run_dir)
    if as_json:
        echo_json(found)
        return
    out = Console(highlight=False)
    if once or found.state != "running":
        out.print(_table(found))
        return
    with Live(_table(found), console=steering_console(), auto_refresh=False) as live:
        while found.state == "running":
            began_s = time.monotonic()
            found = live_view(run_dir)
            live.update(_table(found), refresh=True)
            took_s = time.monotonic() - began_s
            time.sleep(max(LEAST_PAUSE_S, interval - took_s, REST * took_s))


def _table(found: LiveView) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=None, padding=(0, 1), show_header=False, title=escape(printable(found.title)), title_justify="left"
    )
    for label, text in found.rows:
        table.add_row(f"[bold]{label}[/]", escape(printable(text)))
    return table
