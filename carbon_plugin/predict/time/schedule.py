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

from carbon_plugin.predict.arrays import Values, any_of, ceil, clip, log2, maximum, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork, own_case
from carbon_plugin.predict.parameters import device_parameters, sparse_share
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import network, operators
from carbon_plugin.predict.time.gradients import gradient_exchange
from carbon_plugin.predict.time.layer import LayerOnDevice, LayerTime, layer_on_device, layer_time
from carbon_plugin.predict.time.update import optimizer_time

POINT_TO_POINT_LATENCY = 1e-4
"""Seconds of a transfer between pipeline stages beside its bytes. `rates.transfer_wait` comes on top."""
JITTER_PER_DOUBLING = 0.004
"""Share of a step that waiting for the slowest rank adds with each doubling of nodes."""
ZERO_BUBBLE_SHARE = 1 / 3
"""Ratio of the bubble of ZB-H1 to that of 1F1B: weight gradients fill two of three idle slots (Qi et al. 2023, arXiv
2401.10241)."""


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
    transfer = _transfers(shape, layout, work, rates, slot_total)
    # The last stage also holds the head. Where the layers do not divide evenly it has fewer layers. In DualPipe it
    # takes turns with the first stage on its device, and each of two devices has it for half of the micro-batches.
    spare = held - clip(shape.layers - held * (layout.pp - 1), 0, held)
    late = maximum(output - spare / held * slot_total - layout.copies * transfer.spared_last, 0) / layout.copies
    pipelined = layout.pp > 1
    shared_out = where(balanced & pipelined, output / layout.pp, 0.0)
    terms = {name: m * time for name, time in slot.items()}
    terms["head"] = m * where(pipelined, where(balanced, shared_out, late), output)
    terms["pp_transfer"] = m * transfer.of_slot
    # Every stage gathers and scatters its sharded parameters once a step, all stages at once: no stage waits for that
    # of another one, and the slots of a bubble are without it.
    waited = slot_total - slot["dp_shard"] + shared_out + transfer.of_border
    terms["pp_bubble"] = layout.pipeline_rounds * (layout.pp - 1) * waited / v * _bubble_share(layout)
    parameters = device_parameters(shape, layout)
    beside = (stage.forward, slot_total - stage.forward)
    terms["dp"] = gradient_exchange(shape, layout, work, rates, parameters, beside)
    nodes = maximum(rates.devices / rates.island, 1)
    terms["jitter"] = JITTER_PER_DOUBLING * log2(nodes) * sum_of(terms.values())
    terms["optimizer"], offloaded = optimizer_time(shape, layout, work, rates, parameters)
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


class Transfers(NamedTuple):
    """Seconds in which a pipeline sends activations on and gradients back, per micro-batch and stage.

    `of_slot` is what the slowest stage waits for its neighbours, `spared_last` what of it the last stage is spared, and
    `of_border` what a micro-batch takes over the mean border between two stages, there and back.
    """

    of_slot: Values
    spared_last: Values
    of_border: Values


def _transfers(shape: Shape, layout: Layout, work: StepWork, rates: Rates, slot: Values) -> Transfers:
    """Return what transfers between stages take, which are scattered over tp.

    A stage sends its activations to a neighbour while that one sends it gradients, and so waits once for each neighbour
    (`send_forward_recv_backward` of Megatron-core), or twice where each transfer is awaited by itself (`TrainSchedule`
    of DeepSpeed's pipe/schedule.py). It has two neighbours, or one where two stages hold one chunk each. The last stage
    has none behind it.

    An interleaved pipeline, whose last stage has the first one behind it, sends beside the compute of its next chunk,
    and DualPipe beside that of the other direction. Of such compute a micro-batch has `slot` seconds in all chunks:
    only what that does not hide remains (`overlap_p2p_comm` of Megatron-core; DeepSeek-V3, arXiv 2412.19437 section
    3.2.1). Where each transfer is awaited by itself, nothing is hidden.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    size = tokens * shape.hidden * work.activation_bytes / layout.tp
    chunks = layout.virtual_stages
    beside = ((chunks > 1) | (layout.dualpipe > 0)) & (rates.transfer_wait == 0)
    hidden = where(beside, slot / (2 * chunks), 0.0)
    slower, faster = (
        maximum(size / bandwidth - hidden, 0) + POINT_TO_POINT_LATENCY + rates.transfer_wait
        for bandwidth in network.neighbour_bandwidths(layout.pp, (chunks > 1) | (layout.dualpipe > 0), rates)
    )
    waits = where(rates.transfer_wait > 0, 2.0, 1.0)
    both = (layout.pp > 2) | (chunks > 1)
    far = network.far_share(layout.pp, rates)
    pipelined = layout.pp > 1
    return Transfers(
        where(pipelined, waits * chunks * (slower + where(both, faster, 0.0)), 0.0),
        where(pipelined & both, waits * slower, 0.0),
        where(pipelined, 2 * chunks * (far * slower + (1 - far) * faster), 0.0),
    )
