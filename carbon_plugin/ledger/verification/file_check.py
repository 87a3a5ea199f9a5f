"""Check one ledger file in one pass: its chain, its windows and its totals. `verify` checks the files of a whole run.

A problem is something that honest software does not do (an edited line, windows that overlap, totals that do not add
up). A note is something that happens in honest runs and that a reader must know (killed, a gap).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from carbon_plugin.ledger.reader import Batch, LedgerStream
from carbon_plugin.ledger.records import Close, Record, Window
from carbon_plugin.ledger.verification.record_check import RecordCheck, WitnessedChain, end_of


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
    """One pass over a file that yields its records in `batches` and judges them on the way. `passed` is the result
    after the pass.

    `wanted` are chains, 32 hex digits each, to look for on the way.
    """

    def __init__(
        self, path: str | os.PathLike[str], run_id: str | None = None, wanted: frozenset[str] = frozenset()
    ) -> None:
        self._stream = LedgerStream(path, run_id)
        self._records = RecordCheck()
        self._wanted = {bytes.fromhex(chain_hex) for chain_hex in wanted}
        self._marks: dict[str, ChainMark] = {}
        self._waiting: list[ChainMark] = []

    @property
    def path(self) -> Path:
        """Return the path of the file."""
        return self._stream.path

    def batches(self) -> Iterator[Batch]:
        """Yield the records in batches, and judge them on the way."""
        for batch in self._stream.batches():
            if batch.records:
                if self._wanted.isdisjoint(batch.chains) and self._records.takes(batch):
                    self._tell_marks(batch.records)
                else:
                    self._feed_each(batch)
                yield batch

    def _feed_each(self, batch: Batch) -> None:
        for record, line, chain in zip(batch.records, batch.lines, batch.chains, strict=True):
            self._records.feed(record, line)
            self._tell_marks([record])
            if chain in self._wanted:
                mark = self._marks[chain.hex()] = ChainMark(line, self._records.sums.windows)
                self._waiting.append(mark)

    def _tell_marks(self, records: Iterable[Record]) -> None:
        """Tell the marks that wait for it the time of the first record with one."""
        if self._waiting:
            following = next((record for record in records if isinstance(record, Window | Close)), None)
            if following is not None:
                for mark in self._waiting:
                    mark.next_unix_s = end_of(following)
                self._waiting.clear()

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
