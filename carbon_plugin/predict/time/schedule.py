"""Compute the seconds of one optimizer step, from layers to the stages of a pipeline, data parallelism and optimizer.

`step_time` is the form for arrays, which search, validation and calibration use. `predict_step` in `step` wraps it for
one run. The terms of the breakdown add up to the step.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from carbon_plugin.predict.arrays import Values, any_of, ceil, clip, log2, maximum, minimum, sqrt, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork, own_case
from carbon_plugin.predict.parameters import device_parameters, sparse_share
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import network, operators
from carbon_plugin.predict.time.layer import LayerOnDevice, LayerTime, layer_on_device, layer_time
from carbon_plugin.predict.time.overlap import exposed_exchange

POINT_TO_POINT_LATENCY = 1e-4
"""Seconds of a transfer between pipeline stages beside its bytes. `rates.transfer_wait` comes on top."""
OPTIMIZER_BYTES_PER_PARAMETER = 44
"""Bytes per parameter of an Adam step in mixed precision. It reads the gradient, the master and two moments, and writes
the master, the moments and the 16-bit copy."""
PURE_UPDATE_BYTES = 6
"""Bytes per parameter of a step without master weight and moments. It reads the 16-bit gradient and parameter, and
writes the parameter."""
STEP_FIXED_TIME = 1e-3
JITTER_PER_DOUBLING = 0.004
"""Share of a step that waiting for the slowest rank adds with each doubling of nodes."""
ZERO_BUBBLE_SHARE = 1 / 3
"""Ratio of the bubble of ZB-H1 to that of 1F1B: weight gradients fill two of three idle slots (Qi et al. 2023, arXiv
2401.10241)."""
TENSORS_OF_LAYER = 9
"""Parameter tensors of a layer: four of the attention, three of a gated feed-forward block and two norms."""
MUON_ITERATIONS = 5
"""Newton-Schulz iterations of Muon (Jordan et al. 2024)."""
OFFLOAD_LINK_BYTES = 6
"""Bytes per parameter over the link: the fp32 gradient to the host and the 16-bit parameter back (ZeRO-Offload, arXiv
2101.06840)."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Terms of the step in seconds, which add up to `total`, and the micro-batches that a rank runs."""

    terms: dict[str, Values]
    total: Values
    micro_batches: Values


