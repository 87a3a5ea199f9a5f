"""Trains one step of a tiny transformer under each layout that is named, on four gloo ranks: `layouts.py FOUND.json
NAME...`. Writes what is detected."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from looking import as_plain_data, count_hooks
from pipelines import MICRO_BATCHES, PIPELINES
from tiny import LENGTH, VOCAB, Block, Model, SparseBlock, mesh, sharded
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.distributed._composable.replicate_with_fsdp import replicate as replicate_with_fsdp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from carbon_plugin.detect.live import FirstStep, detect

TENSOR = {name: ColwiseParallel() for name in ("q", "k", "v", "up")} | {
    "o": RowwiseParallel(),
    "down": RowwiseParallel(),
}
SEQUENCE = (
    {"norm": SequenceParallel(), "ffn_norm": SequenceParallel()}
    | {name: ColwiseParallel(input_layouts=Shard(1)) for name in ("q", "k", "v", "up")}
    | {name: RowwiseParallel(output_layouts=Shard(1)) for name in ("o", "down")}
)


def tensor_parallel(model: nn.Module, over: DeviceMesh, plan: dict[str, object] = TENSOR) -> nn.Module:
    for block in model.blocks:
        parallelize_module(block, over, plan)
    return model


def ddp() -> nn.Module:
    return DistributedDataParallel(Model())


def fsdp2() -> nn.Module:
    return sharded(Model(), mesh((4,), "dp_shard"))


def fsdp2_without_names() -> nn.Module:
    return sharded(Model(), mesh((4,)))


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
    return tensor_parallel(Model(), mesh((4,)))


def tp_and_fsdp2() -> nn.Module:
    both = mesh((2, 2), "dp", "tp")
    return sharded(tensor_parallel(Model(), both["tp"]), both["dp"])


def tp_and_fsdp2_under_names_of_their_own() -> nn.Module:
    both = mesh((2, 2), "outer", "inner")
    return sharded(tensor_parallel(Model(), both["inner"]), both["outer"])


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


def fsdp2_resharded_to_pairs() -> nn.Module:
    return sharded(Model(), mesh((4,), "dp_shard"), reshard_after_forward=2)


def replicate_of_ddp() -> nn.Module:
    return replicate(Model(), device_mesh=mesh((4,), "dp_replicate"))


def replicate_of_fsdp2() -> nn.Module:
    return replicate_with_fsdp(Model(), mesh=mesh((4,), "dp_replicate"))


def fsdp1_hybrid() -> nn.Module:
    strategy = ShardingStrategy.HYBRID_SHARD
    grid = mesh((2, 2), "replicate", "shard")
    return FullyShardedDataParallel(
        Model(), device_id=torch.device("cpu"), sharding_strategy=strategy, device_mesh=grid
    )


def zero1() -> nn.Module:
    return DistributedDataParallel(Model())


def context_parallel_ddp() -> nn.Module:
    return split_sequence(DistributedDataParallel(Model()), mesh((2, 2), "dp", "cp")["cp"])


def context_parallel_fsdp2_without_names() -> nn.Module:
    over = DeviceMesh("cpu", [[0, 1], [2, 3]])
    return split_sequence(sharded(Model(), mesh((4,))), DeviceMesh.from_group(over.get_group(1), "cpu"))


def split_sequence(model: nn.Module, over: DeviceMesh) -> nn.Module:
    for block in model.modules():
        if isinstance(block, Block):
            block.context = over.get_group()
    model.context_mesh = over
    return model


def experts(over: DeviceMesh) -> nn.Module:
    """Return a sparse model whose experts are distributed over a mesh, as torchtitan does it."""
    model = Model(SparseBlock)
    for block in model.blocks:
        for name in ("up", "down"):
            whole = getattr(block.experts, name).detach()
            setattr(block.experts, name, nn.Parameter(distribute_tensor(whole, over, [Shard(0)])))
    return model


def ep_and_fsdp2() -> nn.Module:
    model = experts(mesh((2, 2), "efsdp", "ep")["ep"])
    grid = model.blocks[0].experts.up.device_mesh._get_root_mesh()
    for block in model.blocks:
        fully_shard(block.experts, mesh=grid["efsdp"])
    return sharded(model, mesh((4,), "dp_shard"))


def ep_without_names() -> nn.Module:
    model = experts(mesh((4,)))
    dense = {name for name, parameter in model.named_parameters() if "experts" not in name}
    names = {name for name, _ in model.named_parameters()} - dense
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(names))
    return DistributedDataParallel(model)


def ep_by_process_groups() -> nn.Module:
    for ranks in ([0, 1], [2, 3]):
        dist.new_group(ranks, group_desc="EXPERT_MODEL_PARALLEL_GROUP")
    return DistributedDataParallel(Model(SparseBlock))


def tp_and_dp_by_process_groups() -> nn.Module:
    """Return a model of plain tensors that is split by hand, so that only the descriptions of its process groups show
    how.
    """
    for ranks in ([0, 1], [2, 3]):
        dist.new_group(ranks, group_desc="TENSOR_MODEL_PARALLEL_GROUP")
    for ranks in ([0, 2], [1, 3]):
        dist.new_group(ranks, group_desc="DATA_PARALLEL_GROUP")
    return Model()


def held_back_by_ddp() -> nn.Module:
    return DistributedDataParallel(Model())


def held_back_by_fsdp1() -> nn.Module:
    return FullyShardedDataParallel(Model(), device_id=torch.device("cpu"))


def held_back_by_fsdp2() -> nn.Module:
    return sharded(Model(), mesh((4,), "dp_shard"))


def nothing() -> nn.Module:
    return Model()


LAYOUTS = (
    ddp, zero1, replicate_of_ddp, replicate_of_fsdp2, fsdp2, fsdp2_without_names, fsdp2_zero2, fsdp2_resharded_to_pairs,
    hsdp, fsdp1, fsdp1_zero2, fsdp1_hybrid, tp, tp_without_names, tp_and_fsdp2, tp_and_sp, tp_and_hand_made_dp,
    pp_and_fsdp2, cp_folded_into_fsdp2, context_parallel_ddp, context_parallel_fsdp2_without_names, ep_and_fsdp2,
    ep_without_names, ep_by_process_groups, tp_and_dp_by_process_groups,
    tp_and_fsdp2_under_names_of_their_own, nothing,
)  # fmt: skip
HELD_BACK = (held_back_by_ddp, held_back_by_fsdp1, held_back_by_fsdp2)
"""Gradients stay on their rank until the last micro-batch."""


def step(build: Callable[[], nn.Module]) -> dict[str, object]:
    """Run one step of two micro-batches under a layout, and return what is detected of it."""
    model = build()
    adamw = torch.optim.AdamW
    if build is zero1:
        optimizer = ZeroRedundancyOptimizer(model.parameters(), adamw, lr=1e-3)
    else:
        optimizer = adamw(model.parameters(), lr=1e-3)
    hooks = count_hooks(model)
    first = FirstStep(model)
    for last in (False, True):
        tokens = torch.randint(VOCAB, (2, LENGTH))
        if build is held_back_by_fsdp2:
            model.set_requires_gradient_sync(last)
        held = model.no_sync() if build in HELD_BACK[:2] and not last else nullcontext()
        over = getattr(model, "context_mesh", None)
        split = context_parallel(over, buffers=[tokens], buffer_seq_dims=[1]) if over else nullcontext()
        with split, held:
            model(tokens).sum().backward()
    optimizer.step()
    return seen(first, model, optimizer) | {"hooks_left": count_hooks(model) - hooks}


def pipelined(build: Callable[[], Any], *, told: bool) -> dict[str, object]:
    """Run one step under a pipeline schedule, which the script hands over or not."""
    schedule = build()
    stages = getattr(schedule, "_stages", None) or [schedule._stage]
    model = stages[0].submod
    optimizer = torch.optim.AdamW([p for stage in stages for p in stage.submod.parameters()], lr=1e-3)
    hooks = count_hooks(model)
    first = FirstStep(model, schedule if told else None)
    batch = torch.randint(VOCAB, (2 * MICRO_BATCHES, LENGTH))
    schedule.step(*([batch] if any(stage.is_first for stage in stages) else []), target=batch)
    optimizer.step()
    return seen(first, model, optimizer) | {
        "hooks_left": count_hooks(model) - hooks,
        "parameters_here": sum(p.numel() for stage in stages for p in stage.submod.parameters()),
    }


def seen(first: FirstStep, model: nn.Module, optimizer: object) -> dict[str, object]:
    found, _ = first.look(model, world_size=dist.get_world_size(), optimizer=optimizer)
    return as_plain_data(found)


def main() -> None:
    detect.__kwdefaults__["budget_s"] = 60.0  # a busy machine must not cut a look short
    results: dict[str, object] = {}
    works = [(build.__name__, partial(step, build)) for build in LAYOUTS + HELD_BACK]
    works += [(build.__name__, partial(pipelined, build, told=True)) for build in PIPELINES]
    works += [("schedule_that_nobody_told", partial(pipelined, PIPELINES[0], told=False))]
    rank, world_size, out = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Path(sys.argv[1])
    for name, work in works:
        if name not in sys.argv[2:]:
            continue
        # A job has one layout: each gets a world of its own, or groups of the one before would be seen.
        store = dist.FileStore(f"{out}.{name}", world_size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        torch.manual_seed(0)
        results[name] = work()
        dist.barrier()
        dist.destroy_process_group()
    results["parameters"] = {
        kind.__name__: sum(p.numel() for p in Model(kind).parameters()) for kind in (Block, SparseBlock)
    }
    if rank == 0:
        out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
