"""Predict a coarse step for a module of which only FLOPs, parameters and activation bytes were counted.

The time is a roofline on these totals, with data parallelism as for any model. The interval of this class is wide.
"""

from __future__ import annotations

from carbon_plugin.predict.case.from_spec import ACTIVATION_BYTES, list_bytes, optimizer_state_bytes
from carbon_plugin.predict.peak import CONTEXT_BYTES, FRAGMENTATION_SHARE
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.states import MASTER_BYTES
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.overlap import exposed_exchange, overlapped
from carbon_plugin.predict.time.update import STEP_FIXED_TIME, offload_time, update_bytes
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.stack import WHOLE_UNITS, Stack, narrow_reduce_stage, shard_unit_of
from carbon_plugin.spec.training import TrainingPlan

BACKWARD_KERNELS = 2.5
"""Ratio of the operations of a backward pass to those of the forward pass, as in transformer layers (55 to 22)."""


def counted_step_terms(
    model: CountedModel,
    layout: ParallelLayout,
    training: TrainingPlan,
    stack: Stack,
    rates: Rates,
    micro_batches: int,
) -> dict[str, float]:
    """Return the seconds of a step by term. Only data parallelism applies, because `check_layout` refuses the rest."""
    samples = layout.micro_batch_size
    trained = model.trainable_parameters / max(model.parameters, 1)
    again = layout.recompute_share if layout.recompute == "full" else 0.0
    forward = model.forward_flops_per_sample
    flops = forward * (1 + again) + _backward_flops(model)
    matmul = samples * flops / float(rates.gemm_flops)
    moved = samples * _moved_bytes(model, training) * (2 + BACKWARD_KERNELS + again) / float(rates.memory)
    kernels = model.kernels * (1 + BACKWARD_KERNELS + again)
    device = matmul + moved + kernels * float(rates.kernel_time)
    host = kernels * float(rates.host_op_time)
    busy = (device**4 + host**4) ** 0.25
    element = ACTIVATION_BYTES[training.precision]
    narrow = layout.zero_stage >= narrow_reduce_stage(stack, master_weights=training.master_weights)
    reduce_bytes = element if narrow else 4
    parameters, shards = float(model.parameters), network.group_of(float(layout.dp_shard), 1.0, rates)
    gather = shards.gather_time(parameters * element)
    scatter = shards.gather_time(parameters * reduce_bytes * trained)
    exposed, once = 0.0, 0.0
    if layout.zero_stage >= 2:
        whole = layout.zero_stage == 2 and shard_unit_of(stack) in WHOLE_UNITS
        gathers = 0 if whole else layout.zero_stage - 1
        traffic = gathers * gather + scatter
        bytes_moved = parameters * (element * gathers + reduce_bytes * trained)
        once = float(shards.gather_time(model.trainable_parameters * element)) if whole else 0.0
        near = shards.near_time(bytes_moved)
        exposed = float(overlapped(busy, traffic, near, rates)) - busy
    elif layout.zero_stage == 1:
        once = float(gather + scatter)
    replicas = network.group_of(float(layout.dp_replicate), float(layout.dp_shard), rates)
    size = model.trainable_parameters * reduce_bytes / layout.dp_shard
    reduce, near = replicas.all_reduce_time(size), 2 * replicas.near_time(size)
    backward = busy * (1 - (forward / flops if flops else 0))
    once += float(exposed_exchange(reduce, near, backward, rates.dp_overlap, rates))
    updated = model.trainable_parameters / (layout.dp_shard if layout.zero_stage else 1)
    state_bytes, master = float(optimizer_state_bytes(training)), float(training.master_weights)
    state_moved = (update_bytes(state_bytes, master) + list_bytes(training, stack)) * updated
    on_device = 0.0 if training.optimizer_offload else float(state_moved / rates.updates)
    terms = {
        "matmul": micro_batches * matmul,
        "elementwise": micro_batches * (device - matmul),
        "host": micro_batches * (busy - device),
        "dp_shard": micro_batches * exposed,
        "dp": once,
        "optimizer": on_device + STEP_FIXED_TIME,
        "offload": float(offload_time(updated, state_bytes, master, rates)) if training.optimizer_offload else 0.0,
    }
    terms["framework"] = (float(rates.framework_factor) - 1) * sum(terms.values())
    return {name: time for name, time in terms.items() if time != 0}


def counted_step_flops(model: CountedModel, layout: ParallelLayout, training: TrainingPlan) -> tuple[float, float]:
    """Return the FLOPs of a step over all devices: those of the model, and those with what is computed again."""
    forward, backward = model.forward_flops_per_sample, _backward_flops(model)
    again = forward * layout.recompute_share if layout.recompute == "full" else 0.0
    batch = training.global_batch_size
    return batch * (forward + backward), batch * (forward + backward + again)


def _backward_flops(model: CountedModel) -> float:
    """Return the FLOPs per sample of the backward pass.

    They follow from the trained share of the parameters where an older count does not say.
    """
    if model.backward_flops_per_sample is not None:
        return model.backward_flops_per_sample
    return model.forward_flops_per_sample * (1 + model.trainable_parameters / max(model.parameters, 1))


def counted_memory_bytes(model: CountedModel, layout: ParallelLayout, training: TrainingPlan) -> dict[str, float]:
    """Return the bytes on one device by part."""
    element = ACTIVATION_BYTES[training.precision]
    shards = layout.dp_shard
    trainable = model.trainable_parameters
    states = optimizer_state_bytes(training) + (MASTER_BYTES if element < MASTER_BYTES else 0)
    kept = 0 if training.optimizer_offload else trainable
    parts = {
        "parameters": model.parameters * element / (shards if layout.zero_stage == 3 else 1),
        "gradients": trainable * MASTER_BYTES / (shards if layout.zero_stage >= 2 else 1),
        "optimizer": kept * states / (shards if layout.zero_stage >= 1 else 1),
        "activations": layout.micro_batch_size * _kept_bytes(model, training) * (1 - training.activation_offload),
    }
    parts["reserve"] = CONTEXT_BYTES + FRAGMENTATION_SHARE * sum(parts.values())
    return {name: size for name, size in parts.items() if size > 0}


def _moved_bytes(model: CountedModel, training: TrainingPlan) -> float:
    """Return the bytes per sample of all results of a forward pass in the precision of the plan."""
    counted = model.autocast_activation_bytes_per_sample
    return model.activation_bytes_per_sample if counted is None or not _is_narrow(training) else counted


def _kept_bytes(model: CountedModel, training: TrainingPlan) -> float:
    """Return the bytes per sample that are kept for the backward pass in the precision of the plan.

    They are those of all results where an older count does not say.
    """
    counted = model.autocast_saved_bytes_per_sample if _is_narrow(training) else None
    saved = model.saved_bytes_per_sample if counted is None else counted
    return model.activation_bytes_per_sample if saved is None else saved


def _is_narrow(training: TrainingPlan) -> bool:
    """Return whether results of the plan's precision have 16 bit where autocast lets them."""
    return ACTIVATION_BYTES[training.precision] < MASTER_BYTES
