"""Find the chain heads that ledgers have recorded of each other. They reveal later changes of a file.

A head is the chain at the last complete line of a file. Whoever cuts, removes or rewrites a ledger whose head is
recorded in another one must change that one too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.files import ledger_files, node_of
from carbon_plugin.ledger.records import Event
from carbon_plugin.spec.parsing.opening import open_ending

MOST_FILES = 20_000
"""The most heads in one event: 2,048 nodes in ten attempts, a line of a few MB."""
_TAIL_BYTES = 1 << 14


def heads_in(event: Event) -> dict[str, str]:
    """Return the chains by file name that a node has written down about the ledgers of others."""
    heads = event.data.get("heads", {})
    return {str(file): str(head) for file, head in heads.items()} if isinstance(heads, Mapping) else {}


def is_complete(event: Event) -> bool:
    """Return whether the heads are the ends of the files, and not only the places up to which a node had read them."""
    return event.data.get("complete") is True


def head_of(path: Path) -> str | None:
    """Return the chain at the last complete line of a file, 32 hex digits, or None without one. Raises
    `LedgerError`."""
    try:
        with open_ending(path) as file:
            size = os.fstat(file.fileno()).st_size
            back = _TAIL_BYTES
            while True:
                start = max(0, size - back)
                file.seek(start)
                lines = file.read(size - start).split(b"\n")
                # The last piece is an incomplete line, and the first one may lack its beginning.
                whole = lines[:-1] if start == 0 else lines[1:-1]
                if whole or start == 0:
                    parts = chain.split_line(whole[-1]) if whole else None
                    return parts[0].hex() if parts else None
                back *= 4
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror or error}") from error


def witnessed_by(run_dir: Path, own: str, node: int, nodes: int) -> dict[str, str]:
    """Return the heads that a node writes down: of its own earlier files, of node 0 and of the node after it. Node 0
    writes down all.

    So each ledger is recorded in at least two others, and what all nodes write down together grows with their number
    and not with its square. Raises `LedgerError` for a directory that cannot be listed. A file that cannot be read is
    left out.
    """
    wanted = None if node == 0 else {0, node, (node + 1) % max(1, nodes)}
    heads: dict[str, str] = {}
    for path in ledger_files(run_dir):
        if path.name == own or (wanted is not None and node_of(path.name) not in wanted):
            continue
        try:
            head = head_of(path)
        except LedgerError:
            continue
        if head is not None:
            heads[path.name] = head
        if len(heads) >= MOST_FILES:
            break
    return heads
