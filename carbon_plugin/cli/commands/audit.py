"""`carbon-plugin audit`: add up the ledgers of a run and write its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from carbon_plugin.cli.options import Argument, AsJson, Option, RunDirectory
from carbon_plugin.cli.terminal import echo, echo_json

INCOMPLETE = 3
"""The exit code of --verify if the ledgers that are there are right, and others are missing."""


def audit(
    run_dir: RunDirectory,
    field: Annotated[str | None, Argument("With --explain: a field of report.json, or its end.")] = None,
    out: Annotated[Path | None, Option("Where to write the report, if not into the run directory.")] = None,
    as_json: AsJson = False,
    verify: Annotated[
        bool,
        Option("Exit with 1 if the ledgers contradict themselves, with 3 if some are missing."),
    ] = False,
    anchor: Annotated[
        list[str] | None,
        Option("Ledger head that was logged elsewhere; implies --verify. Repeatable."),
    ] = None,
    sacct: Annotated[
        Path | None,
        Option("Output of sacct -P -o JobID,State,ElapsedRaw,AllocTRES: states allocated time that nobody observed."),
    ] = None,
    kubernetes: Annotated[
        Path | None,
        Option("The same from kubectl get pods,events -o json."),
    ] = None,
    explain: Annotated[bool, Option("Follow the numbers, or the one FIELD, to their sources; write nothing.")] = False,
) -> int:
    """Add up the ledgers of a run, check them, and write report.html, report.json and summary.txt."""
    from carbon_plugin.audit.report.text import render_text
    from carbon_plugin.audit.report.write import render_json, write_audit
    from carbon_plugin.errors import ReportError

    if explain:
        _explain(run_dir, field, as_json=as_json)
        return 0
    if field is not None:
        raise ReportError(f"{field}: a field is explained with --explain; only one run directory is audited at a time")
    if sacct is not None and kubernetes is not None:
        raise ReportError("--sacct and --kubernetes: one scheduler's account at a time")
    written = write_audit(run_dir, out, anchors=anchor or (), sacct=sacct, kubernetes=kubernetes)
    verification = written.summary.verification
    if as_json:
        echo(render_json(written.summary).decode(), end="")
    else:
        echo(render_text(written.summary))
        echo(f"report: {written.html}")
    if verify or anchor:
        for problem in verification.problems:
            echo(f"not verified: {problem}", error=True)
        for missing in verification.missing:
            echo(f"incomplete: {missing}", error=True)
        if not verification.ok:
            return 1
        if verification.missing:
            return INCOMPLETE
    return 0


def _explain(run_dir: Path, field: str | None, *, as_json: bool) -> None:

    from carbon_plugin.audit.explain.trace import explain
    from carbon_plugin.audit.exports.evidence import read_summary

    found = explain(read_summary(run_dir), field)
    if as_json:
        echo_json(found)
        return
    for item in found:
        indent = "  " * item.depth
        echo(f"{indent}{item.field}{f' = {item.value}' if item.value else ''}")
        echo(f"{indent}    {item.how}")
        for source in item.sources:
            echo(f"{indent}    - {source}")
