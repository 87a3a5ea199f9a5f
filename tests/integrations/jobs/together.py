"""Ranks of a host that count as begun together, however late a busy machine starts one of them."""

from __future__ import annotations

from carbon_plugin.monitor.node import duty


def begun_together() -> None:
    """Let no rank keep a ledger of its own of the time before local rank 0 began."""
    duty.GRACE_S = duty.STRETCH_S = 240.0
