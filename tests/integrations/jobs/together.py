"""Ranks that begin together and end together, however late a busy machine starts one of them."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def begun_together() -> None:
    """Let no rank keep a ledger of its own of the time before local rank 0 began, and give up nothing that a busy
    machine keeps."""
    from carbon_plugin.monitor.node import duty
    from tests.patience import PATIENCE_S, be_patient

    be_patient()
    duty.GRACE_S = duty.STRETCH_S = PATIENCE_S


def enough() -> bool:
    """Return on all ranks after the same step whether the test has written the file JOB_UNTIL, which ends the job."""
    until = os.environ.get("JOB_UNTIL")
    if until is None:
        return False
    there = torch.tensor([os.path.exists(until)], dtype=torch.uint8)
    dist.broadcast(there, src=0)
    return bool(there.item())
