"""Apply the links and the network that a cluster's spec states over those of its profiles."""

from __future__ import annotations

import math
import re

import msgspec

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.parsing.boundary import shown
from carbon_plugin.spec.parsing.rates_of_links import (
    devices_per_nic,
    nic_bytes_per_s,
    rate_bytes_per_s,
    scaleup_bytes_per_s,
)

EXPECTED_LINKS = "links of one device such as NVLink3 (4 links), or their rate in one direction such as 200 GB/s"
EXPECTED_NICS = "the NICs of a node such as 8x 400 Gb/s, or 400 Gb/s per GPU, or 3.2 Tb/s per node"


def with_scaleup(accelerator: Accelerator, text: str) -> Accelerator:
    """Return the device with the scale-up links that a spec states. Raises `SpecError` for text that states none."""
    rate = scaleup_bytes_per_s(text, accelerator.scaleup.bandwidth_bytes_per_s.value)
    if rate is None:
        rate = _plain_rate(text, EXPECTED_LINKS)
        _check_one_way(accelerator, text, rate)
    if rate <= 0:
        raise SpecError(f"expected {EXPECTED_LINKS}, got {shown(text)}")
    stated = Sourced(rate, f"cluster.scaleup: {text}", "read")
    scaleup = msgspec.structs.replace(accelerator.scaleup, bandwidth_bytes_per_s=stated)
    return msgspec.structs.replace(accelerator, scaleup=scaleup)


def _check_one_way(accelerator: Accelerator, text: str, bytes_per_s: float) -> None:
    """Raise `SpecError` where a bare rate is twice that of the device's NVLinks: data sheets print both directions."""
    own = accelerator.scaleup.bandwidth_bytes_per_s.value
    if "nvlink" in accelerator.scaleup.technology.lower() and math.isclose(bytes_per_s, 2 * own, rel_tol=0.02):
        raise SpecError(
            f"expected the rate in one direction, got {shown(text)}, which the NVLinks of {accelerator.name} carry in "
            f"both together: write {own / 1e9:g} GB/s, or NVLink {text.strip()}"
        )


def with_network(node: Node, text: str, devices: int) -> Node:
    """Return the node with the NICs that a spec states, shared by so many devices.

    Raises `SpecError` for text that states no rate, or does not say what the rate belongs to.
    """
    try:
        rate = nic_bytes_per_s(text, devices)
    except SpecError:
        rate = None
    if not rate or not re.fullmatch(r"[\w\s/.\-,x\u00d7*]+", text):
        one = f"1x {text}"
        alone = f"; a node with one such NIC has {one}" if _states_a_rate(one, devices) else ""
        raise SpecError(f"expected {EXPECTED_NICS}, got {shown(text)}{alone}")
    stated = Sourced(rate, f"cluster.network: {text}", "read")
    shared = devices_per_nic(text, devices)
    network = msgspec.structs.replace(node.network, bandwidth_bytes_per_s=stated, devices_per_nic=shared)
    return msgspec.structs.replace(node, network=network)


def _states_a_rate(text: str, devices: int) -> bool:
    try:
        return bool(nic_bytes_per_s(text, devices))
    except SpecError:
        return False


def with_oversubscription(node: Node, factor: float) -> Node:
    """Return the node on a network with this oversubscription above its leaf switches. Raises `SpecError` below 1."""
    return msgspec.structs.replace(node, network=msgspec.structs.replace(node.network, oversubscription=factor))


def with_rails(node: Node, rails: int) -> Node:
    """Return the node with its NICs on this many rails.

    Raises `SpecError` for a number that does not divide the devices of the node.
    """
    return msgspec.structs.replace(node, network=msgspec.structs.replace(node.network, rails=rails))


def _plain_rate(text: str, expected: str) -> float:
    try:
        return rate_bytes_per_s(text)
    except SpecError:
        raise SpecError(f"expected {expected}, got {shown(text)}") from None
