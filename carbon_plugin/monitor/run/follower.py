"""Follow the ledgers of all nodes in the run directory, on rank 0. A missing node counts as missing and is never waited
for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.files import ledger_names
from carbon_plugin.ledger.records import Window
from carbon_plugin.ledger.tail import LedgerTail
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.ledgers.journal import Journal
from carbon_plugin.threads.turns import give_way, worked_s

UNNAMED = ""
"""This stands for the name of the own ledger as long as its file cannot be created."""
MAX_BYTES = 1 << 16
BUDGET_S = 0.35
"""One look reads for at most so many seconds of work. The pauses between its turns come on top."""
MOST_READ_AGAIN = 2000
"""At most this many windows of a file are read a second time: more than five hours of them."""


class LedgerFollower:
    """Holds the totals of every ledger of a run by file name.

    `own` is this process's ledger, whose totals it already has. `caught_up` says whether the last poll reached the end
    of every ledger. `poll` reads for at most `budget_s` seconds of work and leaves the rest of a long history to later
    polls.
    `wanted` says of a file name whether that ledger is to be followed; without it, all are.
    """

    def __init__(
        self,
        run_dir: Path,
        own: Journal | None,
        *,
        budget_s: float = BUDGET_S,
        wanted: Callable[[str], bool] = lambda name: True,
    ) -> None:
        self.files: dict[str, FileTotals] = {}
        self.caught_up = False
        self._run_dir = run_dir
        self._own = own
        self._own_name = UNNAMED
        self._budget_s = budget_s
        self._wanted = wanted
        self._tails: dict[str, LedgerTail] = {}
        self._again: dict[str, _ReadAgain] = {}

    def poll(self) -> None:
        """Take in what other nodes have written since the last call. A file that cannot be read is tried again at a
        later poll."""
        if self._own is not None:
            self.files.pop(self._own_name, None)
            self._own_name = self._own.file or UNNAMED
            self.files[self._own_name] = self._own.totals
        for name in self._found():
            if name != self._own_name and name not in self._tails and self._wanted(name):
                give_way()
                self._tails[name] = LedgerTail(self._run_dir / name, max_bytes=MAX_BYTES)
                self.files[name] = FileTotals()
        deadline_s = worked_s() + self._budget_s
        unread = list(self._tails.items())
        while unread and worked_s() < deadline_s:
            remaining = []
            for name, tail in unread:
                if self._take(name, tail):
                    remaining.append((name, tail))
                give_way()
            unread = remaining
        self.caught_up = not unread

    def _found(self) -> list[str]:
        try:
            return ledger_names(self._run_dir)
        except LedgerError:  # the directory is gone, or not there yet
            return []

    def windows_until(self, name: str, until_unix_s: float) -> list[Window]:
        """Return the windows of a ledger from its beginning to a moment by its own clock (Unix s), as many as can be
        read.

        They are kept in memory. Only ledgers of devices that two files metered at once are asked for, mostly a few
        seconds of each.
        """
        again = self._again.get(name)
        if again is None:
            again = self._again[name] = _ReadAgain(self._run_dir / name)
        again.read_until(until_unix_s)
        return again.windows

    def heads(self) -> dict[str, str]:
        """Return the chain heads of the other ledgers, as far as they were read."""
        return {name: tail.head for name, tail in self._tails.items() if tail.head}

    def _take(self, name: str, tail: LedgerTail) -> bool:
        """Add the next records of a file, and return whether there may be more."""
        try:
            records = tail.poll()
        except LedgerError:
            return False
        for record in records:
            self.files[name].add(record)
            give_way()
        return bool(records)


class _ReadAgain:
    """Holds the first windows of a ledger that is read a second time."""

    def __init__(self, path: Path) -> None:
        self.windows: list[Window] = []
        self._tail = LedgerTail(path, max_bytes=MAX_BYTES)

    def read_until(self, until_unix_s: float) -> None:
        """Read on until a window ends at that moment (Unix s) or later, or until the file cannot be read any
        further."""
        while len(self.windows) < MOST_READ_AGAIN and not self._reaches(until_unix_s):
            try:
                records = self._tail.poll()
            except LedgerError:
                return
            if not records:
                return
            self.windows += [record for record in records if isinstance(record, Window)]
            give_way()

    def _reaches(self, until_unix_s: float) -> bool:
        last = self.windows[-1] if self.windows else None
        return last is not None and last.start_unix_s + last.duration_s >= until_unix_s
