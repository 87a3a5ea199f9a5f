"""Price collectives on a network of two tiers: a fast island (NVLink domain or node) and NICs between islands.

Sources: ring and tree costs are as in Thakur, Rabenseifner, Gropp 2005; bandwidth share and latency constants are as in
`rates`. A group whose ranks lie `stride` apart has island / stride of them in one island, and uses as many NICs of the
node. A group with tp 8 inside thus gets the share of one NIC, and a group with tp 1 gets all eight. Ranks fill the
nodes in their order. Where the size of a group does not divide the node, some groups lie on two nodes, and all wait for
those.
"""

from __future__ import annotations

from dataclasses import dataclass

from carbon_plugin.predict.arrays import (
    Flags,
    Values,
    any_of,
    clip,
    common_divisor,
    floor,
    log2,
    maximum,
    minimum,
    where,
)
from carbon_plugin.predict.rates.rates import Rates

HOP_INSIDE_S = 3.4e-6
"""Seconds of one step of a ring over NVLink, with the simple protocol (NCCL src/graph/tuning.cc, hwLat)."""
FAR_EXCHANGE_SHARE = 0.84
"""Share of what other collectives reach over NICs that a plain all-to-all reaches there with large messages.

It is that of 256 MB to 2 GB a rank in a table of nccl-tests on 2 to 8 nodes of eight H100 with 50 GB/s of EFA for each
(crazyguitar/aws-gpu-communication-benchmark, data/nccl_alltoall.csv at a77f70d): 0.79 to 0.88.
"""
FAR_PEER_S = 1e-6
"""Seconds that a plain all-to-all takes for each peer in another island, beside the bytes.

Eight nodes of eight H800 take 296 to 338 us for 8 MB a rank (issue 1531 of NVIDIA/nccl). The bytes are 175 of them, and
three latencies of 27 us (the H800's `scaleup_latency_s`) are 81, which leaves 40 to 82 for 56 peers. Over EFA it is 4
us, and 160 us more in all, by the table above.
"""
ALL_GROUPS: Values = 1.0
"""Share of the groups of experts where a token may use experts of all of them."""
REDUCE_LATENCY_SHARE = 0.6
"""Ratio of the latency of an all-gather or reduce-scatter to that of an all-reduce."""


