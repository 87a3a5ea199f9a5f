"""Read ledger files and check their chain on the way. `ledger/verification` judges the content of the records."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.codec import Opening, decode_opening, decode_record, decode_records, decoder_for
from carbon_plugin.ledger.columns import WindowColumns, columns_of, columns_of_each
from carbon_plugin.ledger.files import is_own_name, ledger_files, ledger_name
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.possible import RecordGate
from carbon_plugin.ledger.records import LEDGER_VERSION, Close, Manifest, Record, RunIdentity, Window
from carbon_plugin.spec.parsing.opening import open_ending

_MAX_PROBLEMS = 20
_BUFFER_BYTES = 1 << 18
"""Lines of windows have 1 to 2 KB, so that a read of the default 8 KB would bring only a few of them."""

BATCH_BYTES = 1 << 19
"""Lines of so many bytes are read and checked together, some 350 windows of eight GPUs. Their records and arrays fit
into the cache of a processor, and long lines, such as those of the heads of thousands of files, stay few."""


class LedgerFile(Struct, frozen=True, kw_only=True):
    """Holds a whole ledger file.

    `intact` means that every complete line follows from the one before it. A torn last line (of a writer that was
    killed) does not break it. `head` is the chain at the last complete line.
    """

    path: Path
    records: list[Record]
    intact: bool
    problems: list[str]
    torn_tail: bool
    head: str


class LedgerRun(Struct, frozen=True, kw_only=True):
    """Holds all ledger files of one run directory. `identity` is None if `run.json` is missing."""

    identity: RunIdentity | None
    files: list[LedgerFile]


class Batch(Struct, frozen=True, kw_only=True):
    """Holds the records of consecutive lines, each with the number of its line and its chain.

    `columns` are all windows among them, where nothing is wrong with any record and the windows name the same devices.
    No manifest is then among the `others`, which are not windows, and a closing record can only be the last record.
    Else `columns` is None, and the records are to be taken one by one.
    """

    records: list[Record]
    lines: Sequence[int]
    chains: Sequence[bytes]
    columns: WindowColumns | None = None
    others: Sequence[Record] = ()

    @property
    def parts(self) -> Iterator[WindowColumns | Record]:
        """Yield the windows as columns, and the other records. Only manifests keep their place among the windows,
        because each one holds for the windows that follow."""
        if self.columns is not None:
            yield self.columns
            yield from self.others
            return
        windows: list[Window] = []
        for record in self.records:
            if isinstance(record, Window):
                windows.append(record)
                continue
            if isinstance(record, Manifest):
                yield from columns_of_each(windows)
                windows = []
            yield record
        yield from columns_of_each(windows)


class LedgerStream:
    """One pass over the records of a file, in memory that does not grow with the file.

    Iterate once, over the records or over `batches`. `lines`, `head`, `torn_tail`, `problems` and `intact` tell what
    was found so far, so that `lines` is the number of the record just given. A line that does not follow from the one
    before is a problem, and its record is still given. A line that cannot be decoded, or holds impossible figures, is a
    problem and is skipped. A file that is a copy of another one gives no record, so that nothing counts twice. `run_id`
    is the run that the file should belong to; without it, the first record names the run. Raises `LedgerError` for a
    file that cannot be opened or is of an unknown version.
    """

    def __init__(self, path: str | os.PathLike[str], run_id: str | None = None) -> None:
        self.path = Path(path)
        self.lines = 0
        self.torn_tail = False
        self.problems: list[str] = []
        self._run_id = run_id
        self._chain = b""
        self._decoder = decoder_for(LEDGER_VERSION, self.path)
        self._broken_lines = self._all_problems = 0
        self._copied = False
        self._gate = RecordGate()

    @property
    def intact(self) -> bool:
        """Return whether every complete line so far is sound."""
        return self._broken_lines == 0

    @property
    def chain(self) -> bytes:
        """Return the chain at the last complete line, or an empty value before the first line."""
        return self._chain

    @property
    def head(self) -> str:
        """Return the chain at the last complete line as 32 hex digits."""
        return self._chain.hex()

    def __iter__(self) -> Iterator[Record]:
        for lines in self._lines(1):
            for line in lines:
                record = self._checked(line)
                if record is not None:
                    yield record

    def batches(self) -> Iterator[Batch]:
        """Yield the records in batches, of which most are checked as a whole."""
        for lines in self._lines(BATCH_BYTES):
            yield self._sound(lines) or self._each(lines)

    def _lines(self, size_bytes: int) -> Iterator[list[bytes]]:
        """Yield the lines of the file: the first one, which is a manifest, and then so many bytes or more at a time."""
        try:
            with open_ending(self.path, buffering=_BUFFER_BYTES) as file:
                lines = [file.readline()]
                while any(lines):
                    yield lines
                    lines = file.readlines(size_bytes)
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        more = self._all_problems - _MAX_PROBLEMS
        if more > 0:
            self.problems.append(f"{more} more problems of lines")

    def _sound(self, lines: Sequence[bytes]) -> Batch | None:
        """Return the records of lines with which nothing is wrong, or None without changing anything."""
        whole = bool(self._chain) and not self._copied and lines[-1].endswith(b"\n")
        parts = chain.split_lines(lines) if whole else None
        if parts is None:
            return None
        chains, payloads = parts
        records = decode_records(payloads, self._decoder) if chain.is_unbroken(self._chain, chains, payloads) else None
        if records is None:
            return None
        windows = [record for record in records if isinstance(record, Window)]
        others = [record for record in records if not isinstance(record, Window)] if len(windows) < len(records) else []
        columns = columns_of(windows)
        if columns is None or not self._gate.finds_nothing(columns) or not self._are_sound(others, records[-1]):
            return None
        first = self.lines + 1
        self.lines += len(lines)
        self._chain = chains[-1]
        return Batch(records=records, lines=range(first, self.lines + 1), chains=chains, columns=columns, others=others)

    def _are_sound(self, others: Sequence[Record], last: Record) -> bool:
        """Return whether nothing is wrong with records that are not windows, and none changes how others are read."""
        return not any(
            isinstance(record, Manifest)
            or (isinstance(record, Close) and record is not last)
            or self._gate.judge(record)
            for record in others
        )

    def _each(self, lines: Sequence[bytes]) -> Batch:
        """Return the records of lines, of which each is checked by itself, and note what is wrong with them."""
        records: list[Record] = []
        numbers: list[int] = []
        chains: list[bytes] = []
        for line in lines:
            record = self._checked(line)
            if record is not None:
                records.append(record)
                numbers.append(self.lines)
                chains.append(self._chain)
        return Batch(records=records, lines=numbers, chains=chains)

    def _checked(self, line: bytes) -> Record | None:
        """Return the record of the next line, or None for one that counts for nothing, and note what is wrong with
        it."""
        if not line.endswith(b"\n"):
            self.torn_tail = True
            return None
        self.lines += 1
        parts = chain.split_line(line[:-1])
        if parts is None:
            self._broken("is not a checksum and a record")
            return None
        stated, payload = parts
        if self.lines == 1:
            opening = decode_opening(payload)
            if opening is not None:
                self._decoder = decoder_for(opening.version, self.path)
            self._start_chain(opening)
        if self._chain and chain.extend(self._chain, payload) != stated:
            self._broken("does not follow from the line before it: edited, or lines are missing")
        self._chain = stated  # so that one edited line is one problem and not all that follow it
        try:
            record = decode_record(payload, self._decoder)
        except LedgerError as error:
            self._broken(str(error))
            return None
        verdict = self._gate.judge(record)
        if verdict is not None:
            for what in (*verdict.impossible, *verdict.strange):
                self._problem(f"line {self.lines}: {what}")
            if verdict.impossible:
                return None
        return None if self._copied else record

    def _start_chain(self, opening: Opening | None) -> None:
        if opening and not is_own_name(self.path.name, stated=opening.file, node=opening.node, attempt=opening.attempt):
            self._copied = True
            name = opening.file or ledger_name(opening.node, opening.attempt)
            self._problem(f"line 1 says that this is {name}: a copy under another name, which counts for nothing")
        if opening is None:
            self._broken("is not a manifest, the record that a ledger begins with")
        elif self._run_id is not None and opening.run_id != self._run_id:
            self._broken(f"belongs to run {opening.run_id}, expected run {self._run_id}")
            self._chain = chain.seed(opening.run_id)
            return
        run_id = self._run_id or (opening.run_id if opening else None)
        self._chain = chain.seed(run_id) if run_id else b""

    def _broken(self, what: str) -> None:
        self._broken_lines += 1
        self._problem(f"line {self.lines} {what}")

    def _problem(self, text: str) -> None:
        self._all_problems += 1
        if self._all_problems <= _MAX_PROBLEMS:
            self.problems.append(text)


def read_ledger(path: str | os.PathLike[str], run_id: str | None = None) -> LedgerFile:
    """Return a whole file in memory. For one that may be large, iterate over a `LedgerStream`. Raises `LedgerError`."""
    stream = LedgerStream(path, run_id)
    records = list(stream)
    return LedgerFile(
        path=stream.path,
        records=records,
        intact=stream.intact,
        problems=stream.problems,
        torn_tail=stream.torn_tail,
        head=stream.head,
    )


def read_run(run_dir: str | os.PathLike[str]) -> LedgerRun:
    """Return the identity of a run and all its ledgers, as `carbon_plugin.read_run` describes them.

    Raises `LedgerError` if the directory holds no ledger, a file cannot be read, or is of an unknown version.
    """
    identity = read_identity(run_dir)
    run_id = identity.run_id if identity else None
    if not ledger_files(run_dir):
        raise LedgerError(
            f"{os.fspath(run_dir)}: no ledger here, expected files node-*.attempt-*.jsonl; name the directory of one "
            "run"
        )
    return LedgerRun(identity=identity, files=[read_ledger(path, run_id) for path in ledger_files(run_dir)])


def read_opening(path: str | os.PathLike[str]) -> Opening | None:
    """Return who wrote a file and when it starts, from its first line, or None if that is no manifest. Raises
    `LedgerError`."""
    try:
        with open_ending(path) as file:
            line = file.readline()
    except OSError as error:
        raise LedgerError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error
    parts = chain.split_line(line.rstrip(b"\n"))
    return decode_opening(parts[1]) if parts else None


def manifest_of(records: list[Record]) -> Manifest | None:
    """Return the manifest in force, which is the last one of the file, or None."""
    return next((record for record in reversed(records) if isinstance(record, Manifest)), None)
