"""Compute the seconds that sharded parameters and gradients (ZeRO-2 and 3) add to a layer: exchanges that its compute
does not hide, and copies between tensors and buffers.
"""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, any_of, sum_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork, fetches_once, reduced_bytes
from carbon_plugin.predict.parameters import layer_parameters
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.frozen import stored_share
from carbon_plugin.predict.time.operators import NO_COST, Cost
from carbon_plugin.predict.time.overlap import overlapped


def fsdp_exposed(
    shape: Shape,
    layout: Layout,
    work: StepWork,
    rates: Rates,
    micro_batches: Values,
    passes: Cost,
    *,
    sparse: bool,
) -> Cost:
    """Return the exposed seconds of the parameter gathers and gradient scatters of ZeRO-2/3 around one layer.

    `passes` are the seconds of its passes without them, the backward one with what it repeats.

    The traffic overlaps with compute, but by the bytes that it moves it takes memory bandwidth and SMs from compute:
    the step still pays a `contention` share of the time that these bytes take at scale-up speed. Waiting for a network
    costs no memory bandwidth. Under a pipeline parameters are gathered and gradients are scattered once per step,
    beside one micro-batch. Software that does not gather ahead waits for the parameters of each layer. What keeps its
    parameters whole under ZeRO-2 gathers none here (`gradients.gradient_exchange`).
    """
    if not any_of(layout.zero_stage >= 2):
        return NO_COST
    forward, backward = passes.forward, passes.backward
    shared, routed = layer_parameters(shape, layout, sparse=sparse)
    moved = [(shared, network.group_of(layout.dp_shard * layout.cp, layout.tp, rates))]
    if sparse:
        moved.append((routed, network.group_of(layout.expert_shards, layout.expert_split, rates)))

    def both(element_bytes: Values) -> tuple[Values, Values]:
        """Return the seconds of the traffic, and the seconds of its bytes at scale-up speed."""
        time = sum_of(group.gather_time(parameters * element_bytes) for parameters, group in moved)
        return time, sum_of(group.near_time(parameters * element_bytes) for parameters, group in moved)

    gathered = where(fetches_once(layout, work), 0.0, 1.0)
    gather, near_gather = (gathered * time for time in both(work.parameter_bytes * stored_share(shape)))
    # Frozen parameters have no gradient.
    scatter, near_scatter = (time * shape.trainable for time in both(reduced_bytes(layout, work)))
    again = layout.zero_stage >= 3  # ZeRO-2 keeps parameters between forward and backward
    after, near_after = where(again, gather, 0.0) + scatter, where(again, near_gather, 0.0) + near_scatter
    exposed = Cost(
        overlapped(forward, gather, near_gather, rates) - forward,
        overlapped(backward, after, near_after, rates) - backward,
    )
    if any_of(rates.gathers_ahead == 0):
        sent = overlapped(backward, scatter, near_scatter, rates) - backward
        exposed = Cost(
            where(rates.gathers_ahead > 0, exposed.forward, gather),
            where(rates.gathers_ahead > 0, exposed.backward, where(again, gather, 0.0) + sent),
        )
    split = sum_of(parameters * (group.ranks > 1) for parameters, group in moved)
    exposed = exposed + _repacking(split, shape, layout, work, rates)
    return exposed * where(layout.zero_stage >= 2, 1 / where(layout.pp > 1, micro_batches, 1.0), 0.0)


def _repacking(parameters: Values, shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Cost:
    """Return the seconds in which sharded PyTorch moves the parameters of a layer between tensors and buffers.

    FSDP2 copies what it gathered out of the buffer into a tensor for each parameter (`foreach_all_gather_copy_out`),
    and gradients into the buffer in the type in which they are reduced (`foreach_reduce_scatter_copy_in`), both beside
    no compute. FSDP's first form gathers into one flat tensor whose views are the parameters, and autograd puts the
    gradients of the views together.
    """
    copied = work.copies_gathered * 2 * work.parameter_bytes * stored_share(shape) * parameters / rates.streaming
    packed = work.packs_gradients * (work.parameter_bytes + reduced_bytes(layout, work)) * parameters / rates.streaming
    return Cost(copied, where(layout.zero_stage >= 3, copied, 0.0) + packed * shape.trainable)
