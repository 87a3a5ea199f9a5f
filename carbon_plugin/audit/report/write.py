"""Write an audit: `report.html` for people, `report.json` for programs, `summary.txt` for terminals and logs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from carbon_plugin.audit.allocation.kubernetes import read_kubernetes
from carbon_plugin.audit.allocation.reconcile import gpus_by_host, reconcile
from carbon_plugin.audit.allocation.slurm import read_sacct
from carbon_plugin.audit.report.page import render_html
from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.spec.parsing.saving import save


class WrittenAudit(Struct, frozen=True, kw_only=True):
    """The paths of the files that were written, and the audit itself."""

    html: Path
    json: Path
    text: Path
    summary: AuditSummary


def write_audit(
    run_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    *,
    anchors: Sequence[str] = (),
    sacct: Path | None = None,
    kubernetes: Path | None = None,
) -> WrittenAudit:
    """Audit a run and write the report into `out_dir`, by default the run directory itself.

    `sacct` and `kubernetes` are files with the scheduler's account of the run's jobs (`audit.allocation`), one at most.
    Existing reports are replaced, each in one step, so that a reader never sees half of one. Raises `LedgerError` for
    a run that cannot be read and `CarbonPluginError` for a place that cannot be written.
    """
    summary = _reconciled(summarise(run_dir, anchors), sacct, kubernetes)
    directory = Path(run_dir if out_dir is None else out_dir)
    written = WrittenAudit(
        html=directory / "report.html",
        json=directory / "report.json",
        text=directory / "summary.txt",
        summary=summary,
    )
    write_file(written.html, render_html(summary).encode(), "--out")
    write_file(written.json, render_json(summary), "--out")
    write_file(written.text, render_text(summary).encode(), "--out")
    return written


def write_file(path: Path, content: bytes, option: str = "--html") -> None:
    """Write a file in one step, so that a reader never sees half of it; missing folders are made.

    Raises `CarbonPluginError` for a place that cannot be written, naming the `option` that chooses another one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, content)
    except OSError as error:
        raise CarbonPluginError(
            f"{path}: the report cannot be written: {error.strerror or error}; choose another place with {option}"
        ) from error


def _reconciled(summary: AuditSummary, sacct: Path | None, kubernetes: Path | None) -> AuditSummary:
    """Return the summary with the scheduler's account, where there is one."""
    if sacct is not None:
        allocations, source = read_sacct(sacct), f"sacct, {sacct.name}"
    elif kubernetes is not None:
        hosts, until_s = gpus_by_host(summary), summary.period.end_unix_s
        allocations = read_kubernetes(kubernetes, gpus_by_host=hosts, until_unix_s=until_s)
        source = f"Kubernetes, {kubernetes.name}"
    else:
        return summary
    return msgspec.structs.replace(summary, reconciliation=reconcile(summary, allocations, source))


def render_json(summary: AuditSummary) -> bytes:
    """Return the whole summary as one JSON document."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
