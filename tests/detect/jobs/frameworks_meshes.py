"""One step of tiny models that Accelerate, transformers and torchtitan spread over their meshes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # for axes of one rank, which torchtitan gives a mesh too
import torchtitan.distributed.parallel_dims
from accelerate import Accelerator
from accelerate.parallelism_config import ParallelismConfig
from accelerate.state import AcceleratorState
from looking import look
from tiny import FFN, HEADS, HIDDEN, LAYERS, LENGTH, VOCAB, Model, sharded
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torchtitan.distributed.parallel_dims import ParallelDims
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.distributed import DistributedConfig

LLAMA = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    intermediate_size=FFN,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=HEADS,
    max_position_embeddings=LENGTH,
    tie_word_embeddings=False,
)


def one_step(model: nn.Module) -> Callable[[], torch.optim.Optimizer]:
    def train() -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        out = model(torch.randint(VOCAB, (2, LENGTH)))
        getattr(out, "logits", out).sum().backward()
        optimizer.step()
        return optimizer

    return train


def accelerated(config: ParallelismConfig | None = None) -> dict[str, Any]:
    """Accelerate prepares DDP on CPUs. It refuses a ParallelismConfig there, so that one is put into its state and the
    model is spread over its mesh by hand, as Accelerate does on GPUs."""
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


def loaded(**sizes: int) -> dict[str, Any]:
    """A Llama that `from_pretrained` shards: it takes one folder for all ranks."""
    folder = f"{sys.argv[1]}.llama"
    if dist.get_rank() == 0 and not Path(folder).exists():
        torch.manual_seed(0)
        LlamaForCausalLM(LLAMA).save_pretrained(folder)
    dist.barrier()
    model = LlamaForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(**sizes))
    return look(model.train(), one_step(model))


def titan(**degrees: int) -> dict[str, Any]:
    """Dimensions of a torchtitan trainer, which an adapter hands over, and a model spread over their meshes."""
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
    yield "transformers_tp", lambda: loaded(tp_size=4)
    yield "transformers_fsdp_tp", lambda: loaded(fsdp_size=2, tp_size=2)
    torchtitan.distributed.parallel_dims.device_type = "cpu"
    yield "torchtitan_tp_fsdp", lambda: titan(dp_shard=2, tp=2)
    yield "torchtitan_hsdp_cp", lambda: titan(dp_replicate=2, cp=2)
    yield "torchtitan_pp_ep", lambda: titan(pp=2, dp_shard=2, ep=2)
