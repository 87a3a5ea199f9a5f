"""Can this ledger be believed: the chain, the windows, the totals, and an anchor that was kept elsewhere.

A problem is something that honest software does not do (an edited line, windows that overlap, totals that do not
add up). A note is something that happens in honest runs and that a reader must know (killed, a gap, no anchor).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.launches import RANK_0_FILES
from carbon_plugin.ledger.outline import find_events
from carbon_plugin.ledger.reader import LedgerStream, read_opening
from carbon_plugin.ledger.records import Close, Event, Manifest, Record, Window

# Event of a node that has read the other nodes' ledgers: data {"heads": {file name: chain}}. One anchor of its own
# file then stands for all of them, up to that moment.
HEADS_EVENT = "ledger_heads"

RESUMED_EVENT = "resumed"
"""Event of a node whose job has loaded a checkpoint while training: its steps may go back, once."""

_CHAIN = re.compile(rf"[0-9a-f]{{{chain.HEX_DIGITS}}}")

# Start times come from the wall clock, durations from a monotonic one: NTP slews the former by up to 500 ppm.
_CLOCK_TOLERANCE_S = 0.05
_CLOCK_TOLERANCE_SHARE = 1e-3
_MAX_FINDINGS = 20


class FileCheck(Struct, frozen=True, kw_only=True):
    """What was found in one file. `intact` speaks of the chain only; `closed` is the reason of an orderly end, None for
    a writer that was killed; `head` the chain at the last complete line."""

    file: str
    node: int | None
    attempt: int | None
    records: int
    intact: bool
    torn_tail: bool
    closed: str | None
    head: str
    problems: list[str]
    notes: list[str]


class AnchorCheck(Struct, frozen=True, kw_only=True):
    """Where an anchor was found. It vouches for the lines of `file` up to `line` of `lines`; no file, no match."""

    anchor: str
    file: str | None
    line: int | None
    lines: int | None


class RunCheck(Struct, frozen=True, kw_only=True):
    """Verification of a whole run. `ok` is False with any problem, here or in a file, or an anchor without a match."""

    files: list[FileCheck]
    anchors: list[AnchorCheck]
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against these ledgers."""
        return not self.all_problems

    @property
    def all_problems(self) -> list[str]:
        """Every problem as one readable line, with the file in front."""
        in_files = [f"{check.file}: {problem}" for check in self.files for problem in check.problems]
        unmatched = [
            f"anchor {anchor.anchor} is not in any ledger of this run: lines were changed or removed since it was made"
            for anchor in self.anchors
            if anchor.file is None
        ]
        return in_files + self.problems + unmatched


class PassedLedger(Struct, frozen=True, kw_only=True):
    """What a whole pass over a file has found.

    `heads` are the latest chains of other files that it has written down: file name -> (chain, line here). `chains` are
    those of the wanted chains that it states itself, with their lines.
    """

    check: FileCheck
    heads: dict[str, tuple[str, int]]
    chains: dict[str, int]


class CheckedLedger:
    """One pass over a file that gives its records and judges them on the way; `passed` is the result after the pass.

    `wanted` are chains, 32 hex digits each, to look for on the way.
    """

    def __init__(
        self, path: str | os.PathLike[str], run_id: str | None = None, wanted: frozenset[str] = frozenset()
    ) -> None:
        self._stream = LedgerStream(path, run_id)
        self._records = _RecordCheck()
        self._wanted = {bytes.fromhex(chain_hex) for chain_hex in wanted}
        self._chains: dict[str, int] = {}

    @property
    def path(self) -> Path:
        """The file."""
        return self._stream.path

    def __iter__(self) -> Iterator[Record]:
        stream, records, wanted = self._stream, self._records, self._wanted
        for record in stream:
            records.feed(record, stream.lines)
            if wanted and stream.chain in wanted:
                self._chains[stream.head] = stream.lines
            yield record

    @property
    def passed(self) -> PassedLedger:
        """What was found."""
        return PassedLedger(check=self.check, heads=self._records.heads, chains=self._chains)

    @property
    def check(self) -> FileCheck:
        """What was found so far."""
        stream, records = self._stream, self._records
        notes = list(records.notes)
        if stream.torn_tail:
            notes.append("the last line is incomplete: its writer was killed while writing it; it is left out")
        if not stream.lines:
            notes.append("no complete record: the writer was killed before its first one")
        elif records.closed is None:
            notes.append("no closing record: the writer was killed, or the run goes on")
        return FileCheck(
            file=stream.path.name,
            node=records.manifest.node if records.manifest else None,
            attempt=records.manifest.attempt if records.manifest else None,
            records=stream.lines,
            intact=stream.intact,
            torn_tail=stream.torn_tail,
            closed=records.closed.reason if records.closed else None,
            head=stream.head,
            problems=[*stream.problems, *records.problems],
            notes=notes,
        )


