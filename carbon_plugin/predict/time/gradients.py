"""Compute the seconds in which data-parallel ranks exchange gradients and new values, once a step."""

from __future__ import annotations

from typing import NamedTuple

from carbon_plugin.predict.arrays import Values, any_of, maximum, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork, fetches_once, reduced_bytes
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.overlap import exposed_exchange

TENSORS_OF_LAYER = 9
"""Parameter tensors of a layer: four of the attention, three of a gated feed-forward block and two norms."""


class _Exchange(NamedTuple):
    """Seconds in which gradients are sent and new values fetched, and those of their bytes at scale-up speed."""

    sent: Values
    near_sent: Values
    fetched: Values
    near_fetched: Values


def gradient_exchange(
    shape: Shape,
    layout: Layout,
    work: StepWork,
    rates: Rates,
    parameters: tuple[Values, Values],
    beside: tuple[Values, Values],
) -> Values:
    """Return the seconds, once per step, of the exchange of gradients and new values over data-parallel ranks.

    Frozen parameters have no gradient to send and no new value to fetch, and a device that holds two stages exchanges
    those of both. `beside` are the seconds of the forward pass
    of the first micro-batch and of the backward pass of the last one: new values are fetched during the first and
    gradients are sent during the second, where they overlap.
    """
    shared, routed = (layout.copies * count * shape.trainable for count in parameters)
    shards, tensors = layout.dp_shard * layout.cp, TENSORS_OF_LAYER * shape.layers / layout.pp
    found = _exchange(shared, tensors, shards, layout.dp_replicate, layout.tp, layout, work, rates)
    if any_of(routed > 0):
        shards, replicas, stride = layout.expert_shards, layout.expert_replicas, layout.expert_split
        experts = _exchange(routed, tensors, shards, replicas, stride, layout, work, rates)
        found = _Exchange(*(both + where(routed > 0, more, 0.0) for both, more in zip(found, experts, strict=True)))
    # Hybrid sharding reduces over replicas layer by layer during the backward pass, as it scatters: only the layer that
    # the backward pass computes last has no compute left beside its exchange (`_reduce_grad` of PyTorch's FSDP).
    hidden = where(layout.zero_stage >= 2, maximum(rates.dp_overlap, 1 - 1 / shape.layers), rates.dp_overlap)
    forward, backward = beside
    gradients = exposed_exchange(found.sent, found.near_sent, backward, hidden, rates)
    return gradients + exposed_exchange(found.fetched, found.near_fetched, forward, rates.gather_overlap, rates)


def _exchange(
    parameters: Values,
    tensors: Values,
    shards: Values,
    replicas: Values,
    stride: Values,
    layout: Layout,
    work: StepWork,
    rates: Rates,
) -> _Exchange:
    """Return the exchange of so many `parameters` in so many `tensors`, of which there are `replicas` in `shards` each,
    on ranks that lie `stride` apart.

    Gradients are all-reduced over replicas (DDP, HSDP); ZeRO-1 scatters and gathers, and ZeRO-2 that keeps its
    parameters whole gathers alone, because each micro-batch has scattered.
    """
    # With stage 0 the context-parallel ranks are replicas too, so that one all-reduce covers all of them.
    every = network.group_of(replicas * shards, stride, rates)
    within, across = network.group_of(shards, stride, rates), network.group_of(replicas, stride * shards, rates)
    size, fetched = parameters * reduced_bytes(layout, work), parameters * work.parameter_bytes
    whole, one_stage = layout.zero_stage == 0, layout.zero_stage == 1
    scattered = where(one_stage, within.gather_time(size), 0.0)
    near_scattered = where(one_stage, within.near_time(size), 0.0)
    fetches = fetches_once(layout, work)
    gather = within.gather_time(fetched)
    if any_of(rates.broadcasts > 0):
        # Every tensor passes all ranks by itself: NCCL broadcasts around a ring.
        gather = gather + where(rates.broadcasts > 0, tensors * within.ring_latency, 0.0)
    return _Exchange(
        sent=where(whole, every.all_reduce_time(size), scattered + across.all_reduce_time(size / shards)),
        near_sent=where(whole, 2 * every.near_time(size), near_scattered + 2 * across.near_time(size / shards)),
        fetched=where(fetches, gather, 0.0),
        near_fetched=where(fetches, within.near_time(fetched), 0.0),
    )
