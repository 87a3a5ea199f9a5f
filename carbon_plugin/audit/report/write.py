"""Writes an audit: `report.html` for people, `report.json` for programs, `summary.txt` for terminals and logs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.audit.allocation.kubernetes import read_kubernetes
from carbon_plugin.audit.allocation.reconcile import gpus_by_host, reconcile
from carbon_plugin.audit.allocation.slurm import read_sacct
from carbon_plugin.audit.report import narrative, view
from carbon_plugin.audit.report.charts import charts_of
from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.report.verdict import verdict_word
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.show import wording
from carbon_plugin.show.drawing import SCOPE_NAMES
from carbon_plugin.spec.amounts import plural

_TEMPLATE = "report.html.j2"
_LISTED_DEVICES = 64
_LISTED_FILES = 64
_LISTED_EVENTS = 200


class WrittenAudit(Struct, frozen=True, kw_only=True):
    """Where the audit was written, and what it says."""

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
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(written.html, render_html(summary).encode())
        _replace(written.json, render_json(summary))
        _replace(written.text, render_text(summary).encode())
    except OSError as error:
        raise CarbonPluginError(
            f"{directory}: the report cannot be written: {error.strerror or error}; choose another place with --out"
        ) from error
    return written


def _reconciled(summary: AuditSummary, sacct: Path | None, kubernetes: Path | None) -> AuditSummary:
    """The summary with the scheduler's account, where there is one."""
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
    """The whole summary as one JSON document."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def render_html(summary: AuditSummary) -> str:
    """The report as one page that needs nothing from outside."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("carbon_plugin.audit.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": wording.plain,
        "energy": wording.energy,
        "figure_energy_span": lambda figure: wording.energy_range(figure.low, figure.high, figure.value),
        "carbon": wording.carbon,
        "carbon_range": wording.carbon_range,
        "power": wording.power,
        "duration": wording.duration,
        "duration_range": wording.duration_range,
        "device_hours": wording.device_hours,
        "percent": wording.percent,
        "off_by": wording.off_by,
        "moment": wording.moment,
        "plural": plural,
        "meters": view.meters_phrase,
        "energy_how": view.energy_how,
        "gpus": view.gpus_phrase,
    }
    return environment.get_template(_TEMPLATE).render(_context(summary))


def _context(summary: AuditSummary) -> dict[str, Any]:
    events = sum(summary.event_counts.values())
    return {
        "s": summary,
        "energy_span": view.energy_span,
        "verdict": verdict_word(summary.verification).lower(),
        "charts": charts_of(summary),
        "subtitle": narrative.subtitle(summary),
        "opening": narrative.opening(summary),
        "warnings": narrative.warnings(summary),
        "measured_share": view.measured_share(summary),
        "steps_basis": view.steps_basis(summary.steps) if summary.steps else "",
        "energy_badge": view.energy_quality(summary.energy),
        "phases": view.phases(summary),
        "rung_notes": view.rung_notes(summary),
        "scope_names": SCOPE_NAMES,
        "embodied_how": view.embodied_how(summary),
        "beside": view.beside_rows(summary),
        "grid_g_per_kwh": view.grid_g_per_kwh(summary),
        "provenance": view.provenance(summary),
        "forecast_rows": view.forecast_rows(summary),
        "causes": view.cause_rows(summary),
        "effective": view.effective_rows(summary),
        "devices": summary.devices[:_LISTED_DEVICES],
        "more_devices": max(0, len(summary.devices) - _LISTED_DEVICES),
        "events": summary.events[:_LISTED_EVENTS],
        "more_events": max(0, events - _LISTED_EVENTS),
        "files": summary.verification.files[:_LISTED_FILES],
        "more_files": max(0, len(summary.verification.files) - _LISTED_FILES),
        "versions": ", ".join(f"{name} {version}" for name, version in summary.run.versions.items()),
    }


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
