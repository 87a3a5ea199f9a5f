"""Compute the power of the tiers of switches between nodes, and how far above the leaf switches a job's traffic goes.

A profile's `network.power_w_per_device` is that of one tier: NIC, two transceivers and a switch port. A folded Clos of
switches with R ports joins R endpoints in one tier, R^2/2 in two and R^3/4 in three; every further tier adds two ports
and two transceivers for each endpoint, divided by the oversubscription above the leaf. So the network of a large job
draws more power a node than that of a small one.
"""

from __future__ import annotations

import math

from carbon_plugin.spec.hardware.cluster import Network, Node

RADIX = 64
"""The number of ports of a switch: Quantum-2 and most 25.6 and 51.2 Tb/s Ethernet switches at the rate of one NIC."""
PORT_W, OPTIC_W, NIC_W = 15.6, 8.0, 25.0
"""The power in W of a port (a 64th of a 1 kW switch of 64 x 400 Gb/s), of a 400 Gb/s transceiver and of such a NIC. The
numbers are from memory, as in the profiles' network power. One switch of 8 nodes was measured at 691 W, which is 10.8 W
a port (MLPerf Training v4.1, Dell).
"""
TIER_SHARE = (2 * PORT_W + 2 * OPTIC_W) / (NIC_W + PORT_W + 2 * OPTIC_W)
"""The power of a further tier over that of the first one with its NIC: 0.83."""
NIC_SHARE = NIC_W / (NIC_W + PORT_W + 2 * OPTIC_W)
"""The power of the NIC over that of the first tier with it: 0.44."""


def tiers(endpoints: int) -> int:
    """Return how many tiers of switches join this many ports at full bandwidth."""
    reach, count = float(RADIX), 1
    while endpoints > reach:
        reach, count = reach * RADIX / 2, count + 1
    return count


def fabric_factor(node: Node, nodes: int) -> float:
    """Return the network power of `nodes` nodes over that of the same devices on one tier of switches with a NIC each.

    Nodes have further NICs for storage and management. A single node, or devices without a NIC, need no further tier.
    """
    ports = max(1.0, node.host.nics / node.accelerators)
    return ports * _factor(node.network, tiers(nodes * node.accelerators))


def nic_share(node: Node, nodes: int) -> float:
    """Return the part of the network power of `nodes` nodes that their NICs draw, which a measurement of the machines
    themselves holds. The rest is that of transceivers and switches."""
    return NIC_SHARE / _factor(node.network, tiers(nodes * node.accelerators))


def leaf_nodes(node: Node, rails: int) -> int:
    """Return how many nodes meet at one leaf switch where their NICs are spread over so many rails, at least 1.

    A leaf has as many ports down as its oversubscription leaves it, and each node takes one for every NIC on the rail.
    A device has one NIC in the network of the job.
    """
    down = RADIX * node.network.oversubscription / (1 + node.network.oversubscription)
    return max(1, math.floor(down * rails / node.accelerators))


def narrowing(node: Node, nodes: int) -> tuple[float, float]:
    """Return the divisors of the NICs' rate in exchanges along rails, and in exchanges among all devices of the nodes.

    Devices of the same index meet at one leaf as long as all nodes of the job do, in one hop. All other traffic goes up
    to the spine and is narrowed by the oversubscription: that between leaves, and of an exchange among all devices the
    share that goes to another rail. Without known rails all exchanges between nodes are narrowed.
    """
    network = node.network
    if network.rails is None:
        return network.oversubscription, network.oversubscription
    along = 1.0 if nodes <= leaf_nodes(node, network.rails) else network.oversubscription
    same = 1 / network.rails
    return along, same * along + (1 - same) * network.oversubscription


def _factor(network: Network, count: int) -> float:
    return 1 + TIER_SHARE * (count - 1) / network.oversubscription
