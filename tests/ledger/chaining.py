"""Write lines of a ledger with the chain that follows from them, as a writer does, or a forger."""

from __future__ import annotations

from collections.abc import Iterable

from carbon_plugin.ledger import chain

RUN_ID = "a" * 32
"""The id of the runs that `tests.ledger.builder` writes."""


def payloads_of(content: bytes) -> list[bytes]:
    """Return the JSON of each line of a ledger."""
    return [line[chain.HEX_DIGITS + 1 :] for line in content.splitlines()]


def chained(payloads: Iterable[bytes], run_id: str = RUN_ID) -> bytes:
    """Return a ledger with these records, each as its JSON."""
    value, lines = chain.seed(run_id), []
    for payload in payloads:
        value = chain.extend(value, payload)
        lines.append(chain.join_line(value, payload))
    return b"".join(lines)
