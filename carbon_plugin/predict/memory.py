"""Compute the bytes on the fullest device of a step, by part: states, activations, and what the allocator has freed but
still holds.
"""

from __future__ import annotations

from carbon_plugin.predict.activations import activation_parts, logits_bytes, softmax_bytes
from carbon_plugin.predict.arrays import Values, any_of, maximum, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.states import state_parts

GATHERED_SEQUENCES = 4
"""Whole sequences that a layer leaves in the allocator's cache under sequence parallelism: the gathered input of a
block and its result before the sum, each in the order of the ranks and in that of the sequence (`all_gather_tensor` and
`reduce_scatter_tensor` of torch.distributed's _functional_collectives.py). The next block and the head reuse them."""
CHUNKED_SEQUENCES = 3
"""The same where the exchange is cut into chunks that run beside the products: input and partial results once each
(`A` and `stacked_partials` of torch.distributed's _symmetric_memory), and the head's input, which is not cut."""


def memory_parts(
    shape: Shape, layout: Layout, work: StepWork, rates: Rates, *, first_stage: bool = False
) -> dict[str, Values]:
    """Return the parts in bytes on the fullest device, or on the first stage of a pipeline, each at its own largest.
    `predict.peak` says which of them are there at one time."""
    parts = {
        **state_parts(shape, layout, work),
        **activation_parts(shape, layout, work, rates, first_stage=first_stage),
    }
    parts["cached"] = _cached(layout, work, shape)
    freed_logits: Values = 0.0
    if any_of(work.freed_logit_bytes > 0):
        freed_logits = logits_bytes(shape, layout, work, whole=work.freed_logit_bytes, split=0.0)
        freed_logits = where(parts["logits"] > 0, freed_logits, 0.0)
    # The backward pass of a layer finds room in them, the logits do not.
    parts["freed"] = freed_logits + maximum(_freed_by_layers(shape, layout, work, rates) - parts["working"], 0.0)
    return parts


def _cached(layout: Layout, work: StepWork, shape: Shape) -> Values:
    """Return the bytes of whole sequences that layers have freed and into which the logits do not fit.

    Layers run before the loss, so that the blocks which the allocator keeps of them are too small for the logits.
    Megatron gathers every sequence into one buffer that it never frees.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    count = where(layout.async_tp > 0, CHUNKED_SEQUENCES, GATHERED_SEQUENCES)
    count = where(work.gradient_buffers > 0, 1, count)
    apart = (layout.sequence_parallel > 0) & (layout.tp > 1)
    return where(apart, count * tokens * shape.hidden * work.activation_bytes, 0.0)


def _freed_by_layers(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Values:
    """Return the bytes that the forward pass of a layer which is recomputed has freed and that the logits, which are
    larger, find no room in: the results of the feed-forward block's products, or scores and their softmax where single
    operations move them through memory.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    full, operators = layout.recompute_full > 0, layout.recompute_operators > 0
    anew = full + operators * (1 - work.keeps_products)
    feed = ((1 + shape.gated) * anew + (anew > 0)) * shape.ffn / layout.tp * work.activation_bytes
    softmax = softmax_bytes(shape, layout, work, rates)
    again = full + operators * (1 - work.keeps_core)
    scores = again * (rates.attention_unfused > 0) * 2 * softmax * shape.heads / layout.tp * work.seq_len
    return where(layout.pp > 1, 0.0, tokens * maximum(feed, scores))
