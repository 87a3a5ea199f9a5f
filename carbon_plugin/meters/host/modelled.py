"""Compute what the host draws where nothing measures it, by equations with ranges. Nothing here reads a meter.

A training node follows its hardware profile; a machine without one follows its CPU's TDP and utilisation and its
memory's size. All results are labelled "modelled".
"""

from __future__ import annotations

from carbon_plugin.spec.hardware.cluster import Host, Node
from carbon_plugin.spec.hardware.fabric import fabric_factor
from carbon_plugin.spec.numbers.range import Range

CPU_IDLE_SHARE = Range(0.1, 0.0, 0.3)
"""The share of TDP that an idle CPU draws (our convention)."""

CPU_FULL_SHARE = Range(1.0, 0.7, 1.2)
"""The share of TDP at full load: below it for memory-bound work, above it in turbo (our convention)."""

CPU_W_PER_CORE = Range(5.0, 2.5, 10.0)
"""The TDP in W of a physical core where none is known: server parts have 3-6 W, laptops and desktops up to 10 (our
convention).
"""

DRAM_W_PER_GB = Range(0.2, 0.1, 0.375)
"""The power of memory by its size: 0.2 W/GB, 0.1-0.375 from published models (reference data, power.yaml
dram_fallback).
"""

NODE_CPU_SHARE = 0.5
"""The share of CPU TDP in a node profile's base power, which is taken out where a CPU counter measures it (our
convention).
"""


def cpu_tdp(physical_cores: int) -> Range:
    """Return the TDP of a CPU of which nothing is known: a default range for each core."""
    return CPU_W_PER_CORE.scaled(physical_cores)


def cpu_power(tdp: Range, utilisation: float, reserved_share: float) -> Range:
    """Return P_cpu = TDP * (idle * held + (full - idle) * utilisation), held = max(reserved, utilisation).

    `utilisation` is busy core time over all core time of the machine, 0 to 1; `reserved_share` is the part of the
    machine's cores that the job may use, which it keeps awake even when idle.
    """
    busy = min(1.0, max(0.0, utilisation))
    held = max(reserved_share, busy)
    share = CPU_IDLE_SHARE.scaled(held).plus(CPU_FULL_SHARE.since(CPU_IDLE_SHARE).scaled(busy))
    return tdp.times(share)


def dram_power(memory_bytes: float) -> Range:
    """Return P_dram = 0.2 W/GB (0.1-0.375) * capacity, however much of it is used."""
    return DRAM_W_PER_GB.scaled(memory_bytes * 1e-9)


def node_base_power(node: Node, *, cpu_measured: bool, dram_measured: bool) -> Range:
    """Return the constant part of P_node = P_gpu * (1 + overhead) + base, without what counters measure of it.

    A profile's base power covers CPUs, DRAM, disks and NICs. A CPU counter takes `NODE_CPU_SHARE` of the TDP of all
    sockets out of it, a DRAM counter the DRAM's power by size.
    """
    return node.host.base_power_w.range.less(_measured_part_w(node.host, cpu_measured, dram_measured))


def overhead_fractions(node: Node) -> Range:
    """Return the power of fans, regulators and supply losses over GPU power, as a fraction."""
    return node.host.overhead_fraction.range


def network_power(node: Node, devices: float, nodes: int) -> Range:
    """Return the power of NICs, switches and optics for the devices of the job on this node.

    It is the profile's power per device on one tier of switches, scaled to the tiers that so many nodes need.
    """
    return node.network.power_w_per_device.range.scaled(devices * fabric_factor(node, nodes))


def _measured_part_w(host: Host, cpu_measured: bool, dram_measured: bool) -> float:
    cpu_w = NODE_CPU_SHARE * host.cpu_tdp_w.value * host.sockets if cpu_measured else 0.0
    dram_w = dram_power(host.dram_bytes.value).value if dram_measured else 0.0
    return cpu_w + dram_w
