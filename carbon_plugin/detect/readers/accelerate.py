"""Read Accelerate from its state, of which a process has one: the `ParallelismConfig` and the mixed precision.

Without a `ParallelismConfig` Accelerate wraps models in DDP, FSDP or DeepSpeed, whose objects are read by other
readers. The mixed precision is that of a model that Accelerate prepared.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed
from carbon_plugin.spec.numbers.amounts import plural

_AXES = {"tp": "tp_size", "dp_replicate": "dp_replicate_size", "dp_shard": "dp_shard_size"}


def read(job: Job) -> Findings | None:
    """Return the mixed precision, and the degrees of Accelerate's `ParallelismConfig` if they fit the size of this
    world.
    """
    state = sys.modules["accelerate.state"].AcceleratorState._shared_state
    precision = _precision(job.model, state)
    config: Any = state.get("parallelism_config")
    if config is None:
        return Findings(fields=precision)
    cp, sp = int(config.cp_size), int(getattr(config, "sp_size", 1))
    ranks = cp * sp
    for name in _AXES.values():
        ranks *= int(getattr(config, name))
    if ranks != job.world_size:
        said = f"ParallelismConfig is of {plural(ranks, 'rank')}, the world of {job.world_size}; it does not count"
        return Findings(fields=precision, problems=(("conflict", said),))
    fields = precision | {
        f"layout.{axis}": Observed(int(getattr(config, name)), f"ParallelismConfig.{name}")
        for axis, name in _AXES.items()
    }
    fields["layout.cp"] = Observed(cp * sp, "ParallelismConfig.sp_size" if sp > 1 else "ParallelismConfig.cp_size")
    if cp > 1:
        fields["layout.context_parallel_kind"] = Observed("ring", f"ParallelismConfig.cp_backend {_cp_backend(config)}")
    if sp > 1:
        said = f"ParallelismConfig.sp_backend {config.sp_backend}"
        fields["layout.context_parallel_kind"] = Observed("all_to_all", said)
    return Findings(fields=fields)


def _precision(model: Any, state: Mapping[str, Any]) -> dict[str, Observed]:
    """Return the autocast that `prepare` put around the forward pass of this model, even where the model is compiled.

    A model without it gives nothing, because the state may be that of an earlier training in this process.
    """
    mixed = state.get("_mixed_precision")
    wrapped = any("_original_forward" in vars(module) for module in model.modules())
    if mixed not in ("bf16", "fp16") or not wrapped:
        return {}
    return {"training.precision": Observed(mixed, "AcceleratorState.mixed_precision, around the model's forward pass")}


def _cp_backend(config: Any) -> str:
    return str(getattr(config, "cp_backend", "torch"))
