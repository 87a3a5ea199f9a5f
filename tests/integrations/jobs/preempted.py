"""A training by somebody who saves and ends at SIGTERM, and who has never heard of us. `JOB_HANDLES` names the ranks.

Every step holds a collective, so that a rank that was left alone would hang.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from together import enough
from torch import nn

STEP_S, MOST_STEPS = 0.02, 5000
asked = []


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if str(rank) in os.environ["JOB_HANDLES"]:
        signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, MOST_STEPS + 1):
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(STEP_S)
        if asked:
            torch.save({"step": step}, f"checkpoint-{rank}.pt")
            break
        if enough():
            break
    Path(f"ended-{rank}").write_text(str(step))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