def heads_in(event: Event) -> dict[str, str]:
    """Chains by file name that a node has written down about the ledgers of others."""
    heads = event.data.get("heads", {})
    return {str(file): str(head) for file, head in heads.items()} if isinstance(heads, Mapping) else {}


class _RecordCheck:
    """What the records of one file say about each other."""

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self.closed: Close | None = None
        self.heads: dict[str, tuple[str, int]] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._keys: set[str] = set()
        self._last: Window | None = None
        self._resumed = False
        self._windows = 0
        self._steps = 0
        self._energies_j: list[float] = []

    def feed(self, record: Record, line: int) -> None:
        if self.closed is not None:
            self._problem(f"line {line} comes after the closing record")
        if isinstance(record, Manifest):
            self._feed_manifest(record, line)
        elif isinstance(record, Window):
            self._feed_window(record, line)
        elif isinstance(record, Close):
            self._feed_close(record, line)
        elif isinstance(record, Event) and record.kind == HEADS_EVENT:
            self.heads.update({file: (head, line) for file, head in heads_in(record).items()})
        elif isinstance(record, Event) and record.kind == RESUMED_EVENT:
            self._resumed = True

    def _feed_manifest(self, manifest: Manifest, line: int) -> None:
        former = self.manifest
        if former and (manifest.node, manifest.attempt, manifest.run_id) != (
            former.node,
            former.attempt,
            former.run_id,
        ):
            self._problem(f"line {line}: a manifest of node {manifest.node} attempt {manifest.attempt} in this file")
        self.manifest = manifest
        self._keys |= {device.key for device in manifest.devices}

    def _feed_window(self, window: Window, line: int) -> None:
        last = self._last
        expected = 0 if last is None else last.index + 1
        if window.index != expected:
            self._problem(f"line {line}: window {window.index} where window {expected} should be")
        if not (window.duration_s >= 0 and math.isfinite(window.start_unix_s)):
            self._problem(f"line {line}: window {window.index} lasts {window.duration_s} s")
        if last is not None:
            gap_s = window.start_unix_s - (last.start_unix_s + last.duration_s)
            tolerance_s = _CLOCK_TOLERANCE_S + _CLOCK_TOLERANCE_SHARE * last.duration_s
            if gap_s < -tolerance_s:
                self._problem(f"line {line}: window {window.index} begins {-gap_s:.3f} s before the one before it ends")
            elif gap_s > tolerance_s:
                self._note(f"no energy is known for {gap_s:.3f} s before window {window.index}")
            back = window.last_step < last.last_step
            if back and not self._resumed:
                self._problem(f"line {line}: step {window.last_step} comes after step {last.last_step}")
            self._resumed &= not back
        for energy in window.energies:
            if energy.key not in self._keys:
                self._problem(f"line {line}: energy of device {energy.key}, which no manifest names")
            if energy.energy_j is None:
                if energy.kind != "absent":
                    self._problem(f"line {line}: device {energy.key} has no energy but kind {energy.kind}")
            elif energy.energy_j < 0:
                self._problem(f"line {line}: device {energy.key} has {energy.energy_j} J")
            else:
                self._energies_j.append(energy.energy_j)
        self._energies_j = [math.fsum(self._energies_j)]
        self._last = window
        self._windows += 1
        self._steps += window.steps

    def _feed_close(self, close: Close, line: int) -> None:
        self.closed = close
        energy_j = math.fsum(self._energies_j)
        for name, stated, summed in (
            ("windows", close.windows, self._windows),
            ("steps", close.steps, self._steps),
        ):
            if stated != summed:
                self._problem(f"line {line}: closes with {stated} {name}, but the file has {summed}")
        # Sums of floats in another order differ in the last digits.
        if not math.isclose(close.energy_j, energy_j, rel_tol=1e-9, abs_tol=1e-6):
            self._problem(f"line {line}: closes with {close.energy_j} J, but the windows add up to {energy_j} J")

    def _problem(self, text: str) -> None:
        _add_bounded(self.problems, text, "problems")

    def _note(self, text: str) -> None:
        _add_bounded(self.notes, text, "notes")


