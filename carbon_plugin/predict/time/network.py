"""Price collectives on a network of two tiers: a fast island (NVLink domain or node) and NICs between islands.

Sources: ring and tree costs are as in Thakur, Rabenseifner, Gropp 2005; bandwidth share and latency constants are as in
`rates`. A group whose ranks lie `stride` apart has island / stride of them in one island, and uses as many NICs of the
node. A group with tp 8 inside thus gets the share of one NIC, and a group with tp 1 gets all eight. Ranks fill the
nodes in their order. Where the size of a group does not divide the node, some groups lie on two nodes, and all wait for
those.
"""

from __future__ import annotations

import numpy as np

from carbon_plugin.predict.arrays import Values, any_of, clip, common_divisor, where
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
ALL_GROUPS: Values = np.float64(1)
"""Share of the groups of experts where a token may use experts of all of them."""
REDUCE_LATENCY_SHARE = 0.6
"""Ratio of the latency of an all-gather or reduce-scatter to that of an all-reduce."""


def ranks_in_island(ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return how many ranks of a group share an island, at least 1.

    Of several groups the one counts that has the fewest together, where islands are not filled with whole groups: of
    groups of 6 ranks on nodes of 8, the second has 2 on the first node and 4 on the next.
    """
    filled = where(rates.devices > rates.island, common_divisor(rates.island, ranks * stride), rates.island)
    return clip(np.floor(filled / stride), 1, ranks)


def near_bandwidth(ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return the bytes/s that a rank of a group gets inside an island.

    It is that of the scale-up links where they join the whole group, or all devices of the island, else that of the bus
    of the host.
    """
    span = ranks * stride
    linked = (rates.joined >= rates.island) | (common_divisor(rates.joined, span) >= span)
    return where(linked, rates.scaleup, np.minimum(rates.scaleup, rates.bus))


def group_bandwidth(ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return the bytes/s that a rank gets in a ring over the group.

    It is the bandwidth inside an island, or that of the NICs that the group uses where it leaves the island.
    """
    near, inside = near_bandwidth(ranks, stride, rates), ranks_in_island(ranks, stride, rates)
    return where(inside >= ranks, near, np.minimum(near, rates.nic * inside))


def group_latency(ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return the latency of an all-reduce in s, which is what it takes without any bytes.

    It is log2 steps inside the island and twice log2 steps between islands.
    """
    inside = ranks_in_island(ranks, stride, rates)
    return rates.scaleup_latency * np.log2(inside) + 2 * rates.nic_latency * np.log2(ranks / inside)


def all_reduce_time(size_bytes: Values, ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return the seconds to all-reduce `size_bytes` that each of `ranks` holds, or 0 for one rank.

    A ring sends 2 (n-1)/n of the bytes. Where the switches between islands reduce, each rank sends and receives the
    bytes once (SHARP, Graham et al. 2016).
    """
    between = ranks_in_island(ranks, stride, rates) < ranks
    passes = where((rates.in_network > 0) & between, 1.0, 2 * (ranks - 1) / ranks)
    wire = passes * size_bytes / group_bandwidth(ranks, stride, rates)
    return where(ranks > 1, wire + group_latency(ranks, stride, rates), 0.0)


def gather_time(size_bytes: Values, ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return the seconds of an all-gather or reduce-scatter, or 0 for one rank. `size_bytes` is the full tensor."""
    wire = (ranks - 1) / ranks * size_bytes / group_bandwidth(ranks, stride, rates)
    latency = REDUCE_LATENCY_SHARE * group_latency(ranks, stride, rates) + ring_latency(ranks, stride, rates)
    return where(ranks > 1, wire + latency, 0.0)


def ring_latency(ranks: Values, stride: Values, rates: Rates) -> Values:
    """Return the seconds in which an empty message passes all ranks of a ring that leaves the island, one after the
    other.

    Gathers and scatters have no tree, so that their latency grows with the number of ranks and not with its logarithm.
    """
    islands = ranks / ranks_in_island(ranks, stride, rates)
    return where(islands > 1, (islands - 1) * rates.nic_hop + (ranks - islands) * HOP_INSIDE_S, 0.0)


def near_time(size_bytes: Values, ranks: Values, rates: Rates) -> Values:
    """Return the seconds that the bytes of a gather or scatter take at scale-up speed.

    This is what they cost the memory of a device, however long they wait for a slow network.
    """
    return (ranks - 1) / ranks * size_bytes / rates.scaleup


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
    inside = ranks_in_island(ranks, stride, rates)
    leaving, staying = (ranks - inside) / ranks, (inside - 1) / ranks
    if any_of(rates.deduplicated > 0):
        once, k, islands = rates.deduplicated > 0, np.maximum(top_k, 1), ranks / inside
        in_turn, share = rates.round_robin > 0, k / np.maximum(experts, k)
        far_met = where(in_turn, _neighbours(share, islands), different(k, np.maximum(islands * group_share, 1)))
        near_met = where(in_turn, _neighbours(share, ranks), different(k, ranks))
        leaving = where(once, np.minimum(leaving, (islands - 1) / islands * far_met / k), leaving)
        staying = where(once, (inside - 1) / inside * near_met / k, staying)
    near = size_bytes * staying / (near_bandwidth(ranks, stride, rates) * rates.all_to_all_share)
    far = size_bytes * leaving / where(rates.deduplicated > 0, rates.nic, rates.nic_across * FAR_EXCHANGE_SHARE)
    begun = 3 * rates.scaleup_latency + where(rates.deduplicated > 0, 0.0, (ranks - inside) * FAR_PEER_S)
    return where(ranks > 1, np.maximum(near, far) + begun, 0.0)


def _neighbours(share: Values, places: Values) -> Values:
    """Return on how many of `places` that hold all experts in order a share of them lies that are neighbours."""
    return np.asarray(np.maximum(share * places, 1))


def different(choices: Values, places: Values) -> Values:
    """Return how many different places so many random choices are expected to hit."""
    return np.asarray(places * (1 - (1 - 1 / places) ** choices))


def point_to_point_bandwidth(rates: Rates) -> Values:
    """Return the bytes/s between those two neighbours of a pipeline that have the slowest link.

    The stages lie one after the other over all devices of the job, so that some neighbours are on two islands unless
    the whole job is on one. The pipeline goes at the pace of their link.
    """
    near = near_bandwidth(rates.devices, np.float64(1), rates)
    return where(rates.devices > rates.island, np.minimum(near, rates.nic), near)
