"""Fit the host model to published servers, and write what it says of every shipped node into the node's profile.

    python tools/host_model.py        # prints the fitted constants, writes embodied_kg of hardware_profiles/nodes

The servers stand in carbon_plugin/footprint/factors/data/embodied_servers.yaml, the constants in embodied.yaml beside
it: put the printed ones there and run it once more. Nodes of another source than the host model stay as they are.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from carbon_plugin.footprint.embodied.bill import host_parts
from carbon_plugin.footprint.embodied.devices import node_rating_w
from carbon_plugin.spec.hardware.cluster import Node
from carbon_plugin.spec.hardware.profiles import list_nodes, load_accelerator
from carbon_plugin.validate.embodied import sum_of_parts
from carbon_plugin.validate.servers import every_server, fit_hosts

NODES = Path(__file__).resolve().parents[1] / "hardware_profiles" / "nodes"
USUAL_DEVICE = {"sxm-8": "h100-sxm", "pcie-8": "l40s"}
"""The accelerator by whose power limit a node that takes any is rated here."""
STATED = re.compile(r"(\n  embodied_kg: \{)value: [\d.]+, low: [\d.]+, high: [\d.]+(, source: host-model)")


def modelled_kg(node: Node) -> tuple[int, int, int]:
    """Return low, central and high kgCO2e of a node without its accelerators, to the nearest 10 kg."""
    device = load_accelerator(USUAL_DEVICE.get(node.name, node.accelerator))
    kg = sum_of_parts(host_parts(node.host, node_rating_w(node, device.tdp_w.value)))
    return round(kg.low / 10) * 10, round(kg.value / 10) * 10, round(kg.high / 10) * 10


def written(node: Node, text: str) -> str:
    """Return the text of a node's profile with what the model says of it, if its source is the model."""
    if not STATED.search(text):
        return text
    low, value, high = modelled_kg(node)
    return STATED.sub(rf"\g<1>value: {value}, low: {low}, high: {high}\g<2>", text)


if __name__ == "__main__":
    sys.stdout.write(f"{fit_hosts(list(every_server().values()))}\n")
    for one in list_nodes():
        path = NODES / f"{one.name}.yaml"
        path.write_text(written(one, path.read_text(encoding="utf-8")), encoding="utf-8")
