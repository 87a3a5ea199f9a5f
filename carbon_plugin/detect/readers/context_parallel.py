"""Detect PyTorch's context parallelism, which leaves no trace on parameters: it is seen while it acts, or
by its hooks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed

if TYPE_CHECKING:
    from torch import nn


class ActiveContextParallel(Struct, frozen=True):
    """One instance holds the degree of the context parallelism around a call, and the object that showed it."""

    degree: int
    source: str


def read(job: Job) -> Findings | None:
    """Return the context parallelism that was active in the first step, else that of the hooks of its
    parallel style.
    """
    seen = (job.batch.context_parallel if job.batch else None) or _styled(job.model)
    if seen is None:
        return None
    # Keys and values travel between the ranks, gathered or in a ring: no heads are exchanged.
    return Findings(
        fields={
            "layout.cp": Observed(seen.degree, seen.source),
            "layout.context_parallel_kind": Observed("ring", f"{seen.source}: keys and values are exchanged"),
        }
    )


def active_context_parallel() -> ActiveContextParallel | None:
    """Return the context parallelism that is active here, or None without any.

    `context_parallel()` replaces the attention function by a closure over its mesh. The closure is private to torch, so
    it is found by what it holds.
    """
    import torch

    attention: Any = torch.nn.functional.scaled_dot_product_attention
    for cell in getattr(attention, "__closure__", None) or ():
        seen = _over(cell.cell_contents, "context_parallel() around the forward pass")
        if seen is not None:
            return seen
    return None


def _styled(model: nn.Module) -> ActiveContextParallel | None:
    for module in model.modules():
        for mesh in _hook_meshes(module):
            seen = _over(mesh, f"context-parallel hook on {type(module).__name__}")
            if seen is not None:
                return seen
    return None


def _hook_meshes(module: nn.Module) -> Iterator[Any]:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, functools.partial) and "ContextParallel" in getattr(hook.func, "__qualname__", ""):
            yield hook.keywords.get("mesh")


def _over(mesh: Any, what: str) -> ActiveContextParallel | None:
    from torch.distributed.device_mesh import DeviceMesh

    if not isinstance(mesh, DeviceMesh) or mesh.size() == 1:
        return None
    names = mesh.mesh_dim_names
    return ActiveContextParallel(int(mesh.size()), f"{what}, over axis {names[0]!r}" if names else what)
