"""Rank 0's view of all nodes: follows their ledgers in the run directory. A missing node is missing, never a wait."""

from __future__ import annotations

import time
from pathlib import Path

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.tail import LedgerTail
from carbon_plugin.monitor.node.journal import Journal
from carbon_plugin.monitor.totals import FileTotals

UNNAMED = ""
"""Stands for the name of the own ledger as long as its file cannot be created."""
WORK_S = 0.5e-3
"""Longest stretch of work before other threads get their turn: the training thread must not wait for this one."""
PAUSE_S = 0.5e-3
MAX_BYTES = 1 << 16


class Aggregator:
    """Totals of every ledger of a run by file name. `own` is this process's ledger, whose totals it already has.
    `caught_up` says whether the last look got to the end of all of them.

    `poll` reads at most `budget_s` seconds; what is left of a long history is read at later polls.
    """

    def __init__(self, run_dir: Path, own: Journal | None, *, budget_s: float = 1.0) -> None:
        self.files: dict[str, FileTotals] = {}
        self.caught_up = False
        self._run_dir = run_dir
        self._own = own
        self._own_name = UNNAMED
        self._budget_s = budget_s
        self._tails: dict[str, LedgerTail] = {}

    def poll(self) -> None:
        """Take in what other nodes have written since the last call. Unreadable files are left for later."""
        if self._own is not None:
            self.files.pop(self._own_name, None)
            self._own_name = self._own.file or UNNAMED
            self.files[self._own_name] = self._own.totals
        for path in self._found():
            if path.name != self._own_name and path.name not in self._tails:
                self._tails[path.name] = LedgerTail(path, max_bytes=MAX_BYTES)
                self.files[path.name] = FileTotals()
        deadline_s = time.monotonic() + self._budget_s
        turn_s = time.monotonic()
        unread = list(self._tails.items())
        while unread and time.monotonic() < deadline_s:
            remaining = []
            for name, tail in unread:
                if self._take(name, tail):
                    remaining.append((name, tail))
                if time.monotonic() - turn_s > WORK_S:
                    time.sleep(PAUSE_S)
                    turn_s = time.monotonic()
            unread = remaining
        self.caught_up = not unread

    def _found(self) -> list[Path]:
        try:
            return ledger_files(self._run_dir)
        except LedgerError:  # a directory that is gone, or not there yet, holds nothing new
            return []

    def heads(self) -> dict[str, str]:
        """Chain heads of the other ledgers, as far as they were read."""
        return {name: tail.head for name, tail in self._tails.items() if tail.head}

    def _take(self, name: str, tail: LedgerTail) -> bool:
        """Add the next records of a file; whether there may be more."""
        try:
            records = tail.poll()
        except LedgerError:
            return False
        for record in records:
            self.files[name].add(record)
        return bool(records)
