"""Ranks that begin together and end together, however late a busy machine starts one of them."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def begun_together() -> None:
    """Let no rank keep a ledger of its own of the time before local rank 0 began, and call no driver slow that a busy
    machine keeps."""
    from carbon_plugin.meters.gpu import meter, session
    from carbon_plugin.monitor.node import duty

    session.OPEN_WAIT_S = meter.READ_WAIT_S = meter.DESCRIBE_WAIT_S = meter.CONTEXT_WAIT_S = 60.0
    duty.GRACE_S = duty.STRETCH_S = 240.0


def enough() -> bool:
    """Return on all ranks after the same step whether the test has written the file JOB_UNTIL, which ends the job."""
    until = os.environ.get("JOB_UNTIL")
    if until is None:
        return False
    there = torch.tensor([os.path.exists(until)], dtype=torch.uint8)
    dist.broadcast(there, src=0)
    return bool(there.item())
