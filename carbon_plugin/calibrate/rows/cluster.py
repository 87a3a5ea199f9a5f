"""Build the cluster of a published row from a profile and from what the row says about its chassis, network
and power.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import msgspec

from carbon_plugin.calibrate.rows.device_names import accelerator_name, slice_chips
from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster, Node
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.parsing.rates_of_links import devices_per_nic, nic_bytes_per_s, scaleup_bytes_per_s

USUAL_CHASSIS = 8
GIGABIT = 1.25e8
"""Bytes/s in one Gb/s."""
SLICES = re.compile(r"(?i)\bDCN\b|data-?\s?cent(er|re) network|\bmulti-?slice|between (slices|pods)")
"""Words of a network that joins slices of chips: the scale-up links of a chip end at its slice, however far such links
reach at most (v5p: 8,960 chips)."""


Hardware = Callable[[str], tuple[Accelerator, Node]]
"""A look-up of a device by its name, which also returns the node that the device is usually part of."""


def known_hardware() -> Hardware:
    """Return a look-up of devices that reads each profile once, for the rows of one file."""

    @cache
    def known(name: str) -> tuple[Accelerator, Node]:
        device = load_accelerator(name)
        return device, default_node_for(device)

    return known


def row_cluster(row: Fields, assumed: list[str], known: Hardware) -> Cluster:
    """Return the cluster of a row and append what was assumed to `assumed`. Raises `SpecError` naming the field."""
    device, node = known(accelerator_name(row.needed_text("gpu")))
    devices = row.count("n_gpus")
    if (chips := slice_chips(row.text("gpu"))) is not None:
        if devices % chips:
            raise SpecError(f"n_gpus {devices} is no multiple of the {chips} chips of {row.text('gpu')}")
        assumed.append(f"{devices // chips} of {row.text('gpu')}, with {chips} chips each")
    per_node = min(devices, row.count("gpus_per_node", _chassis(node)))
    if devices > per_node and not row.states("gpus_per_node"):
        assumed.append(f"gpus_per_node {per_node}")
    if devices % per_node:
        raise SpecError(f"n_gpus {devices} is not a multiple of gpus_per_node {per_node}")
    if per_node > node.accelerators:
        # A larger chassis of the same device (DGX-2) has more devices on the switch. A bridge joins two cards in any.
        node = msgspec.structs.replace(node, accelerators=per_node)
        if device.scaleup.domain > 1 and "bridge" not in device.scaleup.technology:
            scaleup = msgspec.structs.replace(device.scaleup, domain=max(per_node, device.scaleup.domain))
            device = msgspec.structs.replace(device, scaleup=scaleup)
    nic = nic_bytes_per_s(row.text("inter_node"), per_node)
    if nic is not None:
        network = msgspec.structs.replace(
            node.network,
            bandwidth_bytes_per_s=Sourced(nic, "the row's inter_node", "read"),
            devices_per_nic=devices_per_nic(row.text("inter_node"), per_node),
        )
        node = msgspec.structs.replace(node, network=network)
    elif devices > per_node:
        assumed.append(f"network {node.network.bandwidth_bytes_per_s.value / GIGABIT:.0f} Gb/s a device")
    device = _with_links(device, row)
    if row.states("gpus_per_node") and SLICES.search(row.text("inter_node")):
        slices = msgspec.structs.replace(device.scaleup, domain=min(per_node, device.scaleup.domain))
        device = msgspec.structs.replace(device, scaleup=slices)
    cap = row.number("gpu_power_cap_w") if row.states("gpu_power_cap_w") else device.tdp_w.value
    return Cluster(
        accelerator=device,
        node=node,
        nodes=devices // per_node,
        devices_per_node=per_node,
        power_cap_w=cap if cap < device.tdp_w.value else None,
    )


def _chassis(node: Node) -> int:
    """Return the devices per node where the row does not say.

    A generic workstation stands for a server of the usual size.
    """
    return node.accelerators if node.accelerators > 1 else USUAL_CHASSIS


def _with_links(device: Accelerator, row: Fields) -> Accelerator:
    """Return the device with the scale-up links that the row states for its node."""
    rate = scaleup_bytes_per_s(row.text("intra_node"), device.scaleup.bandwidth_bytes_per_s.value)
    if rate is None:
        return device
    stated = Sourced(rate, "the row's intra_node", "read")
    return msgspec.structs.replace(
        device, scaleup=msgspec.structs.replace(device.scaleup, bandwidth_bytes_per_s=stated)
    )
