"""Trains with Accelerate's FSDP2 plugin under `accelerate launch`: `accelerate_fsdp2.py RUN_DIR`; prints the losses."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from telling import tell
from torch import nn

from carbon_plugin.integrations.accelerate import watch
from carbon_plugin.monitor.settings.options import MonitorOptions

STEPS, WIDTH = 8, 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


def accelerator_of_fsdp2() -> Accelerator:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        cpu_ram_efficient_loading=False,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
    )
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    # Accelerate takes plain copies on CPUs, whatever plugin is given. All that follows is its own.
    accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


def train(accelerator: Accelerator, measured: bool) -> list[float]:
    torch.manual_seed(0)
    model: Any = nn.Sequential(Block(), Block(), nn.Linear(WIDTH, 4))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    losses = []
    options = MonitorOptions(min_window_s=0.1)
    arguments: dict[str, Any] = {"run_dir": sys.argv[1], "window_s": 0.2, "options": options}
    with watch(accelerator, model, optimizer, site="FRA", **arguments) if measured else nullcontext():
        for number in range(2 * STEPS):
            generator = torch.Generator().manual_seed(2 * number + accelerator.process_index)
            with accelerator.accumulate(model):
                loss = model(torch.randn(4, WIDTH, generator=generator)).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            time.sleep(0.02 if measured else 0.0)
    return losses


if __name__ == "__main__":
    accelerator = accelerator_of_fsdp2()
    bare, measured = train(accelerator, measured=False), train(accelerator, measured=True)
    tell("LOSSES", [bare, measured, accelerator.is_fsdp2])
    accelerator.end_training()
