"""Trains a tiny transformer with FSDP2 on gloo twice, bare and measured, and prints both sequences of losses.

`fsdp.py RUN_DIR FORECAST`. The data comes from a forked loader worker that calls us as well, which must do nothing.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from telling import tell
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from carbon_plugin.integrations.pytorch import TorchCarbon, watch
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.options import SpanRule
from tests.patience import be_patient

VOCAB, HIDDEN, LENGTH, STEPS = 64, 32, 16, 60


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n_heads = 4
        self.norm = nn.LayerNorm(HIDDEN)
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN, bias=False), nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.dropout(self.down(F.gelu(self.up(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x).clone()


class Tokens(Dataset[Tensor]):
    """Random tokens; whoever loads them, calls the carbon session too."""

    def __init__(self) -> None:
        self.carbon: TorchCarbon | None = None

    def __len__(self) -> int:
        return 2 * STEPS

    def __getitem__(self, index: int) -> Tensor:
        if self.carbon is not None:
            self.carbon.step()
            self.carbon.close()
        return torch.randint(VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(index))


def train(run_dir: str | None, forecast: str) -> list[float]:
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("dp_shard",))
    model = Model()
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens, losses = Tokens(), []
    session: Any = nullcontext()
    if run_dir is not None:
        session = tokens.carbon = watch(
            model,
            optimizer,
            planned=forecast,
            run_dir=run_dir,
            window_s=0.5,
            options=MonitorOptions(min_window_s=0.25, span_rule=SpanRule(min_s=0.3, min_steps=3)),
        )
    with session:
        for step, batch in enumerate(DataLoader(tokens, batch_size=2, num_workers=1), start=1):
            loss = F.cross_entropy(model(batch).flatten(0, 1), batch.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if run_dir is not None:
                time.sleep(0.03)
                if step == STEPS // 2:
                    with session.phase("evaluation"):
                        time.sleep(0.4)
        if run_dir is not None and dist.get_rank() == 0:
            tell("METRICS", session.metrics())
    assert not optimizer._optimizer_step_post_hooks
    return losses


def main() -> None:
    be_patient()
    dist.init_process_group("gloo")
    bare = train(None, sys.argv[2])
    started_s = time.monotonic()
    measured = train(sys.argv[1], sys.argv[2])
    if dist.get_rank() == 0:
        tell("LASTED", time.monotonic() - started_s)
    tell("LOSSES", [dist.get_rank(), bare, measured])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
