"""Count the devices of a job that reach one another without a network, and those that links or a library join there."""

from __future__ import annotations

from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster
from carbon_plugin.spec.stack import Stack

DEEPEP_PEERS = 8
"""The largest number of devices that DeepEP's kernels for training join by scale-up links (`NUM_MAX_NVL_PEERS`)."""


def island_size(cluster: Cluster) -> int:
    """Return the number of devices of the job that reach one another without a network.

    A rack-scale domain (NVL72) spans nodes, and a job on several of them has as many whole nodes in each, which is how
    schedulers place it in blocks (128 devices are 64 in each of two racks). Otherwise the island is the node, within
    which devices that no link joins talk over the bus of the host.
    """
    domain, devices, node = cluster.accelerator.scaleup.domain, cluster.devices, cluster.devices_per_node
    if domain > cluster.node.accelerators:
        most = min(domain, devices) // node * node
        alike = next(size for size in range(most, 0, -node) if devices % size == 0)
        return alike if 2 * alike > domain or alike == devices else domain
    return node


def joined_devices(cluster: Cluster) -> int:
    """Return how many devices of an island scale-up links join: none to another for cards without a bridge, pairs for
    cards with one, else all of the node or the rack.

    Where somebody measured what a card without a bridge sustains, its lanes count as links. The ranks of a CPU share
    its memory.
    """
    device, island = cluster.accelerator, island_size(cluster)
    domain = device.scaleup.domain
    measured = domain == 1 and not on_the_bus(device)
    if device.kind == "cpu" or measured or domain > cluster.node.accelerators:
        return island
    return min(domain, island)


def on_the_bus(device: Accelerator) -> bool:
    """Return whether devices of this kind reach one another over the bus of the host alone, so that a share of links
    says nothing of them. A profile that states one says that their lanes are links.
    """
    return device.kind != "cpu" and device.scaleup.domain == 1 and device.efficiency.scaleup_share is None


def exchange_peers(cluster: Cluster, stack: Stack) -> int:
    """Return the largest number of devices between which tokens reach experts over scale-up links.

    DeepEP's kernels for training know links between the devices of a node, eight at most, and go over the network
    beyond, also in a rack whose links join all nodes (its maintainers in issues 50 and 392 of deepseek-ai/DeepEP, and a
    review of pull request 218). HybridEP and plain collectives use all links that there are (pull request 420).
    """
    island = island_size(cluster)
    return min(DEEPEP_PEERS, cluster.devices_per_node, island) if stack.expert_dispatch == "deepep" else island