def ranks_in_exchange(ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return how many ranks of expert parallelism reach one another over scale-up links, at least 1."""
    inside = ranks_in_island(ranks, stride, rates)
    return minimum(inside, maximum(floor(rates.exchange_peers / stride), 1))


def ranks_in_island(ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return how many ranks of a group share an island, at least 1.

    Of several groups the one counts that has the fewest together, where islands are not filled with whole groups: of
    groups of 6 ranks on nodes of 8, the second has 2 on the first node and 4 on the next.
    """
    filled = where(rates.devices > rates.island, common_divisor(rates.island, ranks * stride), rates.island)
    return clip(floor(filled / stride), 1, ranks)


def near_bandwidth(ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return the bytes/s that a rank of a group gets inside an island.

    It is that of the scale-up links where they join the whole group, or all devices of the island, else that of the bus
    of the host.
    """
    span = ranks * stride
    linked = (rates.joined >= rates.island) | (common_divisor(rates.joined, span) >= span)
    return where(linked, rates.scaleup, minimum(rates.scaleup, rates.bus))


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that exchange with one another, and what their places on the network give them.

    `inside` is how many of them share an island, `bandwidth` are the bytes/s of a rank in a ring over all of them, and
    `latency` the seconds that an all-reduce takes without any bytes. `rates` are those of the cluster.
    """

    ranks: Values
    inside: Values
    bandwidth: Values
    latency: Values
    rates: Rates

    @property
    def ring_latency(self) -> Values:
        """Return the seconds in which an empty message passes all ranks of a ring that leaves the island, one after the
        other.

        Gathers and scatters have no tree, so that their latency grows with the number of ranks and not with its
        logarithm.
        """
        islands = self.ranks / self.inside
        passed = (islands - 1) * self.rates.nic_hop + (self.ranks - islands) * HOP_INSIDE_S
        return where(islands > 1, passed, 0.0)

    def all_reduce_time(self, size_bytes: Values) -> Values:
        """Return the seconds to all-reduce `size_bytes` that each rank holds, or 0 for one rank.

        A ring sends 2 (n-1)/n of the bytes. Where the switches between islands reduce, each rank sends and receives the
        bytes once (SHARP, Graham et al. 2016).
        """
        reduced = (self.rates.in_network > 0) & (self.inside < self.ranks)
        passes = where(reduced, 1.0, 2 * (self.ranks - 1) / self.ranks)
        return where(self.ranks > 1, passes * size_bytes / self.bandwidth + self.latency, 0.0)

    def gather_time(self, size_bytes: Values) -> Values:
        """Return the seconds of an all-gather or reduce-scatter, or 0 for one rank. `size_bytes` is the full tensor."""
        wire = (self.ranks - 1) / self.ranks * size_bytes / self.bandwidth
        return where(self.ranks > 1, wire + (REDUCE_LATENCY_SHARE * self.latency + self.ring_latency), 0.0)

    def near_time(self, size_bytes: Values) -> Values:
        """Return the seconds that the bytes of a gather or scatter take at scale-up speed.

        This is what they cost the memory of a device, however long they wait for a slow network.
        """
        return (self.ranks - 1) / self.ranks * size_bytes / self.rates.scaleup


def group_of(ranks: Values, stride: Values, rates: Rates) -> Group:
    """Return the group of so many ranks that lie `stride` apart.

    The bandwidth is that inside an island, or that of the NICs that the group uses where it leaves the island. The
    latency is log2 steps inside the island and twice log2 steps between islands.
    """
    near, inside = near_bandwidth(ranks, stride, rates), ranks_in_island(ranks, stride, rates)
    bandwidth = where(inside >= ranks, near, minimum(near, rates.nic * inside))
    latency = rates.scaleup_latency * log2(inside) + 2 * rates.nic_latency * log2(ranks / inside)
    return Group(ranks, inside, bandwidth, latency, rates)


def all_to_all_time(
    size_bytes: Values,
    top_k: Values,
    experts: Values,
    ranks: Values,
    stride: Values,
    rates: Rates,
    group_share: Values = ALL_GROUPS,
) -> Values:
    """Return the seconds to send `size_bytes` per rank to `experts` on `ranks` ranks that lie `stride` apart, or 0 for
    one rank.

    A plain all-to-all sends a token once for each of its k experts: (n-m)/n of the rows leave an island of m of the n
    ranks, and (m-1)/n stay in it. With deduplication (DeepEP) a token is sent once to each of the i islands that have
    some of its experts, on which it goes on to each rank that holds one (DeepSeek-V3, arXiv 2412.19437 section 3.2).
    The router may pick experts from a share g (`group_share`) of the islands only, so that a token meets
    gi(1-(1-1/gi)^k) of them, of which (i-1)/i are others, and n(1-(1-1/n)^k) ranks, to which (m-1)/m of the copies come
    over scale-up links. Experts in turn are neighbours: k of E of them lie on kn/E ranks, and on one at least. DeepEP
    sends a token to the device of the same index on the other node, along its rail, and forwards it there; a plain
    all-to-all goes across rails.
    """
    inside = ranks_in_exchange(ranks, stride, rates)
    leaving, staying = (ranks - inside) / ranks, (inside - 1) / ranks
    if any_of(rates.deduplicated > 0):
        once, k, islands = rates.deduplicated > 0, maximum(top_k, 1), ranks / inside
        in_turn, share = rates.round_robin > 0, k / maximum(experts, k)
        far_met = where(in_turn, _neighbours(share, islands), different(k, maximum(islands * group_share, 1)))
        near_met = where(in_turn, _neighbours(share, ranks), different(k, ranks))
        leaving = where(once, minimum(leaving, (islands - 1) / islands * far_met / k), leaving)
        staying = where(once, (inside - 1) / inside * near_met / k, staying)
    near = size_bytes * staying / (near_bandwidth(ranks, stride, rates) * rates.all_to_all_share)
    far = size_bytes * leaving / where(rates.deduplicated > 0, rates.nic, rates.nic_across * FAR_EXCHANGE_SHARE)
    begun = 3 * rates.scaleup_latency + where(rates.deduplicated > 0, 0.0, (ranks - inside) * FAR_PEER_S)
    return where(ranks > 1, maximum(near, far) + begun, 0.0)


def _neighbours(share: Values, places: Values) -> Values:
    """Return on how many of `places` that hold all experts in order a share of them lies that are neighbours."""
    return maximum(share * places, 1)


def different(choices: Values, places: Values) -> Values:
    """Return how many different places so many random choices are expected to hit."""
    return places * (1 - (1 - 1 / places) ** choices)


def neighbour_bandwidths(stages: Values, both_ways: Flags | bool, rates: Rates) -> tuple[Values, Values]:
    """Return the bytes/s of a pipeline stage over the slower and over the faster of its links to its two neighbours.

    The stages lie one after the other over all devices of the job. Of a job on several islands some neighbours are on
    two of them. Where an island holds two stages or more, no device has both its neighbours on others, and the NICs are
    left to those that send (`nic_senders`).
    """
    near = near_bandwidth(rates.devices, 1.0, rates)
    sent = rates.nic * rates.devices_per_nic / nic_senders(stages, both_ways, rates)
    far = where(rates.devices > rates.island, minimum(near, sent), near)
    return far, where(2 * rates.devices / stages > rates.island, far, near)


def nic_senders(stages: Values, both_ways: Flags | bool, rates: Rates) -> Values:
    """Return how many of the devices that share a NIC send to another island at one time in a pipeline, at most.

    Of an island that holds several stages the devices of the last one send activations on, and those of the first one
    gradients back. 1F1B does so at different times: each border between stages has its turn, a forward pass after that
    of the border before (`send_forward_recv_backward` and `send_backward_recv_forward` of Megatron-core's schedules.py;
    a test enumerates them). `both_ways` are schedules that send both at once. The two ends of an island share a NIC
    only where the island has no other, and a device sends through the NIC that is next to it (`ncclTopoGetLocalNet` of
    NCCL's graph/topo.cc), which it has for itself where there are as many as devices.
    """
    stage = rates.devices / stages
    ends = where(both_ways & (rates.devices_per_nic >= rates.island), 2, 1)
    return clip(ends * stage, 1, minimum(rates.devices_per_nic, rates.island))


def far_share(stages: Values, rates: Rates) -> Values:
    """Return on how many of the borders between stages a pipeline goes from one island to the next, as a share."""
    return clip((rates.devices / rates.island - 1) / maximum(stages - 1, 1), 0, 1)