def _add_bounded(findings: list[str], text: str, what: str) -> None:
    if len(findings) < _MAX_FINDINGS:
        findings.append(text)
    elif len(findings) == _MAX_FINDINGS:
        findings.append(f"more {what} of this kind are left out")


def files_by_start(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Ledger files in the order in which they start; those without a readable first line last. Raises `LedgerError`
    if there is none."""
    paths = ledger_files(run_dir)
    if not paths:
        raise LedgerError(
            f"{os.fspath(run_dir)}: no ledger here (no file node-*.attempt-*.jsonl){_hint(Path(run_dir))}"
        )
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
        for _ in ledger:
            pass
        passed.append(ledger.passed)
    return combine_checks(run_dir, passed, anchors)


def wanted_chains(paths: Iterable[Path], anchors: Sequence[str] = ()) -> frozenset[str]:
    """Chains to look for during the pass, so that no file is read twice: anchors, and what rank 0 has written down."""
    wanted = set(anchors)
    for path in paths:
        if path.name.startswith(RANK_0_FILES):
            heads: dict[str, str] = {}
            for event in find_events(path, HEADS_EVENT):
                heads |= heads_in(event)
            wanted |= {head for head in heads.values() if _CHAIN.fullmatch(head)}
    return frozenset(wanted)


def combine_checks(
    run_dir: str | os.PathLike[str], ledgers: Sequence[PassedLedger], anchors: Sequence[str] = ()
) -> RunCheck:
    """The verification of a run from the finished passes over its files."""
    by_file = {ledger.check.file: ledger for ledger in ledgers}
    problems = []
    for origin, ledger in by_file.items():
        for file, (head, line) in ledger.heads.items():
            if file not in by_file:
                problems.append(f"{file}: missing, but {origin} line {line} has seen it")
            elif head not in by_file[file].chains and head not in find_chains(Path(run_dir) / file, {head}):
                problems.append(f"{file}: does not hold chain {head}, which {origin} line {line} has seen in it")
    return RunCheck(
        files=[ledger.check for ledger in ledgers],
        anchors=[_find_anchor(run_dir, ledgers, anchor) for anchor in anchors],
        problems=problems,
    )


def checked_anchor(text: str) -> str:
    """An anchor in lower case. Raises `LedgerError` if it is not 32 hex digits."""
    anchor = text.strip().lower()
    if not _CHAIN.fullmatch(anchor):
        raise LedgerError(f"anchor {text!r}: expected {chain.HEX_DIGITS} hex digits, the head of a ledger")
    return anchor


def find_chains(path: Path, wanted: set[str]) -> Mapping[str, int]:
    """Line numbers of the chains that a file states, without checking that they follow (a pass over it did)."""
    targets = {chain_hex.encode(): chain_hex for chain_hex in wanted}
    found = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            stated = targets.get(line[: chain.HEX_DIGITS])
            if stated is not None and line.endswith(b"\n"):
                found[stated] = number
    return found


def _find_anchor(run_dir: str | os.PathLike[str], ledgers: Sequence[PassedLedger], anchor: str) -> AnchorCheck:
    for ledger in ledgers:
        check = ledger.check
        line = ledger.chains.get(anchor)
        if line is None and not check.intact:  # the pass may have stumbled over the very line
            line = find_chains(Path(run_dir) / check.file, {anchor}).get(anchor)
        if line is not None:
            return AnchorCheck(anchor=anchor, file=check.file, line=line, lines=check.records)
    return AnchorCheck(anchor=anchor, file=None, line=None, lines=None)
