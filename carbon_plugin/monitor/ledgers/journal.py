"""Write records to the ledger of this node, and keep them while the file cannot be created or written."""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.codec import RecordError
from carbon_plugin.ledger.records import Close, Manifest, Record, Window
from carbon_plugin.ledger.sums import RunningSums
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.ledgers.backlog import Backlog
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.threads.turns import give_way

logger = logging.getLogger(__name__)


class Journal:
    """Holds the ledger of this node and its running totals, which rank 0 adds up with those of the other ledgers.

    `open_writer` makes the file, at the first record. It raises `LedgerError` while that is not possible, and is called
    again at every record. `on_trouble` is called each time that records begin to wait; the user is warned the first
    time.
    """

    def __init__(self, open_writer: Callable[[], LedgerWriter], on_trouble: Callable[[str], None]) -> None:
        self.totals = FileTotals()
        self._written = RunningSums()
        self._open_writer = open_writer
        self._on_trouble = on_trouble
        self._writer: LedgerWriter | None = None
        self._waiting = Backlog()
        self._in_trouble = self._warned = self._closed = False

    @property
    def file(self) -> str | None:
        """Return the name of the ledger's file, or None as long as there is none."""
        return self._writer.path.name if self._writer else None

    @property
    def holds_records(self) -> bool:
        """Return whether the file holds a record. On a full disk there may be a file without any."""
        return self._writer is not None and self._writer.records > 0

    @property
    def has_moved(self) -> bool:
        """Return whether the file, or the directory that holds it, was moved. Records follow it."""
        return self._writer is not None and self._writer.has_moved

    @property
    def head(self) -> str | None:
        """Return the head of the ledger's chain, or None as long as there is no file."""
        return self._writer.head if self._writer else None

    def write(self, record: Record) -> None:
        """Append a record after those that still wait. Records after `close` are ignored.

        A manifest is written with the run, the attempt and the name of the file, and a closing record with the totals
        of the file.
        """
        if self._closed:
            return
        self.totals.add(record)
        self._waiting.add(record)
        self._write_waiting()

    def close(self) -> None:
        """Write what still waits, if that is possible, and close the file. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._write_waiting()
        if self._waiting and not self.holds_records:
            logger.warning(
                "carbon_plugin: this run has no record: its ledger could not be written from the start to the end"
            )
        elif self._waiting:
            logger.warning(
                "carbon_plugin: the last %.0f s of this run are not in its ledger, which could not be written to the "
                "end; its record has no closing record",
                self._waiting.seconds,
            )
        if self._writer is not None:
            try:
                self._writer.close()
            except LedgerError as error:
                self._begin_trouble(str(error))

    def _write_waiting(self) -> None:
        try:
            writer = self._writer = self._writer or self._open_writer()
            while self._waiting:
                record = self._waiting.first()
                if isinstance(record, Manifest):
                    record = replace(record, run_id=writer.run_id, attempt=writer.attempt, file=writer.path.name)
                elif isinstance(record, Close):
                    record = self._closing(record)
                give_way()
                try:
                    writer.write(record)
                    self._waiting.done()
                    if isinstance(record, Window):
                        self._written.add(record)
                except RecordError as error:  # it would hold up all records behind it
                    self._waiting.drop()
                    self._on_trouble(f"{error}; it is left out")
                    if isinstance(record, Manifest) and writer.records == 0:
                        logger.warning("carbon_plugin: no audit will be able to read the record of this run; %s", error)
        except LedgerError as error:
            self._begin_trouble(str(error))
        else:
            self._in_trouble = False

    def _closing(self, close: Close) -> Close:
        """Return the closing record with the totals of the records in the file, without records that were lost."""
        written = self._written
        return replace(
            close, steps=written.steps, windows=written.windows, energy_j=written.energy_j, sums=written.sums
        )

    def _begin_trouble(self, sentence: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._on_trouble(f"{sentence}; records are kept and written later")
        if not self._warned:
            self._warned = True
            logger.warning(
                "carbon_plugin: %s. Training and metering go on; what is measured is kept in memory and written as "
                "soon as that is possible, and is lost if the process ends before",
                sentence,
            )
