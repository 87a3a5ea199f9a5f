"""Find the runs of a programme below some directories, each part of each run once. `programme` adds them up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.files import ledger_files


class AuditedRun(Struct, frozen=True):
    """Holds the directory of a run, or of a part of it, and its audit."""

    directory: Path
    summary: AuditSummary


def find_runs(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the run directories among and below some directories, each once and sorted within each directory.

    Raises `LedgerError` for a directory that holds none.
    """
    found: dict[Path, None] = {}
    for place in places:
        root = Path(os.path.realpath(place))  # which raises nothing, also for a link to itself
        below = {root} if ledger_files(root) else {path.parent for path in root.rglob("node-*.attempt-*.jsonl")}
        if not below:
            raise LedgerError(f"{os.fspath(place)}: no run directory here or below (no file node-*.attempt-*.jsonl)")
        found |= dict.fromkeys(sorted(below))
    return list(found)


def summaries_of(places: Iterable[str | os.PathLike[str]]) -> list[tuple[Path, AuditSummary]]:
    """Return every run directory below some directories with its audit. Raises `LedgerError` for ledgers that cannot be
    read.
    """
    return [(directory, summarise(directory)) for directory in find_runs(places)]


def members_of(audited: Sequence[tuple[Path, AuditSummary]], name: str) -> list[tuple[Path, AuditSummary]]:
    """Return the runs of a programme in the order of their directories, with each part of each run once."""
    distinct, _ = distinct_runs([AuditedRun(*pair) for pair in audited if pair[1].run.programme == name])
    return [(one.directory, one.summary) for one in distinct]


def distinct_runs(members: Sequence[AuditedRun]) -> tuple[list[AuditedRun], list[str]]:
    """Return each part of each run once, and a warning for each copy that was left out.

    Directories with the same run id and overlapping times are copies, of which the one with the most records counts.
    Those of different times are parts of a run that went on elsewhere, and all count.
    """
    kept: list[AuditedRun] = []
    copies: list[str] = []
    for one in sorted(members, key=_records, reverse=True):
        same = next((other for other in kept if _is_copy(one, other)), None)
        if same is None:
            kept.append(one)
        else:
            run_id = one.summary.run.run_id
            copies.append(f"{one.directory} holds run {run_id} again, which is counted once, from {same.directory}")
    return sorted(kept, key=lambda one: one.directory), copies


def _is_copy(one: AuditedRun, other: AuditedRun) -> bool:
    mine, theirs = one.summary.period, other.summary.period
    same_time = mine.start_unix_s < theirs.end_unix_s and theirs.start_unix_s < mine.end_unix_s
    return one.summary.run.run_id == other.summary.run.run_id and same_time


def _records(one: AuditedRun) -> int:
    return sum(check.records for check in one.summary.verification.files)
