"""Compute the seconds that traffic adds to the compute beside which it runs."""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, any_of, maximum, minimum, sqrt, where
from carbon_plugin.predict.case.inputs import Layout
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time import network
from carbon_plugin.predict.time.operators import Cost

EXCHANGE_SMS, DEVICE_SMS = 20, 132
"""SMs that the kernels of an exchange between nodes take, of those of an H800 (DeepSeek-V3, arXiv 2412.19437 section
3.2.2). The same share is taken for other devices and kernels."""


def smooth_max(a: Values, b: Values) -> Values:
    """Return (a^4 + b^4)^(1/4), the time of two things that overlap almost fully."""
    a2, b2 = a * a, b * b
    return sqrt(sqrt(a2 * a2 + b2 * b2))


def overlapped(compute: Values, traffic: Values, near: Values, rates: Rates) -> Values:
    """Return the seconds of compute with traffic beside it: the smooth maximum of the slowed compute and the traffic.

    `near` are the seconds that the bytes of the traffic take at scale-up speed.
    """
    slowed = compute + rates.contention * minimum(near, compute)
    return where(traffic > 0, smooth_max(slowed, traffic), compute)


def exposed_exchange(traffic: Values, near: Values, compute: Values, hidden: Values, rates: Rates) -> Values:
    """Return the seconds that an exchange adds to a step when a share `hidden` of it runs beside `compute`.

    They are the seconds of the rest, of what does not fit beside the compute, and of what the traffic takes from the
    compute. `near` are the seconds that the bytes of the exchange take at scale-up speed.
    """
    overlap = overlapped(compute, hidden * traffic, hidden * near, rates) - compute
    return (1 - hidden) * traffic + overlap


def exposed_experts(traffic: Cost, compute: Cost, layout: Layout, rates: Rates) -> Cost:
    """Return the seconds of expert traffic that the step waits for, in the forward and in the backward pass.

    The step waits for all of it. With overlap the traffic of the forward pass of one micro-batch and that of the
    backward pass of another run beside the compute of both (DeepSeek-V3, arXiv 2412.19437 section 3.2.1;
    `overlap_moe_expert_parallel_comm` of Megatron-core), so that only what both do not hide remains, in proportion. An
    exchange within an island takes memory bandwidth and SMs from the compute as other traffic does. One that leaves the
    island goes at the pace of NICs and takes little but the SMs of its kernels while it lasts.
    """
    if not any_of(layout.expert_overlap):
        return traffic
    beside, sent = compute.forward + compute.backward, traffic.forward + traffic.backward
    fewer = beside + EXCHANGE_SMS / (DEVICE_SMS - EXCHANGE_SMS) * minimum(sent, beside)
    leaves = network.ranks_in_exchange(layout.ep, layout.expert_tp, rates) < layout.ep
    both = where(leaves, smooth_max(fewer, sent), overlapped(beside, sent, sent, rates))
    share = where(sent > 0, (both - beside) / maximum(sent, 1e-30), 0.0)
    return traffic * where(layout.expert_overlap > 0, share, 1.0)
