"""Count the FLOPs of one optimizer step: those of the model itself (for MFU) and those really executed (for HFU).

A multiply-add is 2 FLOPs, and the backward pass costs twice the forward pass. Attention is counted as causal: half of
the square of scores, as Megatron-LM's counter does. torchtitan and llm-foundry count the full square.
"""

from __future__ import annotations

from dataclasses import replace

from carbon_plugin.predict.arrays import Values, any_of, maximum, minimum, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.time.indexer import chosen_pairs, index_flops_of_layer
from carbon_plugin.predict.time.recompute import OPERATOR_RECOMPUTE_SHARE
from carbon_plugin.predict.time.scan import scan_flops_per_token


def layer_forward_flops(shape: Shape, work: StepWork) -> tuple[Values, Values]:
    """Return the FLOPs of the forward pass of all layers for one sequence.

    The first value counts matrix products, the second the cores of causal attention and the scans.
    """
    if shape.kinds:
        counts = [_kind_flops(kind, work) for kind in _all_kinds(shape)]
        return sum_of(count[0] for count in counts), sum_of(count[1] for count in counts)
    s = work.seq_len
    matrices = 2 + shape.gated
    dense = (shape.layers - shape.moe_layers) * shape.ffn
    active = shape.top_k * shape.expert_ffn * shape.expert_hidden / shape.hidden + shape.shared_ffn
    sparse = (shape.moe_layers + shape.mtp * (shape.moe_layers > 0)) * active
    dense = dense + shape.mtp * (shape.moe_layers == 0) * shape.ffn
    blocks = shape.layers + shape.mtp
    router = (shape.moe_layers > 0) * (shape.moe_layers + shape.mtp) * shape.hidden * shape.experts
    weights = blocks * shape.attention_params + matrices * shape.hidden * (dense + sparse) + router
    weights = weights + shape.mtp * 2 * shape.hidden**2
    window = minimum(shape.window, s)
    band = s * window * (1 - window / (2 * s))
    scores = (1 - shape.windowed_share) * s * s / 2 * (1 + shape.bidirectional) + shape.windowed_share * band
    attention = 2 * blocks * shape.heads * scores * (shape.qk_dim + shape.v_dim)
    if any_of(shape.chosen < s):
        attention = 2 * blocks * shape.heads * minimum(scores, chosen_pairs(shape, s)) * (shape.qk_dim + shape.v_dim)
    if any_of(shape.cross_heads > 0):
        # Keys and values come from the input, whose length differs from that of the sequence.
        looked_at = work.input_len * work.inputs
        pairs = 2 * shape.cross_kv_heads * shape.cross_dim
        weights = weights + blocks * shape.hidden * pairs * (looked_at / s - 1)
        attention = attention + 4 * blocks * s * looked_at * shape.cross_heads * shape.cross_dim
    if any_of(shape.scan_heads > 0):
        attention = attention + blocks * s * scan_flops_per_token(shape, s, 1.0)
    return 2 * s * weights, attention


def _index_flops(shape: Shape, work: StepWork) -> tuple[Values, Values]:
    """Return the FLOPs, for one sequence, of the scores by which tokens choose others, forward and backward."""
    if shape.kinds:
        counts = [_index_flops(kind, work) for kind in _all_kinds(shape)]
        return sum_of(count[0] for count in counts), sum_of(count[1] for count in counts)
    forward, backward = index_flops_of_layer(shape, work.seq_len)
    blocks = shape.layers + shape.mtp
    return blocks * forward, blocks * backward


def _again_of_feeds(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the FLOPs, for one sequence, of the feed-forward blocks that selective recompute repeats."""
    if shape.kinds:
        return sum_of(_again_of_feeds(kind, layout, work) for kind in shape.kinds)
    dense = layout.again_mlp * (shape.layers - shape.moe_layers) * shape.ffn
    active = shape.top_k * shape.expert_ffn * shape.expert_hidden / shape.hidden + shape.shared_ffn
    sparse = layout.again_moe * shape.moe_layers * active
    return 2 * work.seq_len * (2 + shape.gated) * shape.hidden * (dense + sparse)


def _again_of_operators(shape: Shape, work: StepWork, products: Values, attention: Values) -> Values:
    """Return the FLOPs for one sequence that a policy for single operations repeats, as `repeated_operators` does.

    `products` and `attention` are those of the forward pass.
    """
    routed = 2 * (2 + shape.gated) * shape.expert_hidden * shape.expert_ffn * shape.top_k
    grouped = work.seq_len * shape.moe_layers * routed
    projections = 2 * work.seq_len * shape.layers * shape.attention_params
    every_second = OPERATOR_RECOMPUTE_SHARE * (products + attention - grouped) + grouped
    kept = work.keeps_projections * projections + work.keeps_core * attention
    kept = kept + where(work.keeps_products == 1, products - grouped, 0)
    rest = maximum(products + attention - kept, 0)
    return where((work.keeps_products > 0) & (work.keeps_products < 1), every_second, rest)


def _kind_flops(kind: Shape, work: StepWork) -> tuple[Values, Values]:
    """Return the FLOPs of one kind of layers for one sequence with all its inputs, as `layer_forward_flops` does.

    Both values are 0 for layers of an input whose size is not stated.
    """
    if not any_of(kind.of_input > 0):
        return layer_forward_flops(kind, work)
    if not any_of(work.input_len > 0):
        return 0.0, 0.0
    products, attention = layer_forward_flops(kind, replace(work, seq_len=work.input_len))
    return work.inputs * products, work.inputs * attention


def _all_kinds(shape: Shape) -> tuple[Shape, ...]:
    """Return the kinds of layers of a model.

    Layers that predict further tokens are counted as layers of the last kind.
    """
    return (*shape.kinds[:-1], replace(shape.kinds[-1], mtp=shape.mtp))


def step_flops(shape: Shape, layout: Layout, work: StepWork) -> tuple[Values, Values]:
    """Return the FLOPs of one step over all devices: (model, hardware).

    The hardware FLOPs include what recompute repeats.
    """
    products, attention = layer_forward_flops(shape, work)
    head = 2 * work.seq_len * work.scored_share * shape.outputs * shape.head_width * (1 + shape.mtp)
    head = head + 2 * (work.seq_len * shape.beside_products + work.inputs * work.input_len * shape.input_products)
    index_forward, index_backward = _index_flops(shape, work)
    core = attention + index_forward
    forward = products + core
    # Frozen weights need no gradient of their own, which is a third of the work of a trained matrix product.
    backward = products * (1 + shape.trainable) + head * 2 + 2 * attention + index_backward
    again = (
        layout.recompute_full * forward
        + layout.recompute_operators * _again_of_operators(shape, work, products, core)
        + layout.recompute_selective * core
        + _again_of_feeds(shape, layout, work)
    )
    model = work.batch * (forward + head + backward)
    return model, model + work.batch * again
