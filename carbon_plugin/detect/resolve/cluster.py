"""Describe the devices that a job computes on and those that it has reserved, as clusters of profiled devices."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.detect.observed import Detected, Observed
from carbon_plugin.detect.resolve.effective import Declared, World
from carbon_plugin.detect.resolve.fields import FieldTable
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster, Node
from carbon_plugin.spec.hardware.profiles import ANY_ACCELERATOR, usual_node
from carbon_plugin.spec.numbers.figure import Assumption


class Clusters(Struct, frozen=True, kw_only=True):
    """One instance holds the clusters of a job, each None where no profile is known.

    `computing` is where the parameters are, `charged` is what is reserved.
    """

    computing: Cluster | None
    charged: Cluster | None
    assumptions: tuple[Assumption, ...]


def resolve_clusters(
    table: FieldTable,
    planned: Cluster | None,
    declared: Declared,
    detected: Detected | None,
    world: World,
    missing: list[str],
) -> Clusters:
    """Return the clusters of a job. Where there is none to predict on, the reason is added to `missing`."""
    on_cpu = detected is not None and detected.device_kind == "cpu"
    named = None if on_cpu else world.accelerator
    stated = declared.accelerator or (planned.accelerator if planned else None)
    chosen: Accelerator | None = named.value if named else stated
    table.choose(
        "cluster.accelerator",
        planned=planned and planned.accelerator.name,
        declared=declared.accelerator and declared.accelerator.name,
        detected=Observed(named.value.name, named.source) if named else None,
    )
    assumptions: list[Assumption] = []
    computing = None
    if chosen is None:
        missing.append(
            "cluster.accelerator: no profile; name one with accelerator=, or write one with carbon-plugin probe"
        )
    elif on_cpu and chosen.kind != "cpu":
        missing.append(f"cluster.accelerator: {chosen.name} is a {chosen.kind}, but the parameters live on the CPU")
    else:
        computing = _cluster(table, chosen, planned, declared, world, missing, assumptions)
    reserved = computing
    if on_cpu and world.accelerator is not None:
        unused: list[str] = []
        reserved = _cluster(FieldTable(), world.accelerator.value, planned, declared, world, unused, assumptions)
    return Clusters(computing=computing, charged=reserved, assumptions=tuple(dict.fromkeys(assumptions)))


def _cluster(
    table: FieldTable,
    accelerator: Accelerator,
    planned: Cluster | None,
    declared: Declared,
    world: World,
    missing: list[str],
    assumptions: list[Assumption],
) -> Cluster | None:
    planned_node = planned.node if planned and _fits(planned.node, accelerator) else None
    declared_node = declared.node if declared.node and _fits(declared.node, accelerator) else None
    try:
        node = declared_node or planned_node or usual_node(accelerator, world.devices_per_node)
    except SpecError as error:
        missing.append(f"cluster.node: {error}")
        return None
    if declared_node is None and planned_node is None:
        source = f"the usual node of {accelerator.name}; nobody named one"
        assumptions.append(Assumption("cluster.node", node.name, source))
    table.choose(
        "cluster.node",
        planned=planned_node and planned_node.name,
        declared=declared_node and declared_node.name,
        default=node.name,
    )
    nodes = Observed(world.nodes, "the launcher's environment")
    each = Observed(world.devices_per_node, "ranks on this node")
    table.choose("cluster.nodes", planned=planned and planned.nodes, detected=nodes)
    table.choose("cluster.devices_per_node", planned=planned and planned.devices_per_node, detected=each)
    try:
        return Cluster(accelerator=accelerator, node=node, nodes=world.nodes, devices_per_node=world.devices_per_node)
    except SpecError as error:
        missing.append(str(error))
        return None


def _fits(node: Node, accelerator: Accelerator) -> bool:
    return node.accelerator in (ANY_ACCELERATOR, accelerator.name)
