"""Compute what the host draws where nothing measures it, by equations with ranges. Nothing here reads a meter.

A training node follows its hardware profile; a machine without one follows its CPU's TDP and utilisation and its
memory's size. All results are (low, central, high), low and high as p10 and p90, and are labelled "modelled".
"""

from __future__ import annotations

from carbon_plugin.meters.watts import Watts
from carbon_plugin.spec.figure import Sourced
from carbon_plugin.spec.hardware.cluster import Host, Node
from carbon_plugin.spec.hardware.fabric import fabric_factor

CPU_IDLE_SHARE = (0.0, 0.1, 0.3)
"""The share of TDP that an idle CPU draws (our convention)."""

CPU_FULL_SHARE = (0.7, 1.0, 1.2)
"""The share of TDP at full load: below it for memory-bound work, above it in turbo (our convention)."""

CPU_W_PER_CORE = (2.5, 5.0, 10.0)
"""The TDP in W of a physical core where none is known: server parts have 3-6 W, laptops and desktops up to 10 (our
convention).
"""

DRAM_W_PER_GB = (0.1, 0.2, 0.375)
"""The power of memory by its size: 0.2 W/GB, 0.1-0.375 from published models (reference data, power.yaml
dram_fallback).
"""

NODE_CPU_SHARE = 0.5
"""The share of CPU TDP in a node profile's base power, which is taken out where a CPU counter measures it (our
convention).
"""


def cpu_tdp(physical_cores: int) -> Watts:
    """Return the TDP of a CPU of which nothing is known: a default range for each core."""
    return Watts(*CPU_W_PER_CORE).times(physical_cores)


def cpu_power(tdp: Watts, utilisation: float, reserved_share: float) -> Watts:
    """Return P_cpu = TDP * (idle * held + (full - idle) * utilisation), held = max(reserved, utilisation).

    `utilisation` is busy core time over all core time of the machine, 0 to 1; `reserved_share` is the part of the
    machine's cores that the job may use, which it keeps awake even when idle.
    """
    busy = min(1.0, max(0.0, utilisation))
    held = max(reserved_share, busy)
    shares = [idle * held + (full - idle) * busy for idle, full in zip(CPU_IDLE_SHARE, CPU_FULL_SHARE, strict=True)]
    return Watts(tdp.low * shares[0], tdp.central * shares[1], tdp.high * shares[2])


def dram_power(memory_bytes: float) -> Watts:
    """Return P_dram = 0.2 W/GB (0.1-0.375) * capacity, however much of it is used."""
    return Watts(*DRAM_W_PER_GB).times(memory_bytes * 1e-9)


def node_base_power(node: Node, *, cpu_measured: bool, dram_measured: bool) -> Watts:
    """Return the constant part of P_node = P_gpu * (1 + overhead) + base, less what counters measure of it.

    A profile's base power covers CPUs, DRAM, disks and NICs. A CPU counter takes `NODE_CPU_SHARE` of the TDP of all
    sockets out of it, a DRAM counter the DRAM's power by size.
    """
    return sourced_power(node.host.base_power_w).less(_measured_part_w(node.host, cpu_measured, dram_measured))


def overhead_fractions(node: Node) -> Watts:
    """Return the power of fans, regulators and supply losses over GPU power, as (low, central, high) fractions."""
    return sourced_power(node.host.overhead_fraction)


def network_power(node: Node, devices: float, nodes: int) -> Watts:
    """Return the power of NICs, switches and optics for the devices of the job on this node.

    It is the profile's power per device on one tier of switches, scaled to the tiers that so many nodes need.
    """
    return sourced_power(node.network.power_w_per_device).times(devices * fabric_factor(node, nodes))


def sourced_power(value: Sourced) -> Watts:
    """Return a profile's value with its range; without a range, the value stands for all three."""
    low = value.value if value.low is None else value.low
    return Watts(low, value.value, value.value if value.high is None else value.high)


def _measured_part_w(host: Host, cpu_measured: bool, dram_measured: bool) -> float:
    cpu_w = NODE_CPU_SHARE * host.cpu_tdp_w.value * host.sockets if cpu_measured else 0.0
    dram_w = dram_power(host.dram_bytes.value).central if dram_measured else 0.0
    return cpu_w + dram_w
