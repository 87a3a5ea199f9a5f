"""Compute the memory that a step needs on the fullest device: the parts of `predict.memory` at their common peak.

PyTorch frees gradients after each step. In the first micro-batch of a step they come into being layer by layer, as the
activations of the same layers are freed. The peak is then at the loss, where of the gradients there are only those of
the head that a loss in chunks has made, or at the end of the backward pass, without activations and logits. Blocks that
one phase has freed serve the other one at the latest when the device is full: the allocator then gives them back and
asks again (`CUDACachingAllocator`).
"""

from __future__ import annotations

from collections.abc import Mapping

from carbon_plugin.predict.arrays import Flags, Values, maximum, minimum, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.memory import memory_parts
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.states import MASTER_BYTES
from carbon_plugin.predict.time.operators import is_cast

CONTEXT_BYTES = 1.2 * 2**30
"""Bytes of device context and communicator buffers, which lie outside the allocator."""
FRAGMENTATION_SHARE = 0.04
LAID_OUT_BYTES = 0.75 * 2**30
"""Bytes of a TPU's memory that programs cannot use: XLA leaves 31.25 of 32 GiB on v6e, 30.75 of 32 on v4 and 15.75 of
16 on v5e ("Used 31.29G of 31.25G hbm" in its errors of `RESOURCE_EXHAUSTED`; erfanzar/EasyDeL issue 166)."""
LAID_OUT_SHARE = 0.01
"""Share that is lost where a compiler gives every buffer its place: the same errors state 0.3 to 0.7 %."""
PASSING = ("activations", "logits", "working")
"""Parts that are gone at the end of the backward pass."""


def memory_bytes(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> dict[str, Values]:
    """Return the parts in bytes on the fullest device at the peak of a step.

    Their sum, which includes `reserve`, is the need.
    """
    parts = at_peak(memory_parts(shape, layout, work, rates), shape, layout, work)
    del parts["spare"]
    del parts["freed"]  # the allocator gives it back before memory runs out
    laid_out = LAID_OUT_BYTES + LAID_OUT_SHARE * _held(parts)
    parts["reserve"] = where(rates.laid_out > 0, laid_out, CONTEXT_BYTES + FRAGMENTATION_SHARE * _held(parts))
    parts["cached"] = parts.pop("cached")
    return parts


def at_peak(parts: Mapping[str, Values], shape: Shape, layout: Layout, work: StepWork) -> dict[str, Values]:
    """Return the parts of `memory_parts` as they are when their sum is largest."""
    table = where((shape.trainable < 1) | (layout.pp > 1), 0.0, _table_gradient_bytes(shape, layout, work))
    # A table that is embedding and head gets two gradients, and the second one lies beside the sum until it is added.
    last = table * (where(shape.tied > 0, 1, 0) + 1 - work.gradients_kept)
    early = work.head_gradients * table
    passing = sum_of(parts[name] for name in PASSING)
    kept = keeps_gradients(layout, work)
    last, early = where(kept, 0.0, last), where(kept, 0.0, early)
    waiting = _after_the_loss(parts, layout, work, early)
    before = passing - waiting + where(kept, parts["gradients"], early)
    at_loss = before >= parts["gradients"] + maximum(last, parts["update"])
    updates = (at_loss == 0) & (parts["update"] > last)
    present = {
        "gradients": where(
            at_loss, where(kept, parts["gradients"], early), parts["gradients"] + where(updates, 0, last)
        ),
        "update": where(updates, parts["update"], 0.0),
        "communication": parts["communication"] - where(at_loss, waiting, 0.0),
        **{name: where(at_loss, parts[name], 0.0) for name in PASSING},
    }
    return {**parts, **present}


def _after_the_loss(parts: Mapping[str, Values], layout: Layout, work: StepWork, early: Values) -> Values:
    """Return the bytes of the exchange of gradients for which the logits, and the gradients of the head beside them,
    make room.

    FSDP reduces the gradients of a layer when its backward pass is done. By then the loss has let its logits go, and
    those of the head are reduced (`post_backward` of PyTorch's distributed/fsdp/_fully_shard/_fsdp_param_group.py).
    """
    by_layers = (layout.zero_stage >= 2) & (work.gathers_weights == 0) & (work.gathers_buckets == 0)
    return where(by_layers, minimum(parts["communication"], parts["spare"] + early), 0.0)


def keeps_gradients(layout: Layout, work: StepWork) -> Flags | bool:
    """Return whether gradients are there at the loss too: those to which other micro-batches add, and those in buffers
    or buckets of their own (`Stack.gradient_buffers`, or data parallelism that shards no gradients). The buckets of
    PyTorch's data parallelism of whole copies are beside the gradients, which it frees after a step
    (`gradient_as_bucket_view` is off)."""
    rounds = work.batch / (layout.dp * layout.micro_batch_size)
    beside = (layout.zero_stage == 0) & (work.bucket_bytes > 0)
    buckets = (layout.dp > 1) & (layout.zero_stage < 2) & (beside == 0)
    return (rounds > 1) | (layout.pp > 1) | (work.gradient_buffers > 0) | buckets


def reserved_bytes(parts: Mapping[str, Values]) -> Values:
    """Return the bytes that the allocator holds of the parts that `memory_parts` returns, where there is room.

    Blocks that were freed in one phase of a step are seldom reused whole in the next one, so that all parts count. What
    an update needs takes the place of activations and logits, whose blocks are as large.
    """
    reused = minimum(parts["update"], sum_of(parts[name] for name in PASSING))
    return (_held(parts) - reused + parts["freed"]) * (1 + FRAGMENTATION_SHARE) + parts["cached"]


def allocated_bytes(parts: Mapping[str, Values], shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the largest number of bytes of the parts of `memory_parts` that are allocated at one time."""
    return _held(at_peak(parts, shape, layout, work))


def _held(parts: Mapping[str, Values]) -> Values:
    """Return the sum of the parts that hold values, without what the allocator and the context add."""
    return sum_of(size for name, size in parts.items() if name not in ("reserve", "cached", "freed", "spare"))


def _table_gradient_bytes(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes of the gradient of the embedding, or of the head, on one device."""
    larger = maximum(shape.vocab * shape.table_width, shape.outputs * shape.head_width)
    return larger / layout.tp * where(is_cast(shape, layout, work), MASTER_BYTES, work.parameter_bytes)
