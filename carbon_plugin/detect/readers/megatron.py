"""Read Megatron-core from its parallel state and from the configurations that its modules carry.

Its tensors are plain and local to a rank, so that parameters are counted by the marks that it puts on them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.readers.megatron_shape import decoder_shape
from carbon_plugin.detect.wrappers import unwrapped
from carbon_plugin.spec.layout import RecomputedModule

if TYPE_CHECKING:
    from torch import nn

_SHARDING = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
"""The ZeRO stage by the `data_parallel_sharding_strategy` of Megatron-FSDP."""


def read(job: Job) -> Findings | None:
    """Return the axes of an initialised parallel state and the facts on the step in configurations, or None without
    such a state.
    """
    state: Any = sys.modules["megatron.core.parallel_state"]
    if not state.model_parallel_is_initialized():
        return None
    config = next(_with(job.model, "config", "tensor_model_parallel_size"), None)
    axes = _degrees(state) | _data_parallel(job, state)
    fields = {f"layout.{axis}": seen for axis, seen in axes.items()}
    if config is not None:
        fields |= _configured(config, axes)
    shape = None if config is None else decoder_shape(job.model, config)
    return Findings(fields=fields, parameters=_parameters(job.model, axes), shape=shape)


def _degrees(state: Any) -> dict[str, Observed]:
    sizes = {
        "tp": "get_tensor_model_parallel_world_size",
        "pp": "get_pipeline_model_parallel_world_size",
        "cp": "get_context_parallel_world_size",
        "ep": "get_expert_model_parallel_world_size",
    }
    axes = {axis: Observed(int(getattr(state, name)()), f"parallel_state.{name}") for axis, name in sizes.items()}
    if axes["ep"].value > 1:
        within = int(state.get_expert_tensor_parallel_world_size())
        axes["expert_tp"] = Observed(within, "parallel_state.get_expert_tensor_parallel_world_size")
    if axes["pp"].value > 1:
        chunks = state.get_virtual_pipeline_model_parallel_world_size() or 1
        source = "parallel_state.get_virtual_pipeline_model_parallel_world_size"
        axes["virtual_stages"] = Observed(int(chunks), source)
        axes["pipeline_schedule"] = Observed("interleaved" if chunks > 1 else "1f1b", source)
    return axes


def _data_parallel(job: Job, state: Any) -> dict[str, Observed]:
    """Return the replicas, or the shards where the optimizer or Megatron-FSDP shards.

    It shards over cp too, which is counted as an axis of its own.
    """
    dp, source = int(state.get_data_parallel_world_size()), "parallel_state.get_data_parallel_world_size"
    config = next(_with(job.model, "ddp_config", "use_distributed_optimizer"), None)
    stage, why = _zero_stage(config, job.optimizer)
    if dp == 1 or stage == 0:
        return {"dp_replicate": Observed(dp, source), "dp_shard": Observed(1, source), "zero_stage": Observed(0, why)}
    instances = max(1, int(getattr(config, "num_distributed_optimizer_instances", 1)))
    return {
        "dp_replicate": Observed(instances, f"{source}, instances of the distributed optimizer"),
        "dp_shard": Observed(dp // instances, source),
        "zero_stage": Observed(stage, why),
    }


def _zero_stage(config: Any, optimizer: Any) -> tuple[int, str]:
    if config is not None and (config.use_megatron_fsdp or getattr(config, "use_custom_fsdp", False)):
        strategy = config.data_parallel_sharding_strategy
        return _SHARDING.get(strategy, 0), f"Megatron-FSDP {strategy}"
    if config is not None:
        shards = bool(config.use_distributed_optimizer)
        return int(shards), f"ddp_config.use_distributed_optimizer is {shards}"
    for part in (optimizer, *getattr(optimizer, "chained_optimizers", ())):
        if type(part).__name__ == "DistributedOptimizer":
            return 1, "class DistributedOptimizer"
    return 0, "no distributed optimizer"


def _configured(config: Any, axes: dict[str, Observed]) -> dict[str, Observed]:
    """Return what a TransformerConfig says of the step."""
    fields = {}
    if axes["tp"].value > 1:
        fields["layout.sequence_parallel"] = Observed(bool(config.sequence_parallel), "config.sequence_parallel")
        fields["layout.async_tp"] = Observed(bool(config.tp_comm_overlap), "config.tp_comm_overlap")
    if axes["cp"].value > 1:
        said = getattr(config, "cp_comm_type", None) or "p2p"
        kinds = {said} if isinstance(said, str) else set(said)
        kind = "all_to_all" if kinds <= {"a2a"} else "ring"
        fields["layout.context_parallel_kind"] = Observed(kind, f"config.cp_comm_type {said}")
    if axes["ep"].value > 1:
        overlap = bool(getattr(config, "overlap_moe_expert_parallel_comm", False))
        fields["layout.expert_overlap"] = Observed(overlap, "config.overlap_moe_expert_parallel_comm")
    fields |= _kernels(config)
    granularity = getattr(config, "recompute_granularity", None)
    source = f"config.recompute_granularity is {granularity}"
    fields["layout.recompute"] = Observed(granularity or "none", source)
    if granularity == "full":
        fields["layout.recompute_share"] = _recomputed_share(config, axes)
    listed = getattr(config, "recompute_modules", None) or ()
    named = tuple(name for name in listed if name in get_args(RecomputedModule))
    if granularity == "selective" and named not in ((), ("core_attn",)):
        fields["layout.recompute_modules"] = Observed(named, "config.recompute_modules")
    for precision, name in (("fp8", "fp8"), ("bf16", "bf16"), ("fp16", "fp16")):
        if getattr(config, name, None):
            mx = precision == "fp8" and getattr(config, "fp8_recipe", None) == "mxfp8"
            fields["training.precision"] = Observed("mxfp8" if mx else precision, f"config.{name}")
            break
    return fields | _batches()


def _recomputed_share(config: Any, axes: dict[str, Observed]) -> Observed:
    """Return the share of the layers that full recompute repeats: the first ones of each model chunk by the method
    "block", all by "uniform"."""
    method, number = getattr(config, "recompute_method", None), getattr(config, "recompute_num_layers", None)
    source = f"config.recompute_method {method}, recompute_num_layers {number}"
    if method != "block" or number is None:
        return Observed(1.0, source)
    chunks = axes["pp"].value * (axes["virtual_stages"].value if "virtual_stages" in axes else 1)
    return Observed(min(1.0, number * chunks / config.num_layers), source)


def _kernels(config: Any) -> dict[str, Observed]:
    """Return what is replayed as CUDA graphs, whether experts run in a loop or fused, and how tokens reach them."""
    implementation, scope = getattr(config, "cuda_graph_impl", None), getattr(config, "cuda_graph_scope", None)
    fields = {}
    if implementation is not None:
        whole = "full_iteration" in f"{implementation} {scope}"
        kind = "none" if implementation == "none" else "iteration" if whole else "scoped"
        fields["stack.cuda_graphs"] = Observed(kind, f"config.cuda_graph_impl {implementation}, scope {scope}")
    if getattr(config, "num_moe_experts", None):
        fused = bool(getattr(config, "use_transformer_engine_op_fuser", False))
        fields["stack.fused_experts"] = Observed(fused, "config.use_transformer_engine_op_fuser")
        grouped = getattr(config, "moe_grouped_gemm", None)
        if grouped is not None:
            # Without it each expert is a module, which gets its part of tokens that were sorted by expert.
            for name in ("expert_loop", "sorted_loop"):
                fields[f"stack.{name}"] = Observed(not grouped, f"config.moe_grouped_gemm {grouped}")
        # The flexible dispatcher sends a token once to each rank, by DeepEP or by HybridEP.
        dispatcher = getattr(config, "moe_token_dispatcher_type", None)
        if dispatcher is not None:
            backend = getattr(config, "moe_flex_dispatcher_backend", None) or "deepep"
            way = ("hybridep" if backend == "hybridep" else "deepep") if dispatcher == "flex" else "all_to_all"
            said = f"config.moe_token_dispatcher_type {dispatcher}{f' by {backend}' * (dispatcher == 'flex')}"
            fields["stack.expert_dispatch"] = Observed(way, said)
    return fields


def _batches() -> dict[str, Observed]:
    """Return the micro-batches by Megatron's calculator, nothing if the script does not use it."""
    calculator: Any = sys.modules.get("megatron.core.num_microbatches_calculator")
    if calculator is None or getattr(calculator, "_GLOBAL_NUM_MICROBATCHES_CALCULATOR", None) is None:
        return {}
    return {
        "training.micro_batches": Observed(int(calculator.get_num_microbatches()), "get_num_microbatches()"),
        "layout.micro_batch_size": Observed(int(calculator.get_micro_batch_size()), "get_micro_batch_size()"),
    }


def _parameters(model: nn.Module, axes: dict[str, Observed]) -> tuple[int, int]:
    """Return (all, trainable) parameters of this stage on all ranks; `allreduce` False marks the parameters
    of experts.
    """
    tp, ep, within = (int(axes[axis].value) if axis in axes else 1 for axis in ("tp", "ep", "expert_tp"))
    total = trainable = 0
    for parameter in model.parameters():
        expert = getattr(parameter, "allreduce", True) is False
        split = bool(getattr(parameter, "tensor_model_parallel", False))
        size = parameter.numel() * (ep if expert else 1) * ((within if expert else tp) if split else 1)
        total += size
        trainable += size if parameter.requires_grad else 0
    return total, trainable


def _with(model: nn.Module, attribute: str, field: str) -> Iterator[Any]:
    """Return the configurations that the modules of a model carry under a name, if they have a field."""
    for module in (unwrapped(model), *model.modules()):
        config = getattr(module, attribute, None)
        if hasattr(config, field):
            yield config