def step_time(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> StepTime:
    """Return the seconds of one optimizer step, for arrays that broadcast.

    Layouts are assumed to be valid (`spec.run.check_layout`).
    """
    return step_of_layers(stage_layers(shape, layout, work, rates), shape, layout, work, rates)


def step_of_layers(
    layers: Sequence[StageLayer], shape: Shape, layout: Layout, work: StepWork, rates: Rates
) -> StepTime:
    """Return the seconds of one optimizer step, as `step_time` does, of which `stage_layers` gave the layers."""
    m = work.batch / (layout.dp * layout.micro_batch_size)
    v = layout.virtual_stages
    balanced = layout.balanced_stages > 0
    held = where(balanced, shape.layers / layout.pp, ceil(shape.layers / layout.pp))
    times = [(layer_time(layer, rates), share) for layer, share in layers]
    # One micro-batch through one stage, forward and backward.
    stage = functools.reduce(operator.add, (time * (held * share) for time, share in times))
    slot, slot_total = stage.terms, stage.total
    output = _output_time(shape, layout, work, rates, m, times[-1][0])
    transfer = _transfer_time(shape, layout, work, rates, slot_total)
    # The last stage also holds the head. Where the layers do not divide evenly it has fewer layers.
    spare = held - clip(shape.layers - held * (layout.pp - 1), 0, held)
    late = maximum(output - spare / held * slot_total - transfer / 2, 0)
    pipelined = layout.pp > 1
    shared_out = where(balanced & pipelined, output / layout.pp, 0.0)
    terms = {name: m * time for name, time in slot.items()}
    terms["head"] = m * where(pipelined, where(balanced, shared_out, late), output)
    terms["pp_transfer"] = m * transfer
    # Every stage gathers and scatters its sharded parameters once a step, all stages at once: no stage waits for that
    # of another one, and the slots of a bubble are without it.
    waited = slot_total - slot["dp_shard"] + shared_out + transfer
    terms["pp_bubble"] = layout.pipeline_rounds * (layout.pp - 1) * waited / v * _bubble_share(layout)
    parameters = device_parameters(shape, layout)
    beside = (stage.forward, slot_total - stage.forward)
    terms["dp"] = _gradient_exchange(shape, layout, work, rates, parameters, beside)
    nodes = maximum(rates.devices / rates.island, 1)
    terms["jitter"] = JITTER_PER_DOUBLING * log2(nodes) * sum_of(terms.values())
    terms["optimizer"], offloaded = _optimizer_time(shape, layout, work, rates, parameters)
    if any_of(work.offload > 0):
        terms["offload"] = offloaded
    total = sum_of(terms.values())
    terms["framework"] = (rates.framework_factor - 1) * total
    return StepTime(terms, total * rates.framework_factor, m)


def _bubble_share(layout: Layout) -> Values:
    """Return the ratio of a schedule's bubble to that of 1F1B, which is (pp-1)(F+B).

    It is a third for zero bubble. DualPipe's bubble is (pp/2-1)(F&B+B-3W), with F=1, B=2 and W=1 (DeepSeek-V3, arXiv
    2412.19437 table 2).
    """
    dual = 2 / 3 * (layout.pp / 2 - 1) / maximum(layout.pp - 1, 1)
    return where(layout.dualpipe > 0, dual, where(layout.zero_bubble > 0, ZERO_BUBBLE_SHARE, 1.0))


class StageLayer(NamedTuple):
    """A layer, and the share of a stage's layers that are of its sort."""

    layer: LayerOnDevice
    share: Values


def stage_layers(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> list[StageLayer]:
    """Return a layer of each sort: of each kind first one with a dense feed-forward part and then one with experts.

    Every stage has layers of each kind in the share that they have of the model.
    """
    return _sorts(shape, layout, work, rates, work.batch / (layout.dp * layout.micro_batch_size))


def _sorts(shape: Shape, layout: Layout, work: StepWork, rates: Rates, micro_batches: Values) -> list[StageLayer]:
    if shape.kinds:
        cases = [(kind, case) for kind in shape.kinds if (case := own_case(kind, layout, work)) is not None]
        return [
            StageLayer(layer, share * kind.layers / shape.layers)
            for kind, case in cases
            for layer, share in _sorts(kind, *case, rates, micro_batches)
        ]
    found, sparse = [], sparse_share(shape, layout)
    if any_of(shape.moe_layers < shape.layers):
        dense = layer_on_device(shape, layout, work, rates, micro_batches, sparse=False)
        found.append(StageLayer(dense, 1 - sparse))
    if any_of(shape.moe_layers > 0):
        mixture = layer_on_device(shape, layout, work, rates, micro_batches, sparse=True)
        found.append(StageLayer(mixture, sparse))
    return found


def _output_time(
    shape: Shape, layout: Layout, work: StepWork, rates: Rates, micro_batches: Values, last_layer: LayerTime
) -> Values:
    """Return the seconds of the head and, where the model has them, of the multi-token-prediction blocks.

    Each of these blocks takes one more layer like the last one of the model and one more head.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    cost = operators.head(shape, layout, work, tokens, micro_batches, rates)
    output: Values = cost.forward + cost.backward
    if any_of(shape.mtp > 0):
        output = output + shape.mtp * (output + last_layer.total)
    return output


def _transfer_time(shape: Shape, layout: Layout, work: StepWork, rates: Rates, slot: Values) -> Values:
    """Return the seconds, per micro-batch and stage, to send activations to the next stage and gradients back.

    Both are scattered over tp. An interleaved pipeline sends them beside the compute of its next chunk, and DualPipe
    beside that of the other direction. Of such compute a micro-batch has `slot` seconds in all chunks: only what that
    does not hide remains (`overlap_p2p_comm` of Megatron-core; DeepSeek-V3, arXiv 2412.19437 section 3.2.1). Where each
    transfer is awaited by itself, nothing is hidden.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    size = tokens * shape.hidden * work.activation_bytes / layout.tp
    bandwidth = network.point_to_point_bandwidth(rates)
    beside = ((layout.virtual_stages > 1) | (layout.dualpipe > 0)) & (rates.transfer_wait == 0)
    exposed = maximum(size / bandwidth - where(beside, slot / (2 * layout.virtual_stages), 0.0), 0)
    time = 2 * layout.virtual_stages * (exposed + POINT_TO_POINT_LATENCY + rates.transfer_wait)
    return where(layout.pp > 1, time, 0.0)


def _gradient_exchange(
    shape: Shape,
    layout: Layout,
    work: StepWork,
    rates: Rates,
    parameters: tuple[Values, Values],
    beside: tuple[Values, Values],
) -> Values:
    """Return the seconds, once per step, of the exchange of gradients and new values over data-parallel ranks.

    Gradients are all-reduced over replicas (DDP, HSDP); ZeRO-1 scatters and gathers. Frozen parameters have no gradient
    to send and no new value to fetch. `beside` are the seconds of the forward pass of the first micro-batch and of the
    backward pass of the last one: new values are fetched during the first and gradients are sent during the second,
    where they overlap.
    """
    shared, routed = (count * shape.trainable for count in parameters)
    one_stage = layout.zero_stage == 1

    def exchange(
        count: Values, shards: Values, replicas: Values, stride: Values
    ) -> tuple[Values, Values, Values, Values]:
        """Return the seconds of gradients and of new values, each followed by those of its bytes at scale-up speed."""
        size, fetched = count * work.reduce_bytes, count * work.parameter_bytes
        # With stage 0 the context-parallel ranks are replicas too, so that one all-reduce covers all of them.
        every = network.group_of(replicas * shards, stride, rates)
        within = network.group_of(shards, stride, rates)
        across = network.group_of(replicas, stride * shards, rates)
        gather = within.gather_time(fetched)
        if any_of(rates.broadcasts > 0):
            # Every tensor passes all ranks by itself: NCCL broadcasts around a ring.
            tensors = TENSORS_OF_LAYER * shape.layers / layout.pp
            gather = gather + where(rates.broadcasts > 0, tensors * within.ring_latency, 0.0)
        whole = layout.zero_stage == 0
        scattered = where(one_stage, within.gather_time(size), 0.0)
        sent = where(whole, every.all_reduce_time(size), scattered + across.all_reduce_time(size / shards))
        near_scattered = where(one_stage, within.near_time(size), 0.0)
        near_sent = where(whole, 2 * every.near_time(size), near_scattered + 2 * across.near_time(size / shards))
        near_fetched = where(one_stage, within.near_time(fetched), 0.0)
        return sent, near_sent, where(one_stage, gather, 0.0), near_fetched

    sent, near_sent, fetched, near_fetched = exchange(
        shared, layout.dp_shard * layout.cp, layout.dp_replicate, layout.tp
    )
    if any_of(routed > 0):
        experts = exchange(routed, layout.expert_shards, layout.expert_replicas, layout.expert_split)
        sent, near_sent, fetched, near_fetched = (
            both + where(routed > 0, more, 0.0)
            for both, more in zip((sent, near_sent, fetched, near_fetched), experts, strict=True)
        )
    # Hybrid sharding reduces over replicas layer by layer during the backward pass, as it scatters: only the layer that
    # the backward pass computes last has no compute left beside its exchange (`_reduce_grad` of PyTorch's FSDP).
    hidden = where(layout.zero_stage >= 2, maximum(rates.dp_overlap, 1 - 1 / shape.layers), rates.dp_overlap)
    forward, backward = beside
    gradients = exposed_exchange(sent, near_sent, backward, hidden, rates)
    return gradients + exposed_exchange(fetched, near_fetched, forward, rates.gather_overlap, rates)


def _optimizer_time(
    shape: Shape, layout: Layout, work: StepWork, rates: Rates, parameters: tuple[Values, Values]
) -> tuple[Values, Values]:
    """Return the seconds of the optimizer's update on the device, and the seconds of an update on the host.

    The update covers the local shard of trainable parameters and is element-wise. For Muon the seconds on the device
    include the orthogonalisation of its matrices.
    """
    shared, routed = parameters
    sharded = layout.zero_stage > 0
    count = shared / where(sharded, layout.dp_shard * layout.cp, 1)
    count = (count + routed / where(sharded, layout.expert_shards, 1)) * shape.trainable
    kernels = 30 * rates.kernel_time * sqrt(shape.layers / layout.pp)
    moved = update_bytes(work.optimizer_bytes, work.master) + work.list_bytes
    element_wise = moved * count / rates.updates + kernels
    on_device = where(work.offload > 0, 0.0, element_wise)
    if any_of(work.muon > 0):
        on_device = on_device + work.muon * _muon_flops_per_parameter(shape) * count / rates.wide_gemm_flops
    return on_device + STEP_FIXED_TIME, work.offload * offload_time(count, work.optimizer_bytes, work.master, rates)


def update_bytes(state_bytes: Values, master: Values) -> Values:
    """Return the bytes per parameter that an element-wise update moves with `state_bytes` of optimizer state per
    parameter.

    Without a master weight, gradient and parameter are 16-bit values that are read and written once.
    """
    return where(master > 0, OPTIMIZER_BYTES_PER_PARAMETER - 16, PURE_UPDATE_BYTES) + 2 * state_bytes


def offload_time(parameters: Values, state_bytes: Values, master: Values, rates: Rates) -> Values:
    """Return the seconds of an optimizer step on the host.

    The link takes gradients to the host, the host updates the parameters, and the link takes the parameters back.
    """
    return parameters * (update_bytes(state_bytes, master) / rates.host_memory + OFFLOAD_LINK_BYTES / rates.host_link)


def _muon_flops_per_parameter(shape: Shape) -> Values:
    """Return the FLOPs per parameter of Muon's orthogonalisation.

    They are 4 m^2 n + 2 m^3 per matrix (m <= n) and iteration, for the feed-forward matrices, which hold most
    parameters.
    """
    width = where(shape.moe_layers > 0, shape.expert_ffn, shape.ffn)
    m, n = minimum(shape.hidden, width), maximum(shape.hidden, width)
    return MUON_ITERATIONS * (4 * m + 2 * m * m / n)
