"""Read the fields of a row, and of the shape that it names, under the names that other software gives them.

People copy a row from the arguments of Megatron, from a recipe or from a `config.json`. What such a name says is
written down under the name of our schema before anything reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from carbon_plugin.calibrate.rows.device_names import slice_chips
from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.names import normalized

ROW_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "n_gpus": ("num_gpus", "gpus", "n_devices", "num_devices", "devices", "world_size"),
        "gpu": ("accelerator", "device", "gpu_type"),
        "seq_len": (
            "sequence_length",
            "seq_length",
            "max_seq_len",
            "max_seq_length",
            "context_length",
            "max_target_length",
            "block_size",
            "sequence_len",
            "cutoff_len",
        ),
        "mbs": (
            "micro_batch_size",
            "per_device_train_batch_size",
            "local_batch_size",
            "per_device_batch_size",
            "train_micro_batch_size_per_gpu",
        ),
        "gbs": ("global_batch_size", "train_batch_size"),
        "grad_accum": ("gradient_accumulation_steps",),
        "tp": ("tensor_parallel", "tensor_parallel_size", "tensor_model_parallel_size"),
        "pp": ("pipeline_parallel", "pipeline_parallel_size", "pipeline_model_parallel_size"),
        "cp": ("context_parallel", "context_parallel_size"),
        "ep": ("expert_parallel", "expert_parallel_size", "expert_model_parallel_size"),
        "etp": ("expert_tensor_parallel_size",),
        "dp": ("data_parallel", "data_parallel_size"),
        "vp": ("virtual_pipeline_model_parallel_size", "num_virtual_stages_per_pipeline_rank"),
        "dp_shard": ("data_parallel_shard_degree",),
        "dp_replicate": ("data_parallel_replicate_degree",),
        "sp": ("sequence_parallel",),
        "compile": ("torch_compile",),
        "step_time_s": ("step_time", "iteration_time_s", "seconds_per_step", "s_per_step"),
        "tokens_per_s_per_gpu": (
            "tokens_per_sec_per_gpu",
            "tokens_per_second_per_gpu",
            "tokens_per_s_per_device",
            "tokens_per_sec_per_device",
            "tokens_per_second_per_device",
            "tokens/s/gpu",
            "tokens/s/device",
            "tokens/s/chip",
        ),
        "tokens_per_s_total": ("total_tokens_per_s", "total_tokens_per_sec", "total_tokens_per_second"),
        "samples_per_s": (
            "samples_per_sec",
            "samples_per_second",
            "train_samples_per_second",
            "images_per_s",
            "images_per_sec",
            "images_per_second",
        ),
        "mfu_pct": ("mfu_percent",),
        "precision": ("dtype", "compute_dtype", "torch_dtype", "mixed_precision"),
        "lora_rank": ("lora_r",),
        "recompute": ("remat", "activation_checkpointing", "gradient_checkpointing", "recompute_granularity"),
        "inter_node": ("network", "interconnect"),
        "mem_gib_per_gpu": ("peak_memory_gib",),
        "dispatcher": ("moe_token_dispatcher_type",),
        "capacity_factor": ("moe_expert_capacity_factor",),
        "pad_to_capacity": ("moe_pad_expert_input_to_capacity",),
    }
)
"""The fields of a row, and what Megatron, DeepSpeed, transformers, torchtitan and MaxText call them."""
MEANT_BY_NULL: Mapping[str, object] = MappingProxyType(
    {
        "virtual-pipeline-model-parallel-size": 1,
        "num-virtual-stages-per-pipeline-rank": 1,
        "recompute-granularity": "none",
    }
)
"""What Megatron means by null in these arguments: one chunk a pipeline rank, and nothing computed again. In any other
field null says nothing."""
SWITCHES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "use_distributed_optimizer": ("sharding", "distributed optimizer (ZeRO-1)", "DDP"),
        "moe_router_force_load_balancing": ("routing", "balanced", "natural"),
    }
)
"""Arguments of Megatron that are true or false, the field that they stand for, and what either says there."""
SHAPE_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layers": ("num_layers", "num_hidden_layers", "n_layers"),
        "hidden": ("hidden_size", "d_model"),
        "heads": ("num_attention_heads", "n_heads"),
        "kv_heads": ("num_key_value_heads", "num_query_groups", "n_kv_heads"),
        "ffn": ("intermediate_size", "ffn_hidden_size"),
        "vocab": ("vocab_size", "padded_vocab_size"),
        "n_experts": ("experts", "num_experts", "n_routed_experts", "num_local_experts"),
        "top_k": ("num_experts_per_tok", "experts_per_token", "moe_router_topk"),
        "moe_ffn": ("moe_intermediate_size", "moe_ffn_hidden_size", "expert_ffn"),
        "shared_experts": ("n_shared_experts",),
        "shared_ffn": ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
        "dense_layers": ("first_k_dense_replace",),
        "tied": ("tie_word_embeddings", "tied_embeddings"),
    }
)
"""The dimensions of a model, and what a `config.json` and Megatron call them."""
MILLISECONDS = (
    "step_time_ms",
    "iteration_time_ms",
    "iter_time_ms",
    "elapsed_time_per_iteration_ms",
    "ms_per_step",
    "ms_per_iteration",
)
STEP_RATES = (
    "steps_per_s",
    "steps_per_sec",
    "steps_per_second",
    "train_steps_per_second",
    "iterations_per_second",
    "it_per_s",
)
"""Numbers of steps in a second, in place of the seconds of a step."""
SHARD_DEGREE, COPY_DEGREE = "dp_shard", "dp_replicate"
"""torchtitan's degrees of data parallelism: over how many ranks it shards, and among how many groups of these it keeps
copies."""
ALL_THE_REST = "-1"
"""What torchtitan's degree of sharding says, and means unless told otherwise, for all ranks that no other degree
takes."""
DEVICES_AHEAD = re.compile(r"(\d+)\s*[x×]\s*(\D.*)")
"""A number of devices before their name, as in "8x H100"."""


def spelled_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row under the names of the schema.

    Raises `SpecError` where two names of one field say different things.
    """
    row = _spelled({**record}, {**ROW_NAMES, **SHAPE_NAMES})
    for name in [name for name in row if normalized(str(name)) in map(normalized, MILLISECONDS)]:
        if (milliseconds := _taken(row, name)) is not None:
            row = _with(row, "step_time_s", milliseconds / 1000, name)
    for name in [name for name in row if normalized(str(name)) in map(normalized, STEP_RATES)]:
        if (rate := _taken(row, name)) is not None:
            row = _with(row, "step_time_s", 1 / rate, name)
    if (mfu := _taken(row, "mfu")) is not None:
        row = _with(row, "mfu_pct", 100 * mfu if mfu < 1 else mfu, "mfu")
    for name in [name for name in row if normalized(str(name)) in map(normalized, SWITCHES)]:
        row = _with_switch(row, str(name))
    row = _compiled(_sharded(row))
    if isinstance(row.get("gpu"), str) and (ahead := DEVICES_AHEAD.fullmatch(row["gpu"].strip())):
        row = _with({**row, "gpu": ahead.group(2)}, "n_gpus", int(ahead.group(1)), "gpu")
    if row.get("n_gpus") is None and (chips := slice_chips(str(row.get("gpu", "")))) is not None:
        row = {**row, "n_gpus": chips}
    return row


