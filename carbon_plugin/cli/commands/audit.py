"""`carbon-plugin audit`: the report of a run that a stranger can trust, from its ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

INCOMPLETE = 3
"""Exit code of --verify where nothing is wrong with the ledgers that are there."""


def audit(
    run_dir: Annotated[Path, typer.Argument(help="Run directory with the ledgers.", show_default=False)],
    field: Annotated[
        str | None, typer.Argument(help="With --explain: a field of report.json, or its end.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the report, if not into the run directory.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Exit with 1 if the ledgers contradict themselves, with 3 if some are missing."),
    ] = False,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="Ledger head that was logged elsewhere; implies --verify. Repeatable.", show_default=False),
    ] = None,
    sacct: Annotated[
        Path | None,
        typer.Option(
            help="Output of sacct -P -o JobID,State,ElapsedRaw,AllocTRES: states allocated time that nobody observed.",
            show_default=False,
        ),
    ] = None,
    kubernetes: Annotated[
        Path | None,
        typer.Option(help="The same from kubectl get pods,events -o json.", show_default=False),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Follow the numbers, or the one FIELD, to their sources; write nothing.")
    ] = False,
) -> None:
    """Add up the ledgers of a run, check them, and write report.html, report.json and summary.txt."""
    from carbon_plugin.audit.report.text import render_text
    from carbon_plugin.audit.report.write import render_json, write_audit
    from carbon_plugin.errors import ReportError

    if explain:
        _explain(run_dir, field, as_json=as_json)
        return
    if field is not None:
        raise ReportError(f"{field}: a field is explained with --explain; only one run directory is audited at a time")
    if sacct is not None and kubernetes is not None:
        raise ReportError("--sacct and --kubernetes: one scheduler's account at a time")
    written = write_audit(run_dir, out, anchors=anchor or (), sacct=sacct, kubernetes=kubernetes)
    verification = written.summary.verification
    if as_json:
        typer.echo(render_json(written.summary).decode(), nl=False)
    else:
        typer.echo(render_text(written.summary))
        typer.echo(f"report: {written.html}")
    if verify or anchor:
        for problem in verification.problems:
            typer.echo(f"not verified: {problem}", err=True)
        for missing in verification.missing:
            typer.echo(f"incomplete: {missing}", err=True)
        if not verification.ok:
            raise typer.Exit(1)
        if verification.missing:
            raise typer.Exit(INCOMPLETE)


def _explain(run_dir: Path, field: str | None, *, as_json: bool) -> None:
    import msgspec

    from carbon_plugin.audit.explain.trace import explain
    from carbon_plugin.audit.exports.evidence import read_summary

    found = explain(read_summary(run_dir), field)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    for item in found:
        indent = "  " * item.depth
        typer.echo(f"{indent}{item.field}{f' = {item.value}' if item.value else ''}")
        typer.echo(f"{indent}    {item.how}")
        for source in item.sources:
            typer.echo(f"{indent}    - {source}")
