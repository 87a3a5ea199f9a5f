"""Two stages of a decoder on two gloo ranks, trained by a 1F1B schedule, bare and then under measurement."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext

import torch
import torch.distributed as dist
from telling import tell
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn import functional as F

from carbon_plugin.integrations.pytorch import watch
from carbon_plugin.monitor.settings.options import MonitorOptions

VOCAB, HIDDEN, FFN, LENGTH, STEPS, MICRO_BATCHES = 64, 32, 128, 16, 12, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.q, self.k, self.v, self.o = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(HIDDEN, FFN), nn.Linear(FFN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(x)))


class Stage(nn.Module):
    """The first of two has the embedding and two blocks, the second three blocks and the head."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.embedding = None if index else nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(2 + index))
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False) if index else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embedding is None else self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.head(x)


def loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def train(run_dir: str | None) -> list[float]:
    rank = dist.get_rank()
    torch.manual_seed(rank)
    model = Stage(rank)
    schedule = Schedule1F1B(PipelineStage(model, rank, 2, torch.device("cpu")), MICRO_BATCHES, loss_fn=loss)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    options = MonitorOptions(min_window_s=0.25)
    session = nullcontext()
    if run_dir is not None:
        session = watch(model, optimizer, pipeline=schedule, run_dir=run_dir, window_s=0.25, options=options)
    every: list[float] = []
    with session:
        for step in range(STEPS):
            batch = torch.randint(VOCAB, (2 * MICRO_BATCHES, LENGTH), generator=torch.Generator().manual_seed(step))
            losses: list[Tensor] = []
            schedule.step(*([] if rank else [batch]), target=batch, losses=losses)
            optimizer.step()
            optimizer.zero_grad()
            every += [value.item() for value in losses]
            time.sleep(0.1 if run_dir else 0.0)
    return every


def main() -> None:
    dist.init_process_group("gloo")
    bare, measured = train(None), train(sys.argv[1])
    tell("LOSSES", [dist.get_rank(), bare, measured])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
