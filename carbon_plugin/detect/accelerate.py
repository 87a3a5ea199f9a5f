"""Accelerate, from its state, which is one a process: the `ParallelismConfig` of the accelerator, if it has one.

Without a `ParallelismConfig` it wraps models in DDP, FSDP or DeepSpeed, whose objects speak for themselves.
"""

from __future__ import annotations

import sys
from typing import Any

from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.readers import Job, Reading

_AXES = {"tp": "tp_size", "dp_replicate": "dp_replicate_size", "dp_shard": "dp_shard_size"}


def read(job: Job) -> Reading | None:
    """The degrees of Accelerate's `ParallelismConfig`, if they are those of this world; None without one."""
    state = sys.modules["accelerate.state"].AcceleratorState._shared_state
    config: Any = state.get("parallelism_config")
    if config is None:
        return None
    cp, sp = int(config.cp_size), int(getattr(config, "sp_size", 1))
    ranks = cp * sp
    for name in _AXES.values():
        ranks *= int(getattr(config, name))
    if ranks != job.world_size:
        said = f"ParallelismConfig is of {ranks} ranks, the world of {job.world_size}; it does not count"
        return Reading(problems=(("conflict", said),))
    fields = {
        f"layout.{axis}": Observed(int(getattr(config, name)), f"ParallelismConfig.{name}")
        for axis, name in _AXES.items()
    }
    fields["layout.cp"] = Observed(cp * sp, "ParallelismConfig.sp_size" if sp > 1 else "ParallelismConfig.cp_size")
    if cp > 1:
        fields["layout.context_parallel_kind"] = Observed("ring", f"ParallelismConfig.cp_backend {_cp_backend(config)}")
    if sp > 1:
        said = f"ParallelismConfig.sp_backend {config.sp_backend}"
        fields["layout.context_parallel_kind"] = Observed("all_to_all", said)
    return Reading(fields=fields)


def _cp_backend(config: Any) -> str:
    return str(getattr(config, "cp_backend", "torch"))
