"""Whether another process writes ledgers under this one's name: a second job in the run directory, or an old one.

Each has its own file, so nothing is lost, but the totals of the run are those of both, and somebody must say so.
"""

from __future__ import annotations

import os
from pathlib import Path

from carbon_plugin.ledger.files import writer_name

EVENT = "another_job"
LOOKS = 3
"""How often to look, window by window: a second job shows in its first ones."""
BEFORE, AFTER = 8, 2
"""Which attempts to look at, counted from one's own. Directories of large jobs are slow to list."""


class SameWriter:
    """Other attempts of the writer of the ledger `own`, from when this object is made on."""

    def __init__(self, run_dir: Path, own: str) -> None:
        attempt = int(own.rpartition("-")[2].removesuffix(".jsonl"))
        self._own = own
        self._left = LOOKS
        self._others = [
            run_dir / f"{writer_name(own)}.attempt-{number}.jsonl"
            for number in range(max(0, attempt - BEFORE), attempt + AFTER + 1)
            if number != attempt
        ]
        self._sizes = self._found()

    def look(self) -> str | None:
        """What to say if another one has grown or begun since; once at most."""
        if self._left <= 0:
            return None
        self._left -= 1
        before, self._sizes = self._sizes, self._found()
        grown = [path.name for path, size in self._sizes.items() if size > before.get(path, 0)]
        if not grown:
            return None
        self._left = 0
        return (
            f"{grown[0]} is being written in this run directory by another process with the same place in its job: a "
            "second job was started in the directory, or an earlier launch of this one still runs. Each has a ledger "
            f"of its own (this one {self._own}); the totals of the run are those of both"
        )

    def _found(self) -> dict[Path, int]:
        sizes = {}
        for path in self._others:
            try:
                sizes[path] = os.stat(path).st_size
            except OSError:
                continue
        return sizes
