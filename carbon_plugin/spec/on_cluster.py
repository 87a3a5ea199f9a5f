"""Put a run on other hardware: what nobody stated of it is what is usual there, and what was stated stays."""

from __future__ import annotations

import msgspec

from carbon_plugin.spec.defaults import usual_precision, usual_stack
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.run import RunSpec

PRECISION, STACK = "training.precision", "stack"


def on_cluster(spec: RunSpec, cluster: Cluster) -> tuple[RunSpec, tuple[str, ...]]:
    """Return the run on another cluster, and in words what else changes with it.

    An assumed precision and assumed software depend on the device; those that were stated stay, and a prediction
    refuses a precision that the device has no units for. Another kind of device has no power cap of the run's own.
    """
    device, assumed = cluster.accelerator, {item.field: item.value for item in spec.assumptions}
    changes: dict[str, Assumption] = {}
    notes = lost_cap(spec.cluster, cluster)
    training, stack = spec.training, spec.stack
    precision = usual_precision(device)
    if assumed.get(PRECISION) == training.precision != precision:
        training = msgspec.structs.replace(training, precision=precision)
        changes[PRECISION] = Assumption(PRECISION, precision, f"usual on {device.name}")
    usual, why = usual_stack(device)
    if STACK in assumed and usual != stack:
        stack = usual
        changes[STACK] = why
    notes += tuple(f"{item.field.removeprefix('training.')} {item.value}" for item in changes.values())
    assumptions = tuple(changes.get(item.field, item) for item in spec.assumptions)
    moved = msgspec.structs.replace(spec, cluster=cluster, training=training, stack=stack, assumptions=assumptions)
    return moved, notes


def lost_cap(ours: Cluster, other: Cluster) -> tuple[str, ...]:
    """Return the note that devices of another kind do not have the power cap of the run's own devices."""
    if ours.power_cap_w is None or other.power_cap_w is not None:
        return ()
    return (f"without the power cap of {ours.power_cap_w:g} W",)
