"""Read torchtitan's `ParallelDims` from the trainer that holds one, or from the object that an adapter hands over."""

from __future__ import annotations

import sys
from typing import Any

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed

_AXES = ("tp", "cp", "pp", "dp_replicate", "dp_shard")


def read(job: Job) -> Findings | None:
    """Return the degrees that a ParallelDims states, or None without one.

    Its meshes differ between backends, its numbers do not.
    """
    kind = sys.modules["torchtitan.distributed.parallel_dims"].ParallelDims
    dims: Any = getattr(job.framework, "parallel_dims", job.framework)
    if not isinstance(dims, kind):
        return None
    fields = {f"layout.{axis}": Observed(int(getattr(dims, axis)), f"ParallelDims.{axis}") for axis in _AXES}
    fields["layout.ep"] = Observed(int(dims.ep), "ParallelDims.ep")
    return Findings(fields=fields | _configured(job.framework))


def _configured(trainer: Any) -> dict[str, Observed]:
    """Return what the trainer's own configuration says of the step, as far as this release has the fields."""
    training = getattr(getattr(trainer, "config", None), "training", None)
    fields = {}
    steps, length = getattr(training, "steps", None), getattr(training, "seq_len", None)
    if isinstance(steps, int) and steps > 0:
        fields["training.steps"] = Observed(steps, "config.training.steps")
    if isinstance(length, int) and length > 0:
        fields["training.seq_len"] = Observed(length, "config.training.seq_len")
    accumulated = getattr(trainer, "gradient_accumulation_steps", None)
    if isinstance(accumulated, int) and getattr(trainer, "pp_schedule", None) is None:
        fields["training.micro_batches"] = Observed(accumulated, "trainer.gradient_accumulation_steps")
    return fields
