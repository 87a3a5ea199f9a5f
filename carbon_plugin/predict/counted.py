"""Predict a coarse step for a module of which only FLOPs, parameters and activation bytes were counted.

The time is a roofline on what each pass moves and computes, or on totals where an older count says no more, with data
parallelism as for any model. The interval of this class is wide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbon_plugin.predict.case.from_spec import ACTIVATION_BYTES, list_bytes, optimizer_state_bytes
from carbon_plugin.predict.peak import CONTEXT_BYTES, FRAGMENTATION_SHARE
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.states import MASTER_BYTES
from carbon_plugin.predict.time import network, operators
from carbon_plugin.predict.time.overlap import exposed_exchange, overlapped, smooth_max
from carbon_plugin.predict.time.update import STEP_FIXED_TIME, offload_time, update_bytes
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.models.passes import CountedPass
from carbon_plugin.spec.stack import WHOLE_UNITS, Stack, narrow_reduce_stage, shard_unit_of
from carbon_plugin.spec.training import TrainingPlan

BACKWARD_KERNELS = 2.5
"""Ratio of the operations of a backward pass to those of the forward pass, as in transformer layers (55 to 22)."""


FUSED = 0.75, 0.52
"""Share of what single operations move that fused ones do, forward and backward: that of a layer with LayerNorm and
GELU, whose chains move 15 and 24 bytes a token and unit of width where single operations move 20 and 46
(`operators.elementwise`, `operators.PLAIN_HIDDEN`)."""


class _Busy(NamedTuple):
    """Seconds of one pass of a micro-batch: of products and attention, of all that the device does, and of the host."""

    products: float
    device: float
    host: float

    @property
    def together(self) -> float:
        """Return the seconds of the pass, in which the host issues what the device does."""
        return float(smooth_max(self.device, self.host))


def counted_step_terms(
    model: CountedModel,
    layout: ParallelLayout,
    training: TrainingPlan,
    stack: Stack,
    rates: Rates,
    micro_batches: int,
) -> dict[str, float]:
    """Return the seconds of a step by term. Only data parallelism applies, because `check_layout` refuses the rest."""
    trained = model.trainable_parameters / max(model.parameters, 1)
    again = layout.recompute_share if layout.recompute == "full" else 0.0
    there, back = _passes(model, layout.micro_batch_size, training, stack, rates)
    both = _Busy(*(back_part + (1 + again) * part for part, back_part in zip(there, back, strict=True)))
    matmul, device, busy = both.products, both.device, both.together
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
    backward = busy * (1 - there.device / device if device else 0)
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


def _passes(
    model: CountedModel, samples: int, training: TrainingPlan, stack: Stack, rates: Rates
) -> tuple[_Busy, _Busy]:
    """Return the seconds of a forward and of a backward pass of so many samples."""
    passes = model.autocast_passes if _is_narrow(training) and model.autocast_passes else model.passes
    if passes is None:
        return _of_totals(model, samples, training, rates)
    attention = _attention_time(samples * passes.forward.attention_flops, passes.forward.attention_keys, rates)
    fused = FUSED if stack.fused else (None, None)
    forward = _of_pass(passes.forward, samples, attention, fused[0], rates)
    return forward, _of_pass(passes.backward, samples, operators.FLASH_BACKWARD * attention, fused[1], rates)


def _of_pass(one: CountedPass, samples: int, attention: float, fused: float | None, rates: Rates) -> _Busy:
    """Return the seconds of a pass: each product takes what is longer, its FLOPs or its bytes, and other operations
    pass over memory by themselves, as in a layer of plain PyTorch, or `fused` is the share of it that is left.
    """
    gemm, memory = float(rates.gemm_flops), float(rates.memory)
    odd = operators.UNALIGNED_COLUMNS if rates.aligned_bytes > 0 else 1.0
    products = sum(max(flops / gemm, moved / memory) for flops, moved in one.products)
    products += odd * sum(max(flops / gemm, moved / memory) for flops, moved in one.odd_products)
    passed = one.moved_bytes / float(rates.streaming) if fused is None else fused * one.moved_bytes / memory
    device = samples * (products + passed) + attention + one.kernels * float(rates.kernel_time)
    return _Busy(samples * products + attention, device, one.kernels * float(rates.host_op_time))


def _attention_time(flops: float, keys: float, rates: Rates) -> float:
    """Return the seconds of fused attention forward, at the rate of products where the stack names no such kernel."""
    if not flops or not np.isfinite(rates.attention_flops):
        return flops / float(rates.gemm_flops)
    return float(flops / (rates.attention_flops * operators.fill(keys, rates)))


def _of_totals(model: CountedModel, samples: int, training: TrainingPlan, rates: Rates) -> tuple[_Busy, _Busy]:
    """Return the seconds of both passes where a count has only totals: every result is written and read."""
    moved = samples * _moved_bytes(model, training) / float(rates.memory)

    def busy(flops: float, passes: float, kernels: float) -> _Busy:
        products = samples * flops / float(rates.gemm_flops)
        device = products + passes * moved + kernels * float(rates.kernel_time)
        return _Busy(products, device, kernels * float(rates.host_op_time))

    forward = busy(model.forward_flops_per_sample, 2, model.kernels)
    return forward, busy(_backward_flops(model), BACKWARD_KERNELS, BACKWARD_KERNELS * model.kernels)


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
