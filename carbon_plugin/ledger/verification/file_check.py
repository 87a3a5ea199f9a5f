"""Check one ledger file in one pass: its chain, its windows and its totals. `verify` checks the files of a whole run.

A problem is something that honest software does not do (an edited line, windows that overlap, totals that do not add
up). A note is something that happens in honest runs and that a reader must know (killed, a gap).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from carbon_plugin.ledger.held.copies import fingerprint_of
from carbon_plugin.ledger.held.launches import offsets_in
from carbon_plugin.ledger.reader import LedgerStream
from carbon_plugin.ledger.records import HEADS_EVENT, RESUMED_EVENT, Close, Event, Manifest, Record, Window
from carbon_plugin.ledger.sums import RunningSums
from carbon_plugin.ledger.verification.heads import heads_in, is_complete

# Start times come from the wall clock, which NTP slews by up to 500 ppm, and durations from a monotonic clock.
_CLOCK_TOLERANCE_S = 0.05
_CLOCK_TOLERANCE_SHARE = 1e-3
_MAX_FINDINGS = 20


class FileCheck(Struct, frozen=True, kw_only=True):
    """Holds what was found in one file.

    `intact` is about the chain only. `closed` is the reason of an orderly end, or None for a writer that was killed.
    `head` is the chain at the last complete line. Of its `windows`, an anchor vouches for the first `sealed_windows`,
    by itself or through what another ledger has written down.
    """

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
    windows: int = 0
    sealed_windows: int = 0


class ChainMark(Struct):
    """Holds the place where a file states a chain: its line, the windows up to there, and the time of the next record,
    Unix s.
    """

    line: int
    windows: int
    next_unix_s: float | None = None


class WitnessedChain(Struct, frozen=True):
    """Names a chain of another file that a file has written down: in which line, when, and whether it was that file's
    end.
    """

    chain: str
    line: int
    at_unix_s: float
    complete: bool


class PassedLedger(Struct, frozen=True, kw_only=True):
    """Holds what a whole pass over a file has found.

    `witnessed` are the first and the latest chain of each other file that it has written down. `marks` are the wanted
    chains that it states itself. `place` is its host and node, and `nodes` how many nodes it says that there are.
    `extent` is the time from its start to its last record. `fingerprint` is that of its first window with energy.
    `offsets_s` are the clock offsets of other files that it has noticed.
    """

    check: FileCheck
    witnessed: dict[str, list[WitnessedChain]]
    marks: dict[str, ChainMark]
    place: tuple[str, int]
    nodes: int
    extent: tuple[float, float]
    fingerprint: str | None
    offsets_s: dict[str, float]


class CheckedLedger:
    """One pass over a file that yields its records and judges them on the way. `passed` is the result after the pass.

    `wanted` are chains, 32 hex digits each, to look for on the way.
    """

    def __init__(
        self, path: str | os.PathLike[str], run_id: str | None = None, wanted: frozenset[str] = frozenset()
    ) -> None:
        self._stream = LedgerStream(path, run_id)
        self._records = _RecordCheck()
        self._wanted = {bytes.fromhex(chain_hex) for chain_hex in wanted}
        self._marks: dict[str, ChainMark] = {}

    @property
    def path(self) -> Path:
        """Return the path of the file."""
        return self._stream.path

    def __iter__(self) -> Iterator[Record]:
        stream, records, wanted = self._stream, self._records, self._wanted
        waiting: list[ChainMark] = []
        for record in stream:
            records.feed(record, stream.lines)
            if waiting and isinstance(record, Window | Close):
                for mark in waiting:
                    mark.next_unix_s = end_of(record)
                waiting.clear()
            if wanted and stream.chain in wanted:
                self._marks[stream.head] = ChainMark(stream.lines, records.sums.windows)
                waiting.append(self._marks[stream.head])
            yield record

    @property
    def passed(self) -> PassedLedger:
        """Return what the pass has found."""
        records, manifest = self._records, self._records.first
        return PassedLedger(
            check=self.check,
            witnessed=records.witnessed,
            marks=self._marks,
            place=(manifest.host_key, manifest.node) if manifest else ("", -1),
            nodes=manifest.nodes if manifest else 0,
            extent=(manifest.started_unix_s, records.end_unix_s) if manifest else (math.inf, -math.inf),
            fingerprint=records.fingerprint,
            offsets_s=records.offsets_s,
        )

    @property
    def check(self) -> FileCheck:
        """Return what was found so far."""
        stream, records = self._stream, self._records
        notes = list(records.notes)
        if stream.torn_tail:
            notes.append("the last line is incomplete: its writer was killed while writing it; it is left out")
        if not stream.lines:
            notes.append("no complete record: the writer was killed before its first one")
        elif records.closed is None:
            notes.append("no closing record: the writer was killed, the end was cut off, or the run goes on")
        return FileCheck(
            file=stream.path.name,
            node=records.first.node if records.first else None,
            attempt=records.first.attempt if records.first else None,
            records=stream.lines,
            intact=stream.intact,
            torn_tail=stream.torn_tail,
            closed=records.closed.reason if records.closed else None,
            head=stream.head,
            problems=[*stream.problems, *records.problems],
            notes=notes,
            windows=records.sums.windows,
        )


def end_of(record: Window | Close) -> float:
    """Return the earliest moment at which a record was written, Unix s by the clock of its node."""
    return record.at_unix_s if isinstance(record, Close) else record.start_unix_s + record.duration_s


class _RecordCheck:
    """Compares the records of one file with each other."""

    def __init__(self) -> None:
        self.first: Manifest | None = None
        self.closed: Close | None = None
        self.witnessed: dict[str, list[WitnessedChain]] = {}
        self.offsets_s: dict[str, float] = {}
        self.fingerprint: str | None = None
        self.end_unix_s = 0.0
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.sums = RunningSums()
        self._factors: tuple[float | None, float | None] = (None, None)
        self._last: Window | None = None
        self._resumed = False

    def feed(self, record: Record, line: int) -> None:
        if self.closed is not None:
            self._problem(f"line {line} comes after the closing record")
        if isinstance(record, Window):
            self._feed_window(record, line)
        elif isinstance(record, Manifest):
            self._feed_manifest(record, line)
        elif isinstance(record, Close):
            self._feed_close(record, line)
        elif isinstance(record, Event):
            self._feed_event(record, line)

    def _feed_event(self, event: Event, line: int) -> None:
        if event.kind == HEADS_EVENT:
            complete = is_complete(event)
            for file, head in heads_in(event).items():
                seen = WitnessedChain(head, line, event.at_unix_s, complete)
                self.witnessed[file] = [*self.witnessed.get(file, [])[:1], seen]
        elif event.kind == RESUMED_EVENT:
            self._resumed = True
        else:
            self.offsets_s |= offsets_in(event)

    def _feed_manifest(self, manifest: Manifest, line: int) -> None:
        former = self.first
        if former is None:
            self.first = manifest
            self.end_unix_s = manifest.started_unix_s
        elif (manifest.node, manifest.attempt, manifest.run_id) != (former.node, former.attempt, former.run_id):
            self._problem(f"line {line}: a manifest of node {manifest.node} attempt {manifest.attempt} in this file")
        self._factors = _stated_factors(manifest)

    def _feed_window(self, window: Window, line: int) -> None:
        last = self._last
        expected = 0 if last is None else last.index + 1
        if window.index != expected:
            self._problem(f"line {line}: window {window.index} where window {expected} should be")
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
        else:
            self.fingerprint = fingerprint_of(window)
        pue, intensity = self._factors
        if pue is not None and window.pue is not None and not math.isclose(window.pue, pue, rel_tol=1e-9):
            self._problem(f"line {line}: window {window.index} has PUE {window.pue:g}, its manifest {pue:g}")
        stated = window.intensity_g_per_kwh if window.intensity_origin == "static" else None
        if intensity is not None and stated is not None and not math.isclose(stated, intensity, rel_tol=1e-9):
            self._problem(f"line {line}: window {window.index} has {stated:g} g/kWh, its manifest {intensity:g}")
        self._last = window
        self.end_unix_s = max(self.end_unix_s, end_of(window))
        self.sums.add(window)

    def _feed_close(self, close: Close, line: int) -> None:
        self.closed = close
        summed = self.sums
        pairs = [("windows", close.windows, summed.windows), ("steps", close.steps, summed.steps)]
        if close.sums is not None:
            found = msgspec.structs.asdict(summed.sums)
            pairs += [(name, value, found[name]) for name, value in msgspec.structs.asdict(close.sums).items()]
        for name, stated, total in pairs:
            # Sums of floats that are added in another order differ in the last digits.
            if not math.isclose(stated, total, rel_tol=1e-9, abs_tol=1e-6):
                self._problem(
                    f"line {line}: closes with {stated:,} {_SUMS.get(name, name)}, but the file has {total:,}"
                )
        if not math.isclose(close.energy_j, summed.energy_j, rel_tol=1e-9, abs_tol=1e-6):
            self._problem(f"line {line}: closes with {close.energy_j} J, but the windows add up to {summed.energy_j} J")

    def _problem(self, text: str) -> None:
        _add_bounded(self.problems, text, "problems")

    def _note(self, text: str) -> None:
        _add_bounded(self.notes, text, "notes")


_SUMS = {
    "duration_s": "s of windows",
    "low_j": "J as the low of the range",
    "high_j": "J as the high of the range",
    "estimated_j": "J of estimates",
    "emitting": "J g/kWh of emissions",
}


def _stated_factors(manifest: Manifest) -> tuple[float | None, float | None]:
    """Return PUE and intensity of a manifest's factors, as far as they are there.

    A manifest that does not name its file may come from another program than the monitor, which writes a new manifest
    whenever the factors change. Its factors are not compared.
    """
    if not manifest.file:
        return None, None
    pue = _number_at(manifest.factors, "pue", "value")
    return pue, _number_at(manifest.factors, "intensity", "figure", "value")


def _number_at(document: object, *keys: str) -> float | None:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return float(document) if isinstance(document, int | float) and abs(document) < 1e300 else None


def _add_bounded(findings: list[str], text: str, what: str) -> None:
    if len(findings) < _MAX_FINDINGS:
        findings.append(text)
    elif len(findings) == _MAX_FINDINGS:
        findings.append(f"more {what} of this kind are left out")
