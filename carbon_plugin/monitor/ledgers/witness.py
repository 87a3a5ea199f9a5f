"""Write down the heads of other ledgers from time to time, so that one anchor vouches for all of them and none can be
cut, removed or written anew alone.

What such a head proves is decided in `ledger.verification.verify`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from carbon_plugin.ledger.records import HEADS_EVENT
from carbon_plugin.ledger.verification.heads import witnessed_by
from carbon_plugin.spec.numbers.amounts import plural

FIRST_S, MOST_S = 60.0, 3600.0
"""The first look comes after a minute, and each next one after twice as long, up to an hour. A short run is witnessed
too, and a long one costs no more than a line an hour."""


class Witness:
    """Notes the heads of other ledgers in the ledger of this node. Only the monitor thread uses it.

    `record` records an event in that ledger: its kind, its sentence and its data.
    """

    def __init__(
        self, run_dir: Path, node: int, nodes: int, record: Callable[[str, str, dict[str, object]], None]
    ) -> None:
        self._record = record
        self._run_dir = run_dir
        self._node = node
        self._nodes = nodes
        self._every_s = FIRST_S
        self._due_s = time.monotonic() + FIRST_S

    @property
    def is_due(self) -> bool:
        """Return whether it is time to look again."""
        return time.monotonic() >= self._due_s

    def look(self, file: str | None, *, complete: bool = False) -> None:
        """Read the ends of the ledgers that this node answers for, except its own `file`, and write down their heads.

        `file` is None while it does not exist, and then nothing is written. `complete` says that these are all lines of
        those ledgers.
        """
        if file is not None:
            self.note(witnessed_by(self._run_dir, file, self._node, self._nodes), complete=complete)

    def note(self, heads: Mapping[str, str], *, complete: bool = False) -> None:
        """Write down heads."""
        self._due_s = time.monotonic() + self._every_s
        self._every_s = min(MOST_S, 2 * self._every_s)
        if heads:
            data: dict[str, object] = {"heads": dict(heads), **({"complete": True} if complete else {})}
            self._record(HEADS_EVENT, f"heads of {plural(len(heads), 'other ledger')}", data)
