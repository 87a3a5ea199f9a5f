"""Compute the bytes of the states of a step on the fullest device: parameters, gradients and optimizer, by precision,
optimizer and sharding, with what their exchange and their update need for a while.

The bytes of mixed-precision states are as in ZeRO (Rajbhandari et al. 2020, section 3) and in Megatron-LM's theoretical
memory report.
"""

from __future__ import annotations

import functools

from carbon_plugin.predict.arrays import Values, any_of, maximum, minimum, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork, reduced_bytes
from carbon_plugin.predict.parameters import device_parameters, layer_parameters
from carbon_plugin.predict.time.frozen import WIDE_BITS, stored_share
from carbon_plugin.predict.time.operators import is_cast

MASTER_BYTES = 4
GATHER_BUFFERS = 2
"""Parameter units that FSDP holds gathered at once: the one in use and the prefetched one. At the loss they are the
head, which torchtitan's FSDP does not shard again after the forward pass, and the last layer."""
BUCKET_ELEMENTS = 5e8
"""Parameters in a bucket of DeepSpeed's ZeRO-3: `reduce_bucket_size`, and half of `max_live_parameters`, which two
gathered units fill (runtime/zero/config.py)."""
SCATTER_BYTES = 6
"""Bytes per gathered parameter while its gradient is reduced: the 16-bit gradient and its fp32 copy."""


def state_parts(shape: Shape, layout: Layout, work: StepWork) -> dict[str, Values]:
    """Return the parts in bytes on the fullest device, each at its own largest."""
    shared, routed = device_parameters(shape, layout)
    whole = shared + routed
    shards = shared / (layout.dp_shard * layout.cp) + routed / layout.expert_shards
    stage, trained = layout.zero_stage, shape.trainable
    copies = layout.copies
    here = where(work.offload > 0, 0.0, 1.0)
    unit = _gathered_unit(shape, layout, work)
    updated = where(stage >= 1, shards, whole)
    # Under a pipeline FSDP accumulates its gradients whole.
    gradients = where((stage >= 2) & (layout.pp <= 1), shards, whole)
    # Sharded gradients go to the host together with offloaded states (ZeRO-Offload, arXiv 2101.06840; FSDP).
    kept = where((work.offload > 0) & (stage >= 2), 0.0, _gradient_bytes(layout, work))
    # DeepSpeed widens the gradients of a rank as it updates, and keeps an fp32 sum instead under a pipeline.
    widened_late = where(layout.pp > 1, 0, work.widened_bytes)
    buckets = where((layout.dp > 1) & (stage == 0), work.bucket_bytes, 0.0)
    exchanged = where(stage >= 2, SCATTER_BYTES * unit, _unsummed(shape, layout, work) + buckets * whole)
    return {
        "parameters": copies * _parameter_bytes(shape, layout, work, whole, shards, unit),
        "gradients": copies * kept * gradients * trained,
        "optimizer": here * (_master_bytes(shape, layout, work) + work.optimizer_bytes) * updated * trained,
        "communication": trained * exchanged,
        "update": here * (widened_late + work.list_copy_bytes * work.gradients_kept) * updated * trained,
    }


def _parameter_bytes(
    shape: Shape, layout: Layout, work: StepWork, whole: Values, shards: Values, unit: Values
) -> Values:
    """Return the bytes of the parameters that a device keeps for compute, of those that it gathers, and of the frozen
    weight that it widens.

    `whole` are the parameters of a device, `shards` those of its shards and `unit` those that are gathered at once.
    FSDP keeps one sharded copy and gathers 16-bit units. Where it offloads, the shards wait on the host too
    (`CPUOffload` and `CPUOffloadPolicy` of torch.distributed.fsdp). The copy is the master of what is trained, and 16
    bit of what is frozen or has its master on the host. Other stages keep a 16-bit copy beside the master. Autocast
    keeps 32-bit weights alone and casts them anew in each forward pass (`activations`).
    """
    fully = layout.zero_stage >= 3
    stored = _stored_share(shape, layout, whole)
    narrow_share = where((work.offload > 0) | (work.master == 0), 1.0, 1 - shape.trainable)
    copied = where(is_cast(shape, layout, work), MASTER_BYTES, work.parameter_bytes) * whole
    by_layers = (work.gathers_weights == 0) & (work.gathers_buckets == 0)
    here = where((work.offload > 0) & by_layers, 0.0, shards)
    kept = stored * where(fully, work.parameter_bytes * narrow_share * here, copied)
    # What is gathered last in the forward pass is the head, which stays so for its backward pass.
    head = where(by_layers, maximum(unit, shape.outputs * shape.head_width / layout.tp), unit)
    # Under a pipeline FSDP gathers a stage once per step.
    units = where(layout.pp > 1, whole, (GATHER_BUFFERS - 1) * unit + head)
    gathered = where(fully, stored * work.parameter_bytes * units, 0)
    if not any_of(shape.frozen_bits < WIDE_BITS):
        return kept + gathered
    widened = where(shape.frozen_bits < WIDE_BITS, _largest_weight(shape, layout), 0.0)
    return kept + gathered + work.parameter_bytes * widened


