"""`carbon-plugin audit`: the report of a run that a stranger can trust, from its ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def audit(
    run_dir: Annotated[Path, typer.Argument(help="Run directory with the ledgers.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the report, if not into the run directory.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Exit with 1 if the ledgers cannot be believed.")] = False,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="Ledger head that was logged elsewhere; implies --verify. Repeatable.", show_default=False),
    ] = None,
) -> None:
    """Add up the ledgers of a run, check them, and write report.html, report.json and summary.txt."""
    from carbon_plugin.audit.report import render_json, write_audit
    from carbon_plugin.audit.text import render_text

    written = write_audit(run_dir, out, anchors=anchor or ())
    verification = written.summary.verification
    if as_json:
        typer.echo(render_json(written.summary).decode(), nl=False)
    else:
        typer.echo(render_text(written.summary))
        typer.echo(f"report: {written.html}")
    if (verify or anchor) and not verification.ok:
        for problem in verification.problems:
            typer.echo(f"not verified: {problem}", err=True)
        raise typer.Exit(1)
