"""Fit the host model to published servers, and write what it says of every shipped node into the node's profile.

    python -m tools.rebuild hosts     # writes embodied_kg of hardware_profiles/nodes
    python -m tools.host_model        # prints the fitted constants

The servers stand in carbon_plugin/footprint/factors/data/embodied_servers.yaml, the constants in embodied.yaml beside
it: put the printed ones there (the range of each holds the fits to the sheets of one manufacturer) and run it once
more. Nodes of another source than the host model stay as they are.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from carbon_plugin.footprint.embodied import tables
from carbon_plugin.footprint.embodied.bill import host_parts
from carbon_plugin.footprint.embodied.devices import node_rating_w
from carbon_plugin.spec.hardware.cluster import Node
from carbon_plugin.spec.hardware.profiles import load_accelerator
from carbon_plugin.validate.hardware.embodied import sum_of_parts
from carbon_plugin.validate.hardware.servers import every_server, fit_hosts, fits_by_manufacturer

NODES = Path(__file__).resolve().parents[1] / "hardware_profiles" / "nodes"
USUAL_DEVICE = {"sxm-8": "h100-sxm", "pcie-8": "l40s"}
"""The accelerator by whose power limit a node that takes any is rated here."""
STATED = re.compile(r"(\n  embodied_kg: \{)value: [\d.]+, low: [\d.]+, high: [\d.]+(, source: host-model)")
SOURCE = re.compile(r'(\n  host-model: ").*(")')


def modelled_kg(node: Node) -> tuple[int, int, int]:
    """Return low, central and high kgCO2e of a node without its accelerators, to the nearest 10 kg."""
    device = load_accelerator(USUAL_DEVICE.get(node.name, node.accelerator))
    kg = sum_of_parts(host_parts(node.host, node_rating_w(node, device.tdp_w.value)))
    return round(kg.low / 10) * 10, round(kg.value / 10) * 10, round(kg.high / 10) * 10


def source_words() -> str:
    """Return what a profile says of the model: its constants, and what they were fitted to."""
    model = tables.embodied_table().host
    return (
        f"host model (tools/host_model.py): CPU, {model.dram_kg_per_gb.value:g} kg/GB DRAM, "
        f"{model.ssd_kg_per_gb.value:g} kg/GB SSD, {model.supply_kg_per_w.value:g} kg a W of supplies, "
        f"{model.board.value:g} kg mainboard and {model.socket.value:g} kg a socket, "
        f"{model.chassis_kg_per_unit.value:g} kg a rack unit, {model.nic.value:g} kg a NIC; "
        f"fitted to {len(every_server())} published servers, see docs/embodied.md"
    )


def written(node: Node, text: str) -> str:
    """Return the text of a node's profile with what the model says of it, if its source is the model."""
    if not STATED.search(text):
        return text
    low, value, high = modelled_kg(node)
    text = STATED.sub(rf"\g<1>value: {value}, low: {low}, high: {high}\g<2>", text)
    return SOURCE.sub(rf"\g<1>{source_words()}\g<2>", text)


if __name__ == "__main__":
    sys.stdout.write(f"{fit_hosts(list(every_server().values()))}\n")
    sys.stdout.writelines(f"{manufacturer}: {fit}\n" for manufacturer, fit in fits_by_manufacturer().items())
