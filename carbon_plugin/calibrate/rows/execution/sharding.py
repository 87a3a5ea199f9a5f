"""Read by which stage of ZeRO a published row shared out its parameters, and over how many ranks."""

from __future__ import annotations

import re

from carbon_plugin.calibrate.rows.execution.precision import PURE_BYTES, STATE_BYTES
from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.defaults import Taken
from carbon_plugin.spec.frameworks import Conventions
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.models.model import TransformerModel

NAMED_STAGE = re.compile(r"(?i)(?:zero|stage)[\s_-]?(?:stage[\s_-]?)?(\d+)|^\s*(\d+)\s*$")
"""A stage of ZeRO by its number: "ZeRO-3", "ZeRO stage 2", "stage 1" of Megatron-DeepSpeed's arguments, or the number
alone.
"""
HYBRID = r"HSDP|(?:\b|_)hybrid"
HYBRID_SHARDING = re.compile(rf"(?i){HYBRID}")
"""Shards within an island, and copies of these between islands (`HYBRID_SHARD` of PyTorch's `ShardingStrategy`)."""
SHARDINGS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"(?i)distributed optimizer|optimizer[\s-]states?"), 1),
    (re.compile(r"(?i)shard[\s_]grad[\s_]op"), 2),
    (re.compile(rf"(?i)fsdp|full(?:y)?[\s_-]?shard|{HYBRID}"), 3),
    (re.compile(r"(?i)\b(?:no|none|ddp|dp|data[\s-]parallel(?:ism)?|replicate[ds]?|no[\s_-]shard(?:ing)?)\b"), 0),
)
"""The words for how parameters are shared out, each with its stage of ZeRO; the first that a text has counts. They are
those of Megatron, of PyTorch's `ShardingStrategy` and of papers.
"""
OFFLOADED = re.compile(r"(?i)(?<!no )\boffload")


def usual_stage(model: TransformerModel, cluster: Cluster, split: int, conventions: Conventions) -> Taken:
    """Return the stage of ZeRO by which a framework shards unless it is told otherwise, and why.

    Trainers that copy models whole are told to shard those of which a device cannot hold weights, gradients and states.
    """
    usual = conventions.zero_stage
    trained = model.trainable_fraction
    held = model.parameters * (2 * (1 - trained) + (PURE_BYTES + STATE_BYTES) * trained) / split
    if conventions.shards_alone and usual == 0 and held > cluster.accelerator.memory_bytes.value:
        return Taken(3, "whole copies do not fit in the device")
    return Taken(usual, "")


def zero_stage(row: Fields, pp: int, usual: Taken, conventions: Conventions, assumed: list[str]) -> int:
    """Return the stage of ZeRO that the row states in words, or the usual one where it states none.

    Raises `SpecError` for words that say nothing of how parameters are shared out.
    """
    text = row.text("sharding")
    if not text:
        assumed.append(f"sharding ZeRO-{usual.value}{': ' * bool(usual.why)}{usual.why}")
        return usual.value
    if (match := NAMED_STAGE.search(text)) is not None:
        named = int(match.group(1) or match.group(2))
        if named > 3:
            raise SpecError(f"sharding {text!r} names a stage {named} of ZeRO, expected 0, 1, 2 or 3")
        if named == 2 and pp > 1 and conventions.reentrant:
            # Megatron-DeepSpeed accumulates whole gradients over a pipeline's micro-batches and exchanges them once.
            assumed.append("gradients exchanged once a step")
            return 1
        return named
    for words, stage in SHARDINGS:
        if words.search(text):
            return 1 if stage == 0 and pp > 1 and _shards_by_bf16_optimizer(row) else stage
    raise SpecError(f"sharding {text!r} is not understood; expected none, DDP, ZeRO-1, ZeRO-2, ZeRO-3, FSDP or HSDP")


def _shards_by_bf16_optimizer(row: Fields) -> bool:
    """Return whether a pipeline of Megatron-DeepSpeed without a stage of ZeRO shards its optimizer states all the same.

    Its bf16 optimizer gives every data-parallel rank a share of the fp32 weights and states (`BF16_Optimizer` of
    DeepSpeed's runtime/bf16_optimizer.py, which runtime/engine.py takes for bf16 under a pipeline). BLOOM's script sets
    `ZERO_STAGE=0` for it. The fp16 optimizer shards nothing.
    """
    megatron = row.text("framework").lower().startswith("megatron-deepspeed")
    return megatron and not row.text("precision").lower().startswith(("fp16", "fp32"))


def hybrid_shards(row: Fields, dp: int, cluster: Cluster) -> int:
    """Return the size of the shard group of a hybrid layout.

    It comes from MaxText's "DP n" replicas, from a stated group ("over n", "within groups of n"), or from the island in
    the case of HSDP and of "inside a pod" or slice. Raises `SpecError` where it does not divide the data-parallel
    ranks.
    """
    text = row.text("sharding")
    shards = dp
    if match := re.search(r"DP (\d+)$", text):
        shards = dp // max(1, int(match.group(1)))
    elif match := re.search(r"over (\d+)$|within groups of (\d+)", text):
        shards = min(dp, int(match.group(1) or match.group(2)))
    elif HYBRID_SHARDING.search(text) or re.search(r"inside a (pod|slice)", text):
        shards = min(dp, cluster.devices_per_node)
    if shards < 1 or dp % shards:
        raise SpecError(f"sharding {text!r} does not divide the {dp} data-parallel ranks")
    return shards
