"""Compute for how long the ledgers of a running run may be quiet."""

from __future__ import annotations

QUIET_S = 120.0
QUIET_S_A_NODE = 0.75
"""A run goes on if its ledgers grew within `QUIET_S` seconds, or within this many seconds for each node where that is
more. Ledgers grow every 10 s, or every quarter of a second for each node."""


def quiet_s(nodes: int) -> float:
    """Return the seconds without a record after which a run of this many nodes counts as killed."""
    return max(QUIET_S, QUIET_S_A_NODE * nodes)
