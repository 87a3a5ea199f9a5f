"""Read how Hugging Face transformers sharded a model at load: its `DistributedConfig`, else its `tp_plan`."""

from __future__ import annotations

from typing import Any

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.wrappers import unwrapped

_AXES = {
    "tp": "tp_size",
    "pp": "pp_size",
    "ep": "ep_size",
    "dp_replicate": "dp_replicate_size",
    "dp_shard": "fsdp_size",
}


def read(job: Job) -> Findings | None:
    """Return the degrees in which `from_pretrained` spread the model, or None for a model that it did not spread."""
    model: Any = unwrapped(job.model)
    config = getattr(getattr(model, "config", None), "distributed_config", None)
    if config is not None:
        said = {axis: (getattr(config, name, None), f"DistributedConfig.{name}") for axis, name in _AXES.items()}
    else:
        said = {"tp": (getattr(model, "_tp_size", None), "tp_size of the model, by its tp_plan")}
    fields = {f"layout.{axis}": Observed(int(size), source) for axis, (size, source) in said.items() if size}
    # A size of 1 says nothing, because a wrapper outside the model may exceed it: DDP around a model with a tp_plan.
    shown = {name: seen for name, seen in fields.items() if seen.value > 1}
    return Findings(fields=shown) if shown else None
