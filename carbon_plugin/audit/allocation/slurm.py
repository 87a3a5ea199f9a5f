"""Read what Slurm gave a job from the output of `sacct`.

`audit.allocation.kubernetes` reads pods, and `audit.allocation.reconcile` compares both with the ledgers of a run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from carbon_plugin.audit.allocation.gpu_resources import MOST_GPUS, AllocatedGpus, slice_share
from carbon_plugin.audit.findings.reserved import Allocation
from carbon_plugin.errors import ReportError
from carbon_plugin.spec.numbers.units import SECONDS_PER_YEAR
from carbon_plugin.spec.parsing.boundary import EARLIEST_UNIX_S, LATEST_UNIX_S, read_text, shown, whole_number
from carbon_plugin.spec.parsing.limits import MOST_RUN_S

_COLUMNS = ("JobID", "AllocTRES")
_FREE_TEXT = ("JobName", "Comment", "AdminComment", "SystemComment", "WorkDir", "SubmitLine")
"""Users fill these columns, so that the separator may stand in them."""

_GPUS = re.compile(r"gres/gpu(?::(?P<kind>[^=,]+))?=(?P<count>[^,]*)")
_ELAPSED = re.compile(r"(?:([0-9]{1,6})-)?([0-9]{1,9}):([0-9]{2}):([0-9]{2})")


def read_sacct(path: Path) -> list[Allocation]:
    """Return the allocations in the output of `sacct -P -o JobID,State,Start,End,ElapsedRaw,AllocTRES` (`-D` for
    requeued jobs).

    Steps ("123.batch", "123.0") are part of their job and are left out, and so are jobs that were never started. The
    number of GPUs is that of gres/gpu in AllocTRES. sacct quotes nothing, so a quotation mark is an ordinary character.
    Raises `ReportError` naming the line for any other file.
    """
    lines = [line.rstrip("\r") for line in read_text(path, ReportError).split("\n")]
    end = "|" if lines[0].endswith("|") else ""  # sacct -p ends each line with a separator
    header = lines[0].removesuffix(end).split("|")
    if not set(_COLUMNS) <= set(header) or not {"ElapsedRaw", "Elapsed"} & set(header):
        raise ReportError(
            f"{path}: expected the output of sacct -P with a header and the columns JobID, ElapsedRaw and AllocTRES"
        )
    found: dict[tuple[object, ...], Allocation] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        row = _row(header, line.removesuffix(end).split("|"), place)
        if not row["JobID"] or "." in row["JobID"]:
            continue
        duration_s = _elapsed_s(row, place)
        if duration_s > 0:
            # Outputs that were put together hold the same start of the same job twice.
            key = (row["JobID"], row["Start"]) if row.get("Start") else (number,)
            found[key] = _allocation(row, duration_s, place)
    return list(found.values())


def _row(header: list[str], cells: list[str], place: str) -> Mapping[str, str]:
    """Return a row by column. Only one column is free text. A separator in it makes more cells than columns, which are
    joined again.
    """
    more = len(cells) - len(header)
    free = [index for index, name in enumerate(header) if name in _FREE_TEXT]
    if more > 0 and len(free) == 1:
        (at,) = free
        cells = [*cells[:at], "|".join(cells[at : at + more + 1]), *cells[at + more + 1 :]]
    elif more:
        raise ReportError(f"{place}: {len(cells)} cells, expected {len(header)} as in the header")
    return dict(zip(header, cells, strict=True))


def _allocation(row: Mapping[str, str], duration_s: float, place: str) -> Allocation:
    held = _gpus_of_tres(row["AllocTRES"], place)
    return Allocation(
        name=f"job {row['JobID']}",
        state=next(iter((row.get("State") or "").split()), "UNKNOWN"),
        gpus=held.gpus,
        duration_s=duration_s,
        start_unix_s=_moment_s(row.get("Start") or ""),
        sized=held.sized,
        notes=list(held.notes),
    )


def _moment_s(text: str) -> float | None:
    """Return a moment such as 2025-11-03T10:00:00 as Unix s, or None for "Unknown". A moment without a zone is UTC,
    which sacct writes with TZ=UTC in its environment.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return moment_s if EARLIEST_UNIX_S <= moment_s <= LATEST_UNIX_S else None


def _gpus_of_tres(tres: str, place: str) -> AllocatedGpus:
    """Return the GPUs of "cpu=64,gres/gpu=8,gres/gpu:h100=8,mem=1T,node=1".

    GPUs are counted by kind where a kind is a MIG slice. Otherwise the total counts, or the sum over kinds without a
    total.
    """
    counts: dict[str | None, int] = {}
    for found in _GPUS.finditer(tres):
        count = whole_number(found["count"])
        if count is None or count > MOST_GPUS:
            raise ReportError(
                f"{place}: AllocTRES has {shown(found[0])}, expected a number of GPUs up to {MOST_GPUS:,}"
            )
        counts[found["kind"]] = count
    kinds = {kind: count for kind, count in counts.items() if kind is not None}
    shares = {kind: slice_share(kind) for kind in kinds}
    total = counts.get(None, sum(kinds.values()))
    if not any(shares.values()):
        return AllocatedGpus(float(total))
    sliced = sum(count * (shares[kind] or 1.0) for kind, count in kinds.items())
    notes = tuple(f"{kinds[kind]} x gpu:{kind}, {share:.3g} of a GPU each" for kind, share in shares.items() if share)
    return AllocatedGpus(sliced + max(0, total - sum(kinds.values())), sized=True, notes=notes)


def _elapsed_s(row: Mapping[str, str], place: str) -> float:
    """Return the seconds of ElapsedRaw, or of Elapsed as [days-]hours:minutes:seconds."""
    raw, words = row.get("ElapsedRaw", ""), row.get("Elapsed", "")
    seconds = whole_number(raw)
    if seconds is None and (parts := _ELAPSED.fullmatch(words)):
        days, hours, minutes, rest = (int(part or 0) for part in parts.groups())
        seconds = ((24 * days + hours) * 60 + minutes) * 60 + rest
    if seconds is None:
        raise ReportError(f"{place}: job {row['JobID']} has ElapsedRaw {shown(raw or words)}, expected seconds")
    if seconds > MOST_RUN_S:
        years = MOST_RUN_S / SECONDS_PER_YEAR
        raise ReportError(f"{place}: job {row['JobID']} ran for {seconds:,} s, expected at most {years:.0f} years")
    return float(seconds)