def _master_bytes(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes per parameter of a 32-bit master beside the parameters that compute takes."""
    beside = (work.parameter_bytes < MASTER_BYTES) | (layout.zero_stage >= 3)
    cast = is_cast(shape, layout, work)
    return where(beside & (work.master > 0) & (cast == 0), MASTER_BYTES, 0.0)


def _gradient_bytes(layout: Layout, work: StepWork) -> Values:
    """Return the bytes per parameter of the gradients that wait for the update.

    FSDP keeps the gradients of its shards in the precision of the shards, whatever type they are reduced in. Whole
    ones, to which a pipeline adds before they are reduced, are in that type (`foreach_reduce` and
    `to_accumulated_grad_if_needed` of PyTorch's distributed/fsdp/_fully_shard; a test runs both). DeepSpeed sums
    gradients up in their own precision. Under a pipeline its bf16 optimizer keeps an fp32 sum beside them
    (`get_data_types` and `_do_optimizer_sanity_check` of its runtime/engine.py, `step` of its zero/stage_1_and_2.py).
    """
    of_fsdp = (layout.zero_stage >= 2) & (work.master > 0) & (work.widened_bytes == 0)
    beside = where((layout.zero_stage < 2) & (layout.pp > 1), work.accumulated_bytes, 0)
    sharded = where(layout.pp > 1, reduced_bytes(layout, work), MASTER_BYTES)
    return (where(of_fsdp, sharded, work.gradient_bytes) + beside) * work.gradients_kept


def _gathered_unit(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the parameters that software with sharded parameters gathers at once: a weight, a bucket or a layer."""
    weight, layer = _largest_weight(shape, layout), _largest_layer(shape, layout)
    unit = where(work.gathers_weights > 0, weight, layer)
    # A bucket is as large as the weight that does not fit in it, and no larger than a layer.
    return where(work.gathers_buckets > 0, minimum(unit, maximum(weight, BUCKET_ELEMENTS)), unit)


def _unsummed(shape: Shape, layout: Layout, work: StepWork) -> Values:
    """Return the bytes of 16-bit gradients beside a buffer of all gradients: that of one weight, which waits until it
    is added to the buffer, or an empty one of each shape of weight (`Stack.gradient_placeholders`).

    The gate and the first product of a feed-forward block are one weight where gradients have buffers (Megatron), and
    each expert has weights of its own, whose shapes are alike.
    """
    waiting = shape.hidden * maximum((1 + shape.gated) * shape.ffn, shape.heads * shape.qk_dim) / layout.tp
    if any_of(work.gradient_placeholders > 0):
        waiting = where(work.gradient_placeholders > 0, _weights_of_each_shape(shape, layout), waiting)
    return where(work.gradient_buffers > 0, work.parameter_bytes * waiting, 0.0)


def _weights_of_each_shape(shape: Shape, layout: Layout) -> Values:
    """Return the parameters of a device's layers where weights of the same shape count once: those of a dense layer
    and, of a sparse one, those of its shared and of one of its routed experts.
    """
    if shape.kinds:
        return functools.reduce(maximum, (_weights_of_each_shape(kind, layout) for kind in shape.kinds))
    a_width = (2 + shape.gated) * shape.hidden / layout.tp
    dense = where(shape.moe_layers < shape.layers, shape.ffn, 0.0)
    expert = (2 + shape.gated) * shape.expert_hidden * shape.expert_ffn * layout.ep / layout.expert_split
    sparse = where(shape.moe_layers > 0, a_width * shape.shared_ffn + expert, 0.0)
    return shape.attention_params / layout.tp + a_width * dense + sparse


def _stored_share(shape: Shape, layout: Layout, parameters: Values) -> Values:
    """Return the bytes of a device's parameters as they are kept, divided by their bytes in 16 bit.

    Frozen layers may be kept in fewer bits. Embeddings and head, as `device_parameters` counts them, are not.
    """
    if not any_of(shape.frozen_bits < WIDE_BITS):
        return 1.0
    tables = shape.tables(layout) / layout.tp
    layers = maximum(1 - tables / maximum(parameters, 1), 0)
    return 1 - layers * (1 - stored_share(shape))


def _largest_layer(shape: Shape, layout: Layout) -> Values:
    """Return the parameters of the largest layer on one device, which is the unit that FSDP gathers at once."""
    if shape.kinds:
        return functools.reduce(maximum, (_largest_layer(kind, layout) for kind in shape.kinds))
    dense, _ = layer_parameters(shape, layout, sparse=False)
    if not any_of(shape.moe_layers > 0):
        return dense
    shared, routed = layer_parameters(shape, layout, sparse=True)
    return where(shape.moe_layers > 0, shared + routed, dense)


def _largest_weight(shape: Shape, layout: Layout) -> Values:
    """Return the parameters of the largest weight of a layer on one device. All experts of a layer form one weight."""
    dense = shape.hidden * maximum(shape.ffn, shape.heads * shape.qk_dim) / layout.tp
    experts = shape.hidden * shape.expert_ffn * shape.experts / layout.expert_split
    return where(shape.moe_layers > 0, maximum(dense, experts), dense)
