"""Find out whether another process writes ledgers under this one's name: a second job in the run directory, or an old
one.

Each process has its own file, so nothing is lost. The totals of the run are those of both, and one of them must say so:
the later one, which sees the ledger of the earlier one grow, else the earlier one at its end.
"""

from __future__ import annotations

import os
from pathlib import Path

from carbon_plugin.ledger.files import attempt_number, writer_name
from carbon_plugin.ledger.held.launches import ANOTHER_JOB_EVENT
from carbon_plugin.spec.parsing.opening import open_ending

LOOKS = 3
"""So many looks are made, one a window. An earlier job that goes on shows in the first ones."""
BEFORE, AFTER = 8, 2
"""So many attempts before and after the own one are looked at, because directories of large jobs are slow to list."""
_SEARCHED_BYTES = 1 << 18
"""The event is searched for in this many bytes at both ends of a ledger, because it is written in the first windows or
at the end."""


class SameWriter:
    """Watches the other attempts of the writer of the ledger `own`, from the moment this object is made."""

    def __init__(self, run_dir: Path, own: str) -> None:
        attempt = attempt_number(own)
        self._own = own
        self._left = LOOKS
        self._said = False
        self._earlier, self._later = (
            [run_dir / f"{writer_name(own)}.attempt-{number}.jsonl" for number in numbers]
            for numbers in (range(max(0, attempt - BEFORE), attempt), range(attempt + 1, attempt + 1 + AFTER))
        )
        self._sizes = _sizes(self._earlier)

    def look(self, *, last: bool = False) -> str | None:
        """Return a warning if an earlier ledger has grown or, at the `last` look, if a later one has begun; otherwise
        None.

        The warning comes once at most, and only if the other process has not recorded it.
        """
        if self._said or (self._left <= 0 and not last):
            return None
        self._left -= 1
        before, self._sizes = self._sizes, _sizes(self._earlier)
        found = [path for path, size in self._sizes.items() if size > before.get(path, 0)]
        found += _sizes(self._later) if last else ()
        if not found:
            return None
        self._said = True
        if any(map(_says_so, found)):
            return None
        return (
            f"{found[0].name} is being written in this run directory by another process with the same place in its "
            "job: a second job was started in the directory, or an earlier launch of this one still runs. Each has a "
            f"ledger of its own (this one {self._own}); the totals of the run are those of both"
        )


def _sizes(paths: list[Path]) -> dict[Path, int]:
    sizes = {}
    for path in paths:
        try:
            sizes[path] = os.stat(path).st_size
        except OSError:
            continue
    return sizes


def _says_so(path: Path) -> bool:
    """Return whether a ledger holds the event that reports another writer."""
    try:
        with open_ending(path) as file:
            start = file.read(_SEARCHED_BYTES)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _SEARCHED_BYTES))
            end = file.read(_SEARCHED_BYTES)
    except OSError:
        return False
    return any(f'"{ANOTHER_JOB_EVENT}"'.encode() in part for part in (start, end))
