"""One step of a tiny GPT of Megatron-core under several parallel states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from looking import look
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.num_microbatches_calculator import (
    init_num_microbatches_calculator,
    unset_num_microbatches_calculator,
)
from megatron.core.transformer import TransformerConfig
from tiny import FFN, HEADS, HIDDEN, LAYERS, LENGTH, VOCAB
from torch import nn

MICRO_BATCH, MICRO_BATCHES = 2, 2


def model_of(degrees: dict[str, int], *, experts: bool, **options: Any) -> GPTModel:
    config = TransformerConfig(
        num_layers=options.pop("num_layers", LAYERS),
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,  # context parallelism is only told to the parallel state: attention refuses it here
        ffn_hidden_size=FFN,
        num_moe_experts=4 if experts else None,
        moe_router_topk=2,
        add_bias_linear=False,
        use_cpu_initialization=True,
        tensor_model_parallel_size=degrees.get("tensor_model_parallel_size", 1),
        expert_model_parallel_size=degrees.get("expert_model_parallel_size", 1),
        pipeline_model_parallel_size=degrees.get("pipeline_model_parallel_size", 1),
        pipeline_dtype=torch.float32,
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        **options,
    )
    return GPTModel(
        config,
        get_gpt_layer_local_spec(num_experts=config.num_moe_experts),
        vocab_size=VOCAB,
        max_sequence_length=LENGTH,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        position_embedding_type="learned_absolute",
    )


def parallel(
    *, experts: bool = False, virtual: int | None = None, told: dict[str, Any] | None = None, **degrees: Any
) -> dict[str, Any]:
    """Run one step under a parallel state. `told` is put on the configurations of the finished model, because the
    layers and wrappers that take it run on GPUs only.
    """
    options = {name: degrees.pop(name) for name in list(degrees) if not name.endswith("_parallel_size")}
    parallel_state.initialize_model_parallel(virtual_pipeline_model_parallel_size=virtual, **degrees)
    data = parallel_state.get_data_parallel_world_size()
    init_num_microbatches_calculator(dist.get_rank(), None, MICRO_BATCH * MICRO_BATCHES * data, MICRO_BATCH, data)
    try:
        model: nn.Module = model_of(degrees, experts=experts, **options)
        for name, value in (told or {}).items():
            setattr(model if name == "ddp_config" else model.config, name, value)
        return look(model, partial(train, model))
    finally:
        unset_num_microbatches_calculator()
        parallel_state.destroy_model_parallel()


def train(model: nn.Module) -> torch.optim.Optimizer:
    """Run a step of the optimizer alone, because attention and schedules of Megatron run on GPUs only."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer


def jobs() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    tp, pp = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
    cp, ep = {"context_parallel_size": 2}, {"expert_model_parallel_size": 2}
    overlapped = {"sequence_parallel": True, "tp_comm_overlap": True}
    half = {"bf16": True, "params_dtype": torch.bfloat16}
    sharding = {"ddp_config": DistributedDataParallelConfig(use_distributed_optimizer=True)}
    yield "megatron_tp_dp", lambda: parallel(**tp)
    yield "megatron_tp_sp_sharded", lambda: parallel(**tp, told=overlapped | sharding)
    again = {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "layernorm"]}
    yield "megatron_tp_pp", lambda: parallel(**tp, **pp, num_layers=4, **again, **half)
    yield "megatron_tp_cp", lambda: parallel(**tp, **cp, cp_comm_type="a2a")
    yield "megatron_interleaved", lambda: parallel(**pp, virtual=2, num_layers=4)
    yield "megatron_ep_dp", lambda: parallel(**ep, experts=True)
    captured = {
        "cuda_graph_impl": "transformer_engine",
        "cuda_graph_scope": "attn",
        "use_transformer_engine_op_fuser": True,
        "moe_token_dispatcher_type": "flex",
        "moe_flex_dispatcher_backend": "hybridep",
    }
    some = {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 1}
    told = overlapped | captured | some
    yield "megatron_tp_ep", lambda: parallel(**tp, **ep, experts=True, told=told, expert_tensor_parallel_size=1)
