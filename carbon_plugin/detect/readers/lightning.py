"""Read Lightning from its trainer or its Fabric: what the strategy's device mesh and the trainer's arguments state."""

from __future__ import annotations

import math
from typing import Any

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.names import AXIS_OF_NAME
from carbon_plugin.detect.observed import Observed

_PRECISION = {"bf16": "bf16", "16": "fp16", "transformer": "fp8"}


def read(job: Job) -> Findings | None:
    """Return tensor parallelism by the strategy's mesh, and what a trainer states, or None if neither a trainer nor a
    Fabric was handed over.

    The wrappers of the model show how the data-parallel axis of that mesh is used.
    """
    trainer = job.framework
    if not hasattr(trainer, "strategy"):
        return None
    stated = _stated(trainer) if hasattr(trainer, "accumulate_grad_batches") else {}
    return Findings(fields=_mesh_axes(trainer.strategy) | stated)


def _mesh_axes(strategy: Any) -> dict[str, Observed]:
    mesh: Any = getattr(strategy, "_device_mesh", None)
    kind = type(strategy).__name__
    found = {}
    for dim, name in enumerate(getattr(mesh, "mesh_dim_names", None) or ()):
        axis = AXIS_OF_NAME.get(name)
        if axis == "tp":
            found["layout.tp"] = Observed(int(mesh.size(dim)), f"axis {name!r} of the mesh of {kind}")
    return found


def _stated(trainer: Any) -> dict[str, Observed]:
    accumulated = Observed(int(trainer.accumulate_grad_batches), "trainer.accumulate_grad_batches")
    fields = {"training.micro_batches": accumulated}
    steps = trainer.estimated_stepping_batches
    if math.isfinite(steps) and steps > 0:
        fields["training.steps"] = Observed(int(steps), "trainer.estimated_stepping_batches")
    precision = _PRECISION.get(str(trainer.precision).partition("-")[0])
    if precision is not None:
        fields["training.precision"] = Observed(precision, f"trainer.precision {trainer.precision}")
    return fields
