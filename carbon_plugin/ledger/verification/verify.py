"""Verify the ledgers of a run against each other, and against anchors that were kept elsewhere.

`file_check` checks a file by itself. The chain shows an edit by anybody who did not compute the chain again. Ledgers
that have recorded each other's heads show a chain that was computed again in some of them. Only an anchor, which was
kept elsewhere, shows that all of them were rewritten.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.held.copies import copies_among
from carbon_plugin.ledger.held.launches import RANK_0_FILES
from carbon_plugin.ledger.held.outline import find_events
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.reader import read_opening
from carbon_plugin.ledger.records import HEADS_EVENT
from carbon_plugin.ledger.verification.completeness import missing_of
from carbon_plugin.ledger.verification.file_check import ChainMark, CheckedLedger, FileCheck, PassedLedger
from carbon_plugin.ledger.verification.heads import heads_in
from carbon_plugin.spec.parsing.opening import open_ending

VerificationState = Literal["contradicted", "incomplete", "unsealed", "partly sealed", "verified"]
"""`contradicted`: there is a problem, which honest software does not make. `incomplete`: an end, a file or a node is
missing. `unsealed`: everything is there and agrees, but no anchor vouches for all files, so whoever can write the
directory may have rewritten it. `partly sealed`: anchors vouch for the first windows of each file. `verified`: anchors
vouch for all windows."""

_CHAIN = re.compile(rf"[0-9a-f]{{{chain.HEX_DIGITS}}}")
_EDGE_BYTES = 1 << 18
"""All nodes but the first write down heads as they begin and end, so only this many bytes at both ends of their files
are read an extra time."""


class AnchorCheck(Struct, frozen=True, kw_only=True):
    """Holds the place where an anchor was found. It vouches for the lines of `file` up to `line` of `lines`. `file` is
    None without a match.
    """

    anchor: str
    file: str | None
    line: int | None
    lines: int | None


class RunCheck(Struct, frozen=True, kw_only=True):
    """Holds the verification of a whole run.

    `ok` is False with any problem, here or in a file, or with an anchor without a match. What is `missing` is no
    problem, because honest runs lack it too.
    """

    files: list[FileCheck]
    anchors: list[AnchorCheck]
    problems: list[str]
    missing: list[str]

    @property
    def ok(self) -> bool:
        """Return whether nothing speaks against these ledgers."""
        return not self.all_problems

    @property
    def state(self) -> VerificationState:
        """Return in one word how far these ledgers can be believed."""
        if not self.ok:
            return "contradicted"
        if self.missing:
            return "incomplete"
        if not all(check.sealed_windows for check in self.files if check.windows) or not self.anchors:
            return "unsealed"
        whole = all(check.sealed_windows == check.windows for check in self.files)
        return "verified" if whole else "partly sealed"

    @property
    def all_problems(self) -> list[str]:
        """Return every problem as one line that begins with the name of its file."""
        in_files = [f"{check.file}: {problem}" for check in self.files for problem in check.problems]
        unmatched = [
            f"anchor {anchor.anchor} is not in any ledger of this run: lines were changed or removed since it was made"
            for anchor in self.anchors
            if anchor.file is None
        ]
        return in_files + self.problems + unmatched


def files_by_start(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the ledger files in the order in which they start, those without a readable first line last.

    Raises `LedgerError` if there is none.
    """
    paths = ledger_files(run_dir)
    if not paths:
        raise LedgerError(
            f"{os.fspath(run_dir)}: no ledger here (no file node-*.attempt-*.jsonl){_hint(Path(run_dir))}"
        )
    if len(paths) == 1:
        return paths
    openings = {path: read_opening(path) for path in paths}
    starts = {path: opening.started_unix_s if opening else math.inf for path, opening in openings.items()}
    return sorted(paths, key=starts.__getitem__)


def _hint(directory: Path) -> str:
    for ledger in sorted(directory.glob("*/node-*.attempt-*.jsonl")):
        return f"; did you mean {ledger.parent}?"
    return ""


def verify_run(run_dir: str | os.PathLike[str], anchors: Sequence[str] = ()) -> RunCheck:
    """Check every ledger of a run, and that each anchor is a chain of one of them.

    An anchor is the head of a ledger at some moment, 32 hex digits, as it was logged outside of the run directory.
    Raises `LedgerError` if there is no ledger, or an anchor is not 32 hex digits.
    """
    anchors = [checked_anchor(anchor) for anchor in anchors]
    paths = files_by_start(run_dir)
    identity = read_identity(run_dir)
    wanted = wanted_chains(paths, anchors)
    passed = []
    for path in paths:
        ledger = CheckedLedger(path, identity.run_id if identity else None, wanted)
        for _ in ledger.batches():
            pass
        passed.append(ledger.passed)
    return combine_checks(run_dir, passed, anchors)


def wanted_chains(paths: Iterable[Path], anchors: Sequence[str] = ()) -> frozenset[str]:
    """Return the chains to look for during the pass, so that no file is read twice: anchors, and heads that ledgers
    have recorded."""
    wanted = set(anchors)
    for path in paths:
        edge_bytes = None if path.name.startswith(RANK_0_FILES) else _EDGE_BYTES
        first: dict[str, str] = {}
        latest: dict[str, str] = {}
        for event in find_events(path, HEADS_EVENT, edge_bytes=edge_bytes):
            latest |= heads_in(event)
            first = {**latest, **first}
        wanted |= {head for heads in (first, latest) for head in heads.values() if _CHAIN.fullmatch(head)}
    return frozenset(wanted)


