"""`carbon-plugin config`: show what a run started here would be configured with, and the schema of the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from carbon_plugin.cli.options import AsJson, Option, OptionFamily
from carbon_plugin.cli.terminal import echo, echo_json

Start = Annotated[Path | None, Option("Look for carbon_plugin.yaml from this folder upwards.", names=("--from",))]


def show(start: Start = None, as_json: AsJson = False) -> None:
    """Show every field with its value and its source: default, carbon_plugin.yaml, or environment variable."""
    from carbon_plugin.errors import CarbonPluginError
    from carbon_plugin.monitor.settings.configured import effective, read_configuration
    from carbon_plugin.monitor.settings.settings import DEFAULTS, check_configured

    if start is not None and not start.is_dir():
        raise CarbonPluginError(f"--from: {start} is no folder, expected the one where runs are started")
    configured = read_configuration(os.environ, start)
    check_configured(configured)
    fields = effective({}, configured, DEFAULTS)
    if as_json:
        echo_json({"file": None if configured.file is None else str(configured.file), "fields": fields})
        return
    _print(fields, configured.file)
    echo("")
    echo(f"file: {configured.file}" if configured.file else "no carbon_plugin.yaml from here upwards")


def schema() -> None:
    """Print the JSON Schema of carbon_plugin.yaml, for editors."""
    from carbon_plugin.audit.exports.json_schemas import schema_of

    echo_json(schema_of("configuration"))


def _print(fields: dict[str, Any], file: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from carbon_plugin.cli.printing import print_table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=True, header_style="bold")
    for heading in ("field", "value", "source"):
        table.add_column(heading, overflow="fold")
    for name, found in fields.items():
        value = found["value"]
        shown = _plain(value)
        source = found["source"] if file is None else found["source"].replace(str(file), file.name)
        table.add_row(escape(name), escape(shown), escape(source))
    print_table(Console(highlight=False), table)


def _plain(value: Any) -> str:
    """Return a value as a user writes it. Fields that a section does not state are left out."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(one)}" for key, one in value.items() if one is not None) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


family = OptionFamily(show, {"show": show, "schema": schema})
