"""Exchange totals with nodes whose ledgers rank 0 cannot read: rank 0 listens, and the others report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from carbon_plugin.monitor.ledgers.journal import Journal
from carbon_plugin.monitor.ledgers.place import RUN_ID_VARIABLE
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.run.collector import (
    COLLECTOR_VARIABLE,
    Address,
    Collector,
    Reporter,
    collector_address,
)
from carbon_plugin.monitor.run.key import KEY_FILE, KEY_VARIABLE, forget_key, run_key

FILES_A_RANK = 4
"""Rank 0 keeps at most this many ledgers for each rank, which is more attempts than one launch makes."""


class Exchange:
    """Listens or reports, if the environment asks for it. `note` takes sentences for the ledger.

    Raises `SpecError` for an address or a key that cannot be used, `OSError` for an address that cannot be bound.
    """

    def __init__(
        self, run_dir: Path, run_id: str, ranks: Ranks, environ: Mapping[str, str], *, stated: bool,
        note: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.collector: Collector | None = None
        self._run_dir, self._run_id, self._environ, self._note = run_dir, run_id, environ, note
        self._address: Address | None = None
        self._reporter: Reporter | None = None
        self._made_key = self._said = False
        address = collector_address(environ)
        if address is None:
            return
        if not stated:
            note(f"{COLLECTOR_VARIABLE} is not used: all nodes must know {RUN_ID_VARIABLE}")
        elif ranks.rank == 0:
            self._listen(address, ranks)
        else:
            self._address = address

    def report(self, journal: Journal) -> None:
        """Send the totals of this node's ledger so far. A node whose file cannot be created yet sends nothing."""
        if journal.file is None:
            return
        if self._address is not None and self._reporter is None:
            key = run_key(self._run_dir, self._run_id, self._environ, make=False)
            if key is not None:
                self._reporter = Reporter(self._address, key)
            else:
                self._say(f"rank 0 is not told of this node: neither {KEY_VARIABLE} nor the file {KEY_FILE} in the "
                          "run directory has the key of the run")  # fmt: skip
        if self._reporter is not None:
            self._reporter.send(journal.file, journal.totals)

    def look(self) -> None:
        """Report once that datagrams arrive that do not count."""
        if self.collector is not None and self.collector.dropped:
            self._say(
                f"datagrams arrived at {self.collector.host} that are no reports with the key of this run: nodes need "
                f"the same {KEY_VARIABLE} as rank 0, or somebody else sends them"
            )

    def close(self) -> None:
        """Close the sockets, and remove the key that this launch has made."""
        for end in (self.collector, self._reporter):
            if end is not None:
                end.close()
        if self._made_key:
            with contextlib.suppress(OSError):
                forget_key(self._run_dir)

    def _listen(self, address: Address, ranks: Ranks) -> None:
        key = run_key(self._run_dir, self._run_id, self._environ, make=True)
        assert key is not None  # made where there was none
        self._made_key = not self._environ.get(KEY_VARIABLE)
        self.collector = Collector(address, key, FILES_A_RANK * ranks.world_size)
        if self.collector.is_loopback and ranks.nodes > 1:
            self._note(
                f"{address[0]} is {self.collector.host} on this host, which no other host can reach: give "
                f"{COLLECTOR_VARIABLE} the address of a network interface unless all nodes are on this host"
            )

    def _say(self, sentence: str) -> None:
        if not self._said:
            self._said = True
            self._note(sentence)
