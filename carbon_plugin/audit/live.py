"""Show a run while it goes on, as lines of text: the sums of its ledgers so far, and the newest projection in the
ledgers.
"""

from __future__ import annotations

import os

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.audit.recent import RecentPower, RecentWindows
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.runs import state_of
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.reader import LedgerStream
from carbon_plugin.ledger.records import Projection
from carbon_plugin.show import wording
from carbon_plugin.spec.budget import BudgetLine
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.units import JOULES_PER_KWH

RECENT_S = 60.0
"""The present power is the mean over this many seconds, or over the last window where that is longer."""
EVENTS = 3
GPUS = 8


class LiveView(Struct, frozen=True, kw_only=True):
    """One view is what a reader sees of a run: a title, rows of label and text, and its state (`runs.state_of`)."""

    title: str
    state: str
    rows: list[tuple[str, str]]


def live_view(run_dir: str | os.PathLike[str]) -> LiveView:
    """Return the present state of a run according to its ledgers. Raises `LedgerError` as `summarise` does."""
    summary = summarise(run_dir)
    state, progress, period = state_of(summary), summary.progress, summary.period
    of = f" of {progress.total_steps:,}" if progress.total_steps else ""
    rows = [("state", f"{state}, {wording.duration(period.active_s)} recorded")]
    rows.append(("step", f"{progress.last_step:,}{of}"))
    if summary.steps is not None:
        predicted = summary.steps.predicted_step_time_s
        beside = f", predicted {wording.duration(predicted.value)}" if predicted else ""
        rows.append(("step time", f"{wording.duration(summary.steps.measured_step_time_s.value)}{beside}"))
    newest, recent = _newest(run_dir)
    rows += _power(recent)
    carbon = f", {phrases.total_phrase(summary)}" if summary.footprint else ""
    rows.append(("spent", f"{phrases.energy_text(summary.energy)}{carbon}"))
    if state != "running" and newest is not None:
        if newest.remaining_s:
            rows.append(("projection", "none, because the run has ended"))
        newest = None  # what is spent is all that there will be
    rows += _projected(newest)
    if summary.budget:
        rows.append(("budget", "; ".join(line.phrase for line in _against_budget(summary, newest))))
    measured = wording.percent(phrases.measured_share(summary))
    rows.append(("measured", f"{measured} of the energy; {phrases.gpus_phrase(summary.coverage)}"))
    rows += [("event", f"{event.kind}: {event.message}") for event in summary.events[-EVENTS:]]
    return LiveView(title=summary.run.name, state=state, rows=rows)


def summary_line(run_dir: str | os.PathLike[str]) -> str:
    """Return the present state of a run in one line that is short enough for the comment of a job. Raises `LedgerError`
    as `summarise` does.
    """
    summary = summarise(run_dir)
    progress, footprint = summary.progress, summary.footprint
    of = f" of {progress.total_steps:,}" if progress.total_steps else ""
    parts = [f"{summary.run.name}: {state_of(summary)}", f"step {progress.last_step:,}{of}"]
    parts.append(phrases.energy_text(summary.energy) if summary.energy.is_known else "energy unknown")
    if footprint is not None:
        figure, without = footprint.counted_kg, phrases.without_embodied(summary)
        said = f"{wording.carbon(figure.value)} ({wording.carbon_range(figure)})"
        parts.append(f"{said} {without}" if without else said)
    parts.append(f"{wording.percent(phrases.measured_share(summary))} measured")
    return ", ".join(parts)


def _power(recent: RecentPower | None) -> list[tuple[str, str]]:
    """Return the mean power of all machines and of single GPUs in the last windows."""
    if recent is None or recent.lasted_s <= 0:
        return []
    lasted = wording.duration(recent.lasted_s)
    unread = sum(watts is None for watts in recent.gpus_w.values())
    without = f", without {plural(unread, 'GPU')} that was not read" if unread else ""
    rows = [("power", f"{wording.power(recent.machines_w)} of all machines{without}, mean of the last {lasted}")]
    gpus = ["not read" if watts is None else wording.power(watts) for watts in recent.gpus_w.values()]
    more = f" and {len(gpus) - GPUS} more" if len(gpus) > GPUS else ""
    return rows + ([("GPUs", ", ".join(gpus[:GPUS]) + more)] if gpus else [])


def _against_budget(summary: AuditSummary, newest: Projection | None) -> list[BudgetLine]:
    """Return the lines of the budget. A projected amount replaces the spent one where it is known, unless the limit is
    already exceeded.
    """
    whole = {}
    if newest is not None and newest.energy_j is not None:
        whole["energy_kwh"] = newest.energy_j[1] / JOULES_PER_KWH
    if newest is not None and newest.carbon_kg is not None:
        whole["emissions_kg"] = newest.carbon_kg[1]
    lines = []
    for line in summary.budget:
        within = line.used is None or line.used <= line.limit
        if within and line.quantity in whole:
            lines.append(replace(line, used=whole[line.quantity], projected=True))
        else:
            lines.append(line)
    return lines


def _newest(run_dir: str | os.PathLike[str]) -> tuple[Projection | None, RecentPower | None]:
    """Return the newest projection of the whole run that the monitor recorded, and the power in the last windows."""
    newest: Projection | None = None
    recent = RecentWindows(RECENT_S)
    for path in ledger_files(run_dir):
        for record in LedgerStream(path):
            recent.hear(path.name, record)
            if isinstance(record, Projection) and (newest is None or record.at_unix_s > newest.at_unix_s):
                newest = record
    return newest, recent.power()


def _projected(newest: Projection | None) -> list[tuple[str, str]]:
    """Return the row for a projection."""
    if newest is None:
        return []
    parts = []
    energy, carbon = newest.energy, newest.carbon
    if energy is not None:
        parts.append(f"{wording.energy(energy.value)} ({wording.energy_range(energy)})")
    if carbon is not None:
        parts.append(wording.carbon(carbon.value))
    if newest.remaining_s is not None:
        parts.append(f"{wording.duration(newest.remaining_s)} to go")
    seen = "" if newest.nodes_seen >= newest.nodes else f", {newest.nodes_seen} of {plural(newest.nodes, 'node')} seen"
    return [("projection", ", ".join(parts) + seen)] if parts else []
