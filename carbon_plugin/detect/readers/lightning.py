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


def steps_left(trainer: Any, stepped: int) -> Observed | None:
    """Return the steps that a fit has left after one that has just ended, or None where nothing limits it.

    In that step `stepped` optimizer steps were done, which the trainer counts one by one. Its
    `estimated_stepping_batches` is another number for a second fit, and where a callback changes how many batches are
    accumulated, because it takes the accumulation of this moment for that of all epochs.
    """
    limits = {}
    if trainer.max_steps >= 0:
        limits["trainer.max_steps"] = math.ceil((trainer.max_steps - trainer.global_step) / stepped)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(trainer.num_training_batches):
        limits["trainer.max_epochs and its batches"] = _left_in_epochs(trainer, int(trainer.num_training_batches))
    if not limits:
        return None
    source = min(limits, key=limits.__getitem__)
    return Observed(max(0, limits[source]), source)


def _left_in_epochs(trainer: Any, batches: int) -> int:
    now = int(trainer.accumulate_grad_batches)
    schedules = (getattr(one, "get_accumulate_grad_batches", None) for one in trainer.callbacks)
    accumulated = next(filter(None, schedules), lambda epoch: now)
    ready = int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)
    later = range(trainer.current_epoch + 1, trainer.max_epochs)
    # What is accumulated is stepped at the end of an epoch, even if batches are missing.
    left = math.ceil(batches / now) - math.ceil(ready / now)
    return left + sum(math.ceil(batches / accumulated(epoch)) for epoch in later)


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
    precision = _PRECISION.get(str(trainer.precision).partition("-")[0])
    if precision is not None:
        fields["training.precision"] = Observed(precision, f"trainer.precision {trainer.precision}")
    return fields