def _sharded(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with torchtitan's two degrees of data parallelism as one, and how it shards in words.

    Raises `SpecError` for a degree that is no positive integer.
    """
    stated = Fields(row)
    if not stated.states(SHARD_DEGREE, COPY_DEGREE):
        return row
    within = None if stated.text(SHARD_DEGREE) in ("", ALL_THE_REST) else stated.count(SHARD_DEGREE)
    among = stated.count(COPY_DEGREE, 1)
    row = {name: value for name, value in row.items() if name not in (SHARD_DEGREE, COPY_DEGREE)}
    if within is not None:
        row = _with(row, "dp", within * among, f"{SHARD_DEGREE} times {COPY_DEGREE}")
    words = str(row.get("sharding") or ("none (copies)" if within == 1 else "FSDP2"))
    if among > 1 and within != 1:
        words += f" of DP {among}" if within is None else f" within groups of {within}"
    return {**row, "sharding": words}


def _compiled(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with a compiler that a field of its own switches on among what `overlap` says."""
    if not isinstance(row.get("compile"), bool):
        return row
    rest = {name: value for name, value in row.items() if name != "compile"}
    if not row["compile"]:
        return rest
    return {**rest, "overlap": ", ".join(filter(None, (str(row.get("overlap") or ""), "torch.compile")))}


def is_spelling(name: str) -> bool:
    """Return whether a field is known under this name, which is none of the schema's."""
    others = (other for known in (*ROW_NAMES.values(), *SHAPE_NAMES.values()) for other in known)
    return normalized(name) in map(normalized, (*others, *MILLISECONDS, *STEP_RATES, *SWITCHES, "mfu"))


def spelled_shape(shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dimensions of a model under the names of the schema. Raises `SpecError` as `spelled_row` does."""
    return _spelled({**shape}, SHAPE_NAMES)


def _spelled(fields: dict[str, Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    meant = {normalized(other): name for name, others in names.items() for other in others}
    for other in [*fields]:
        name = meant.get(normalized(str(other)))
        if name is not None and other != name:
            value = fields.pop(other)
            meant_value = MEANT_BY_NULL.get(normalized(str(other))) if value is None else value
            fields = _with(fields, name, meant_value, str(other))
    return fields


def _with(fields: dict[str, Any], name: str, value: object, other: str) -> dict[str, Any]:
    """Return the fields with one more, which stands there under another name."""
    stated = fields.get(name)
    if stated is not None and value is not None and str(stated) != str(value):
        raise SpecError(f"{name} is {stated!r} and {other} says {value!r}, which is the same field; keep one of them")
    return fields if value is None else {**fields, name: value}


def _with_switch(fields: dict[str, Any], other: str) -> dict[str, Any]:
    known = {normalized(switch): said for switch, said in SWITCHES.items()}
    name, if_true, if_false = known[normalized(other)]
    on = Fields(fields).flag(other)
    rest = {key: value for key, value in fields.items() if key != other}
    return rest if on is None else _with(rest, name, if_true if on else if_false, other)


def _taken(fields: dict[str, Any], name: str) -> float | None:
    """Take a positive number out of the fields, and return it, or None where it is not stated."""
    stated = Fields({name: fields.pop(name, None)})
    return stated.number(name) if stated.states(name) else None
