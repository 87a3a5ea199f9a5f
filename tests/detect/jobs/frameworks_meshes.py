"""One step of tiny models that Accelerate and torchtitan spread over their meshes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

# torchtitan gives axes of one rank a mesh too, which this import makes possible.
import torch.testing._internal.distributed.fake_pg  # noqa: F401
import torchtitan.distributed.parallel_dims
from accelerate import Accelerator
from accelerate.parallelism_config import ParallelismConfig
from accelerate.state import AcceleratorState
from looking import look, one_step
from tiny import Model, sharded
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torchtitan.distributed.parallel_dims import ParallelDims


def accelerated(config: ParallelismConfig | None = None) -> dict[str, Any]:
    """Prepare a model with Accelerate, which uses DDP on CPUs. It refuses a ParallelismConfig there, so one is put into
    its state, and the model is spread over its mesh by hand, as Accelerate does on GPUs.
    """
    accelerator = Accelerator(cpu=True)
    try:
        if config is None:
            model = accelerator.prepare(Model())
        else:
            accelerator.state.parallelism_config = config
            over = config.build_device_mesh("cpu")
            model = Model()
            if config.tp_size > 1:
                tensor_parallel(model, over["tp"])
            model = sharded(model, over[config.fsdp_dim_names])
        return look(model, one_step(model), framework=accelerator)
    finally:
        AcceleratorState._reset_state(False)


def tensor_parallel(model: nn.Module, over: Any) -> None:
    for block in model.blocks:
        parallelize_module(block, over, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def titan(**degrees: int) -> dict[str, Any]:
    """Return what is detected of a model that is spread over torchtitan's meshes, with the dimensions handed over as an
    adapter does.
    """
    ones = dict.fromkeys(("dp_replicate", "dp_shard", "cp", "tp", "pp", "ep"), 1)
    dims = ParallelDims(**(ones | degrees), world_size=dist.get_world_size())
    model = Model()
    if dims.tp > 1:
        tensor_parallel(model, dims.get_mesh("tp"))
    if dims.dp_shard > 1:
        model = sharded(model, dims.get_mesh("dp_shard"))
    return look(model, one_step(model), framework=dims)


def jobs() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "accelerate_ddp", accelerated
    yield "accelerate_hsdp", lambda: accelerated(ParallelismConfig(dp_replicate_size=2, dp_shard_size=2))
    yield "accelerate_tp_fsdp", lambda: accelerated(ParallelismConfig(dp_shard_size=2, tp_size=2))
    yield "accelerate_cp_fsdp", lambda: accelerated(ParallelismConfig(dp_shard_size=2, cp_size=2))
    torchtitan.distributed.parallel_dims.device_type = "cpu"
    yield "torchtitan_tp_fsdp", lambda: titan(dp_shard=2, tp=2)
    yield "torchtitan_hsdp_cp", lambda: titan(dp_replicate=2, cp=2)
    yield "torchtitan_pp_ep", lambda: titan(pp=2, dp_shard=2, ep=2)
