"""Trains one step of a tiny transformer under every layout, on four gloo ranks, and prints what is detected."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from carbon_plugin.detect.batch import BatchWatch
from carbon_plugin.detect.live import detect

VOCAB, HIDDEN, FFN, LAYERS, HEADS, LENGTH = 128, 32, 64, 3, 4, 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n_heads = HEADS
        self.norm = nn.LayerNorm(HIDDEN)
        self.q, self.k, self.v, self.o = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.ffn_norm = nn.LayerNorm(HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, FFN), nn.Linear(FFN, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        q, k, v = (p(y).unflatten(-1, (-1, HIDDEN // HEADS)).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.o(mixed)
        return x + self.down(F.gelu(self.up(self.ffn_norm(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).clone()


TENSOR = {name: ColwiseParallel() for name in ("q", "k", "v", "up")} | {
    "o": RowwiseParallel(),
    "down": RowwiseParallel(),
}
SEQUENCE = (
    {"norm": SequenceParallel(), "ffn_norm": SequenceParallel()}
    | {name: ColwiseParallel(input_layouts=Shard(1)) for name in ("q", "k", "v", "up")}
    | {name: RowwiseParallel(output_layouts=Shard(1)) for name in ("o", "down")}
)


def mesh(shape: tuple[int, ...], *names: str) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def sharded(model: nn.Module, over: DeviceMesh, **options: object) -> nn.Module:
    for block in model.blocks:
        fully_shard(block, mesh=over, **options)
    return fully_shard(model, mesh=over, **options)


def tensor_parallel(model: nn.Module, over: DeviceMesh, plan: dict[str, object] = TENSOR) -> nn.Module:
    for block in model.blocks:
        parallelize_module(block, over, plan)
    return model


def ddp() -> nn.Module:
    return DistributedDataParallel(Model())


def fsdp2() -> nn.Module:
    return sharded(Model(), mesh((4,), "dp_shard"))


def fsdp2_without_names() -> nn.Module:
    return sharded(Model(), init_device_mesh("cpu", (4,)))


def fsdp2_zero2() -> nn.Module:
    return sharded(Model(), mesh((4,), "dp_shard"), reshard_after_forward=False)


def hsdp() -> nn.Module:
    return sharded(Model(), mesh((2, 2), "dp_replicate", "dp_shard"))


def fsdp1() -> nn.Module:
    return FullyShardedDataParallel(Model(), device_id=torch.device("cpu"), use_orig_params=True)


def fsdp1_zero2() -> nn.Module:
    strategy = ShardingStrategy.SHARD_GRAD_OP
    return FullyShardedDataParallel(Model(), device_id=torch.device("cpu"), sharding_strategy=strategy)


def tp() -> nn.Module:
    return tensor_parallel(Model(), mesh((4,), "tp"))


def tp_without_names() -> nn.Module:
    return tensor_parallel(Model(), init_device_mesh("cpu", (4,)))


def tp_and_fsdp2() -> nn.Module:
    both = mesh((2, 2), "dp", "tp")
    return sharded(tensor_parallel(Model(), both["tp"]), both["dp"])


def tp_and_sp() -> nn.Module:
    over = mesh((4,), "tp")
    model = tensor_parallel(Model(), over, SEQUENCE)
    ends = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    return parallelize_module(model, over, ends)


def tp_and_hand_made_dp() -> nn.Module:
    return tensor_parallel(Model(), mesh((2, 2), "dp", "tp")["tp"])


def pp_and_fsdp2() -> nn.Module:
    return sharded(Model(), mesh((2, 2), "pp", "dp")["dp"])


def cp_folded_into_fsdp2() -> nn.Module:
    grid = mesh((2, 2), "dp_shard", "cp")
    return sharded(Model(), grid["dp_shard", "cp"]._flatten("dp_shard_cp"))


def nothing() -> nn.Module:
    return Model()


LAYOUTS = (
    ddp, fsdp2, fsdp2_without_names, fsdp2_zero2, hsdp, fsdp1, fsdp1_zero2, tp, tp_without_names, tp_and_fsdp2,
    tp_and_sp, tp_and_hand_made_dp, pp_and_fsdp2, cp_folded_into_fsdp2, nothing,
)  # fmt: skip


def look(build: Callable[[], nn.Module]) -> dict[str, object]:
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    hooks = len(model._forward_pre_hooks)
    watch = BatchWatch(model)
    for _ in range(2):  # two micro-batches a step
        model(torch.randint(VOCAB, (2, LENGTH))).sum().backward()
    optimizer.step()
    watch.remove()
    found = detect(model, world_size=dist.get_world_size(), optimizer=optimizer, batch=watch)
    return {
        "axes": {axis: (seen.value, seen.source) for axis, seen in found.layout.axes.items()},
        "unexplained": found.layout.unexplained,
        "fields": {name: seen.value for name, seen in found.fields.items()},
        "model": found.model and found.model.fields,
        "model_source": found.model and found.model.source,
        "parameters": found.model and found.model.parameters,
        "problems": found.problems,
        "hooks_left": len(model._forward_pre_hooks) - hooks,
    }


def main() -> None:
    dist.init_process_group("gloo")
    results = {build.__name__: look(build) for build in LAYOUTS}
    results["parameters"] = sum(p.numel() for p in Model().parameters())
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    dist.barrier()
    os._exit(0)  # fifteen layouts leave groups behind that are slow to tear down one by one


if __name__ == "__main__":
    main()
