"""A training in as many processes as its launcher starts, by somebody who has never heard of us. Prints its losses.

Two micro-batches make a step, a worker loads the data, and the loss scaler skips one of the steps.
"""

from __future__ import annotations

import os
import sys
import time

import torch
import torch.distributed as dist
from telling import tell
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

STEPS, SKIPPED = 12, 7


class Numbers(Dataset[Tensor]):
    def __len__(self) -> int:
        return 4 * STEPS

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(8, generator=torch.Generator().manual_seed(index))


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.Linear(16, 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler, losses = torch.amp.GradScaler("cpu"), []
    for number, batch in enumerate(DataLoader(Numbers(), batch_size=2, num_workers=1)):
        loss = model(batch).square().mean()
        scaler.scale(loss * (float("inf") if number == 2 * SKIPPED else 1.0)).backward()
        losses.append(loss.item())
        if number % 2:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            time.sleep(float(os.environ.get("PAUSE_S", "0")))
    hooks = [*optimizer._optimizer_step_post_hooks, *optimizer._optimizer_step_pre_hooks, *model._forward_pre_hooks]
    ours = [path for path in sys.path if path.endswith("startup")]
    tell("RESULT", [dist.get_rank(), losses, len(hooks) + len(ours)])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
