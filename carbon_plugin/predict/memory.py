"""Bytes on the fullest device of a step, by part.

Sources: mixed-precision state bytes as in ZeRO (Rajbhandari et al. 2020, section 3) and Megatron-LM's theoretical
memory report; activations per layer as in Korthikanti et al. 2022 (arXiv 2205.05198, table 2), generalised to
gated feed-forward layers, grouped heads, experts and fused attention.
"""

from __future__ import annotations

import numpy as np

from carbon_plugin.predict.case import Layout, Shape, Values, Work
from carbon_plugin.predict.layer import layer_parameters
from carbon_plugin.predict.rates import Rates
from carbon_plugin.predict.schedule import device_parameters, sparse_share

MASTER_BYTES = 4
CONTEXT_BYTES = 1.2 * 2**30
"""Device context and communicator buffers, outside the allocator."""
FRAGMENTATION_SHARE = 0.04
OPERATOR_KEPT_SHARE = 0.6
"""Activations that a per-operation checkpoint policy keeps over keeping all."""
LOGIT_BYTES = 14
FUSED_LOGIT_BYTES = 10
"""Bytes a logit on the last stage: 16-bit value, fp32 copy, fp32 gradient; a softmax of its own where not fused."""


def memory_bytes(shape: Shape, layout: Layout, work: Work, rates: Rates) -> dict[str, Values]:
    """Parts in bytes on the fullest device; their sum is the need, `reserve` included."""
    shared, routed = device_parameters(shape, layout)
    shards = layout.dp_shard * layout.cp
    expert_shards = np.maximum(shards * np.where(layout.ep > 1, layout.tp, 1) / layout.ep, 1)
    narrow = work.parameter_bytes < MASTER_BYTES
    stage = layout.zero_stage

    def split(from_stage: int) -> Values:
        """Parameters per device of a state that is sharded from a ZeRO stage on."""
        return np.where(stage >= from_stage, shared / shards + routed / expert_shards, shared + routed)

    trained = shape.trainable
    # FSDP keeps one sharded fp32 copy and gathers 16-bit units; other stages keep a 16-bit copy beside the master.
    kept = np.where(stage >= 3, 0.0, work.parameter_bytes * (shared + routed))
    master = np.where(narrow | (stage >= 3), MASTER_BYTES * split(1), 0.0)
    unit_shared, unit_routed = layer_parameters(shape, layout, sparse=bool(np.any(shape.moe_layers > 0)))
    # Under a pipeline FSDP gathers a stage once a step and accumulates its gradients whole.
    pipelined = layout.pp > 1
    unit = np.where(pipelined, shared + routed, 2 * (unit_shared + unit_routed))
    gathered = np.where(stage >= 3, work.parameter_bytes * unit, 0.0)
    grad_bytes = np.where(stage >= 2, MASTER_BYTES, work.reduce_bytes)
    gradients = np.where(pipelined, split(4), split(2))
    parts = {
        "parameters": kept + gathered,
        "gradients": grad_bytes * gradients * trained,
        "optimizer": (master + work.optimizer_bytes * split(1)) * trained,
        "activations": _stage_activations(shape, layout, work, rates),
        "logits": _logits(shape, layout, work, rates),
    }
    # Gathered units are zero-size where nothing is sharded; frozen masters are not kept at all.
    parts["reserve"] = CONTEXT_BYTES + FRAGMENTATION_SHARE * np.asarray(sum(parts.values()))
    return parts


def layer_activation_bytes(shape: Shape, layout: Layout, work: Work, rates: Rates, *, sparse: bool) -> Values:
    """Bytes one layer keeps for the backward pass of one micro-batch, without recompute."""
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    split = np.where(layout.sequence_parallel > 0, layout.tp, 1)
    kv = np.maximum(shape.kv_heads / layout.tp, 1)
    narrow = (8 + 2 * shape.dropout) * shape.hidden / split
    heads = shape.heads / layout.tp
    attention = 2 * (heads * shape.qk_dim + kv * (shape.qk_dim + shape.v_dim)) + 2 * heads * shape.v_dim
    attention = attention + 2 * shape.mla * (shape.q_rank + shape.kv_rank + shape.rope_dim)
    scores = 5 * heads * work.seq_len / 1.0 * (rates.attention_unfused > 0)
    per_width = 4 + 2 * shape.gated
    if sparse:
        routed = shape.top_k * (per_width * shape.expert_ffn + 2 * 2 * shape.hidden) * shape.imbalance
        routed = routed / layout.tp + shape.experts * 4
        feed = routed + per_width * shape.shared_ffn / layout.tp
    else:
        feed = per_width * shape.ffn / layout.tp
    return np.asarray(tokens * (narrow + attention + scores + feed) * work.activation_bytes / 2)


def _stage_activations(shape: Shape, layout: Layout, work: Work, rates: Rates) -> Values:
    """Activations on the first stage, which holds the most micro-batches in flight."""
    sparse = np.any(shape.moe_layers > 0)
    share = sparse_share(shape, layout)
    layer = layer_activation_bytes(shape, layout, work, rates, sparse=False)
    if sparse:
        layer = share * layer_activation_bytes(shape, layout, work, rates, sparse=True) + (1 - share) * layer
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    split = np.where((layout.sequence_parallel > 0), layout.tp, 1)
    boundary = tokens * shape.hidden * work.activation_bytes / split
    score_bytes = 5 * shape.heads / layout.tp * work.seq_len * tokens * (rates.attention_unfused > 0)
    kept = (
        layout.recompute_full * boundary
        + layout.recompute_operators * OPERATOR_KEPT_SHARE * layer
        + layout.recompute_selective * (layer - score_bytes * work.activation_bytes / 2)
        + (1 - layout.recompute_full - layout.recompute_operators - layout.recompute_selective) * layer
    )
    m = work.batch / (layout.dp * layout.micro_batch_size)
    layers = np.ceil(shape.layers / layout.pp)
    v = layout.virtual_stages
    in_flight = np.minimum(m, layout.pp) * np.where(v > 1, 1 + (layout.pp - 1) / (layout.pp * v), 1.0)
    working = np.where(layout.recompute_full + layout.recompute_operators > 0, layer, 0.0)
    return np.asarray(kept * layers * in_flight + working)


def _logits(shape: Shape, layout: Layout, work: Work, rates: Rates) -> Values:
    """Logits of one micro-batch. With a pipeline they sit on the last stage, whose activations are fewer than the
    first one's by more than this in all published cases, so they count only without one."""
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    size = np.where(rates.fused > 0, FUSED_LOGIT_BYTES, LOGIT_BYTES) * tokens * shape.vocab / layout.tp
    return np.where(layout.pp > 1, 0.0, size)
