"""The devices that a published row ran on: a profile, with what the row says of its chassis, network and power."""

from __future__ import annotations

import re

import msgspec

from carbon_plugin.calibrate.conventions import accelerator_name
from carbon_plugin.calibrate.fields import Fields
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.figure import Sourced
from carbon_plugin.spec.hardware import Cluster, Node
from carbon_plugin.spec.profiles import default_node_for, load_accelerator

USUAL_CHASSIS = 8
GIGABIT = 1.25e8
"""Bytes/s in a Gb/s."""
RATE = r"(\d+(?:\.\d+)?)\s*([GT])(?:b/?p?s?|\b)"


def row_cluster(row: Fields, assumed: list[str]) -> Cluster:
    """The cluster of a row; what was assumed is appended to `assumed`. Raises `SpecError` naming the field."""
    device = load_accelerator(accelerator_name(row.needed_text("gpu")))
    node = default_node_for(device)
    devices = row.count("n_gpus")
    per_node = min(devices, row.count("gpus_per_node", _chassis(node)))
    if devices > per_node and not row.states("gpus_per_node"):
        assumed.append(f"gpus_per_node {per_node}")
    if devices % per_node:
        raise SpecError(f"n_gpus {devices} is not a multiple of gpus_per_node {per_node}")
    if per_node > node.accelerators:
        # A larger chassis of the same part (DGX-2): same device, more of them on the switch.
        node = msgspec.structs.replace(node, accelerators=per_node)
        if device.scaleup.domain > 1:
            scaleup = msgspec.structs.replace(device.scaleup, domain=max(per_node, device.scaleup.domain))
            device = msgspec.structs.replace(device, scaleup=scaleup)
    nic = nic_bytes_per_s(row.text("inter_node"), per_node)
    if nic is not None:
        network = msgspec.structs.replace(
            node.network, bandwidth_bytes_per_s=Sourced(nic, "the row's inter_node", "read")
        )
        node = msgspec.structs.replace(node, network=network)
    elif devices > per_node:
        assumed.append(f"network {node.network.bandwidth_bytes_per_s.value / GIGABIT:.0f} Gb/s a device")
    if row.states("gpu_power_cap_w") and row.number("gpu_power_cap_w") < device.tdp_w.value:
        cap = Sourced(row.number("gpu_power_cap_w"), "the row's power cap", "read")
        device = msgspec.structs.replace(device, tdp_w=cap)
    return Cluster(accelerator=device, node=node, nodes=devices // per_node, devices_per_node=per_node)


def _chassis(node: Node) -> int:
    """Devices a node where the row does not say: a generic workstation stands for a server of the usual size."""
    return node.accelerators if node.accelerators > 1 else USUAL_CHASSIS


def nic_bytes_per_s(text: str, per_node: int) -> float | None:
    """One-way bytes/s of NIC a device from a phrase such as "1600 Gb/s RoCE per node" or "8x NDR400 IB"; None where it
    names no rate, or does not say per what."""
    if match := re.search(r"(\d+)\s*x\s*(?:HDR|NDR|XDR|EDR)?\s*(\d+)\s*G?", text):
        return int(match.group(1)) * int(match.group(2)) * GIGABIT / per_node
    match = re.search(RATE, text)
    if match is None:
        return None
    rate = float(match.group(1)) * (1000 if match.group(2) == "T" else 1) * GIGABIT
    if "per node" in text or "/node" in text:
        return rate / per_node
    return rate if re.search(r"per GPU|per chip|per device|/GPU", text) else None