def combine_checks(
    run_dir: str | os.PathLike[str], ledgers: Sequence[PassedLedger], anchors: Sequence[str] = ()
) -> RunCheck:
    """Return the verification of a run from the finished passes over its files."""
    marks = _all_marks(Path(run_dir), ledgers)
    found = [_find_anchor(run_dir, ledgers, anchor) for anchor in anchors]
    known_ends: dict[str, set[str]] = {}
    for anchor in found:
        if anchor.file is not None:
            known_ends.setdefault(anchor.file, set()).add(anchor.anchor)
    for ledger in ledgers:
        for file, seen in ledger.witnessed.items():
            known_ends.setdefault(file, set()).update(witness.chain for witness in seen)
    sealed = _sealed_windows(ledgers, marks, found)
    return RunCheck(
        files=[
            msgspec.structs.replace(ledger.check, sealed_windows=sealed.get(ledger.check.file, 0)) for ledger in ledgers
        ],
        anchors=found,
        problems=[*_witnessed_problems(ledgers, marks), *_copies(ledgers)],
        missing=missing_of(ledgers, {file: frozenset(chains) for file, chains in known_ends.items()}),
    )


def _all_marks(run_dir: Path, ledgers: Sequence[PassedLedger]) -> dict[str, dict[str, ChainMark]]:
    """Return where each file states the chains that other ledgers have recorded of it.

    A file is read again once at most, for chains that the pass did not look for or did not find.
    """
    wanted: dict[str, set[str]] = {}
    for ledger in ledgers:
        for file, seen in ledger.witnessed.items():
            wanted.setdefault(file, set()).update(witness.chain for witness in seen)
    marks = {ledger.check.file: dict(ledger.marks) for ledger in ledgers}
    for file in wanted.keys() & marks.keys():
        if unknown := wanted[file] - marks[file].keys():
            lines = find_chains(run_dir / file, unknown)
            marks[file] |= {chain_hex: ChainMark(line, 0) for chain_hex, line in lines.items()}
    return marks


def _witnessed_problems(ledgers: Sequence[PassedLedger], marks: Mapping[str, Mapping[str, ChainMark]]) -> list[str]:
    """Return a problem for each file, or line of it, that another ledger has recorded and that is gone."""
    found: dict[str, None] = {}
    for ledger in ledgers:
        for file, seen in ledger.witnessed.items():
            for witness in seen:
                where = f"{ledger.check.file} line {witness.line}"
                if file not in marks:
                    found[f"{file}: missing, but {where} has seen it"] = None
                    break
                if witness.chain not in marks[file]:
                    found[f"{file}: does not hold chain {witness.chain}, which {where} has seen in it"] = None
                    break
    return list(found)


def _copies(ledgers: Sequence[PassedLedger]) -> list[str]:
    """Return a problem for each file whose first window is that of another file."""
    copies = copies_among((ledger.check.file, ledger.fingerprint) for ledger in ledgers)
    return [
        f"{copy}: begins with the window that {original} begins with: a copy, which counts for nothing"
        for copy, original in copies.items()
    ]


def _sealed_windows(
    ledgers: Sequence[PassedLedger], marks: Mapping[str, Mapping[str, ChainMark]], anchors: Sequence[AnchorCheck]
) -> dict[str, int]:
    """Return how many windows of each file an anchor vouches for, directly or through ledgers that it vouches for."""
    by_file = {ledger.check.file: ledger for ledger in ledgers}
    sealed: dict[str, ChainMark] = {}

    def seal(file: str, mark: ChainMark) -> None:
        if file in by_file and mark.line > sealed.get(file, ChainMark(0, 0)).line:
            sealed[file] = mark
            for other, seen in by_file[file].witnessed.items():
                for witness in seen:
                    found = marks.get(other, {}).get(witness.chain)
                    if witness.line <= mark.line and found is not None:
                        waiting.append((other, found))

    waiting = [
        (anchor.file, marks[anchor.file][anchor.anchor])
        for anchor in anchors
        if anchor.file is not None and anchor.anchor in marks[anchor.file]
    ]
    while waiting:
        seal(*waiting.pop())
    return {file: mark.windows for file, mark in sealed.items()}


def checked_anchor(text: str) -> str:
    """Return an anchor in lower case. Raises `LedgerError` if it is not 32 hex digits."""
    anchor = text.strip().lower()
    if not _CHAIN.fullmatch(anchor):
        raise LedgerError(f"anchor {text!r}: expected {chain.HEX_DIGITS} hex digits, the head of a ledger")
    return anchor


def find_chains(path: Path, wanted: set[str]) -> Mapping[str, int]:
    """Return the line numbers of the chains that a file states, by chain. It does not check that lines follow from each
    other, because a pass over the file did."""
    targets = {chain_hex.encode(): chain_hex for chain_hex in wanted}
    found = {}
    with open_ending(path) as file:
        for number, line in enumerate(file, 1):
            stated = targets.get(line[: chain.HEX_DIGITS])
            if stated is not None and line.endswith(b"\n"):
                found[stated] = number
    return found


def _find_anchor(run_dir: str | os.PathLike[str], ledgers: Sequence[PassedLedger], anchor: str) -> AnchorCheck:
    for ledger in ledgers:
        check = ledger.check
        mark = ledger.marks.get(anchor)
        line = mark.line if mark else None
        if line is None and (not check.intact or check.problems):  # the pass may have skipped this very line
            line = find_chains(Path(run_dir) / check.file, {anchor}).get(anchor)
        if line is not None:
            return AnchorCheck(anchor=anchor, file=check.file, line=line, lines=check.records)
    return AnchorCheck(anchor=anchor, file=None, line=None, lines=None)
