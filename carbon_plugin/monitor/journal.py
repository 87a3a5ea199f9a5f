"""Writes records to the ledger of this node; keeps them while the file cannot be written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.records import Record
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.totals import FileTotals

MAX_WAITING = 20_000
"""Records kept in memory while the file system refuses them: two days of windows, some 20 MB."""


class Journal:
    """The ledger of this node and its running totals. `on_trouble` is called once each time that writing fails."""

    def __init__(self, writer: LedgerWriter, on_trouble: Callable[[str], None]) -> None:
        self.totals = FileTotals()
        self._writer = writer
        self._on_trouble = on_trouble
        self._waiting: deque[Record] = deque(maxlen=MAX_WAITING)
        self._in_trouble = False

    @property
    def file(self) -> str:
        """Name of the ledger's file."""
        return self._writer.path.name

    @property
    def attempt(self) -> int:
        """Number of this attempt on this node."""
        return self._writer.attempt

    @property
    def head(self) -> str:
        """Head of the ledger's chain."""
        return self._writer.head

    def write(self, record: Record) -> None:
        """Append a record, after those that still wait."""
        self.totals.add(record)
        self._waiting.append(record)
        try:
            while self._waiting:
                self._writer.write(self._waiting[0])
                self._waiting.popleft()
        except LedgerError as error:
            if not self._in_trouble:
                self._on_trouble(f"{error}; records are kept and written later")
            self._in_trouble = True
        else:
            self._in_trouble = False

    def close(self) -> None:
        """Sync and close the file."""
        self._writer.close()
