"""Read the parallel layout of a live model: each axis from the object that holds it.

Data parallelism is read from its wrapper and tensor parallelism from DTensor placements. What leaves no trace on the
module (pipeline, context parallel) is read from the named axes of the mesh from which the parameters' meshes were cut.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.names import AXIS_OF_NAME
from carbon_plugin.detect.observed import BY_ELIMINATION, DEGREES, DetectedLayout, Observed
from carbon_plugin.detect.wrappers import DataParallel, data_parallel, is_compiled

if TYPE_CHECKING:
    from torch import nn

Sharded = Sequence[tuple[str, Any]]
"""The parameters that are DTensors, by name. A model may have tens of thousands, so that they are looked for once."""

_SHARDING_NAMES = ("dp", "data", "data_parallel", "dp_shard", "data_parallel_shard", "fsdp")


def read(job: Job) -> Findings:
    """Return the layout that a model's wrappers and parameters show, after the first optimizer step."""
    found = _Findings(job)
    wrapper = data_parallel(job.model)
    sharded = _dtensors(job.model)
    named = _named_axes(sharded)
    own = wrapper.meshes if wrapper else ()
    _see_tensor_parallel(found, job.model, sharded, own, named)
    for axis in ("pp", "cp", "ep"):
        if axis in named:
            found.see(axis, *named[axis])
    _see_experts(found, sharded, own)
    if wrapper is not None:
        _see_wrapper(found, wrapper, job.optimizer, job.world_size)
    else:
        _see_data_parallel_by_name(found, sharded, named)
    problems = tuple(("conflict", sentence) for sentence in found.conflicts)
    problems += tuple(("layout", remark) for remark in wrapper.remarks) if wrapper else ()
    fields = {f"layout.{axis}": seen for axis, seen in found.axes.items()}
    if found.wrapped is not None:
        fields["stack.wraps_weights"] = Observed("eager", found.wrapped)
    return Findings(fields=fields, problems=problems)


class _Findings:
    """One instance holds values by axis; the first object that shows one is believed, and a contradiction becomes a
    sentence. `wrapped` says which weight that tensor parallelism splits is a DTensor.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.axes: dict[str, Observed] = {}
        self.wrapped: str | None = None
        self.conflicts: list[str] = []

    def see(self, axis: str, value: Any, source: str) -> None:
        known = self.axes.setdefault(axis, Observed(value, source))
        if known.value != value:
            self.conflicts.append(f"{axis}: {known.value} by {known.source}, but {value} by {source}")

    def degree(self, axis: str) -> int:
        return int(self.axes[axis].value) if axis in self.axes else self._job.degree(axis)


def _dtensors(model: nn.Module) -> Sharded:
    from torch.distributed.tensor import DTensor

    return [(name, p) for name, p in model.named_parameters() if isinstance(p, DTensor)]


def _named_axes(sharded: Sharded) -> dict[str, tuple[int, str]]:
    """Return degree and source by axis, from the names of the parameters' meshes, then of the meshes they were cut
    from.
    """
    found: dict[str, tuple[int, str]] = {}
    meshes = list(dict.fromkeys(parameter.device_mesh for _, parameter in sharded))
    # The root of a slice is private to torch; without it only the axes of the parameters are seen.
    roots = [mesh._get_root_mesh() for mesh in meshes if hasattr(mesh, "_get_root_mesh")]
    for what, group in (("mesh", meshes), ("root mesh", [root for root in roots if root not in meshes])):
        for mesh in group:
            for dim, name in enumerate(mesh.mesh_dim_names or ()):
                if name in AXIS_OF_NAME:
                    found.setdefault(AXIS_OF_NAME[name], (int(mesh.size(dim)), f"axis {name!r} of the {what}"))
    return found


def _see_tensor_parallel(
    found: _Findings,
    model: nn.Module,
    sharded: Sharded,
    own: tuple[Any, ...],
    named: dict[str, tuple[int, str]],
) -> None:
    if "tp" in named:
        found.see("tp", *named["tp"])
    axes = {name for name, axis in AXIS_OF_NAME.items() if axis == "tp"}
    for shard in _unclaimed_shards(sharded, own):
        if not _is_expert(shard.parameter):
            found.see("tp", shard.degree, f"placements of {shard.parameter} on {shard.where}")
            axes.add(shard.axis)
            break
    if found.degree("tp") > 1:
        split = next((name for name, parameter in sharded if _is_on(parameter, axes, own)), None)
        if split is not None:
            found.wrapped = f"{split} is a DTensor on the tp axis"
        norm = next((name for name, p in _norm_weights(model) if _is_on(p, axes, own)), None)
        source = f"{norm} is a DTensor on the tp axis" if norm else "no norm weight is on the tp axis"
        if sharded:  # plain tensors of a framework show nothing
            found.see("sequence_parallel", norm is not None, source)
        if _overlaps_tensor_parallel(model):
            found.see("async_tp", True, "compiled with inductor's _micro_pipeline_tp")


def _see_experts(found: _Findings, sharded: Sharded, own: tuple[Any, ...]) -> None:
    """Record expert parallelism over an axis that no name tells: weights of experts, of which each rank has
    whole ones.
    """
    for shard in _unclaimed_shards(sharded, own):
        if _is_expert(shard.parameter) and shard.dim == 0:
            found.see("ep", shard.degree, f"placements of {shard.parameter} on {shard.where}")
            break


class _Shard(Struct, frozen=True):
    """One instance says that a parameter is divided along `dim` over `degree` ranks of a mesh axis.

    `axis` is "" for an axis without a name.
    """

    parameter: str
    dim: int
    degree: int
    axis: str
    where: str


def _unclaimed_shards(sharded: Sharded, own: tuple[Any, ...]) -> Iterator[_Shard]:
    """Return the shardings over mesh axes whose names say nothing, and which no data-parallel wrapper made."""
    claimed = {name for mesh in own for name in mesh.mesh_dim_names or ()}.union(AXIS_OF_NAME, _SHARDING_NAMES)
    for name, parameter in sharded:
        mesh = parameter.device_mesh
        axes = mesh.mesh_dim_names or ("",) * mesh.ndim
        for number, (axis, placement) in enumerate(zip(axes, parameter.placements, strict=True)):
            if _shards(placement) and (axis not in claimed if axis else mesh not in own):
                where = f"axis {axis!r}" if axis else "a mesh without names"
                yield _Shard(name, int(placement.dim), int(mesh.size(number)), axis, where)


def _is_expert(name: str) -> bool:
    return "expert" in name.lower()


def _overlaps_tensor_parallel(model: nn.Module) -> bool:
    inductor = sys.modules.get("torch._inductor.config")
    return bool(getattr(inductor, "_micro_pipeline_tp", False)) and any(map(is_compiled, model.modules()))


def _norm_weights(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            yield from ((f"{name}.{part}", p) for part, p in module.named_parameters(recurse=False))


def _is_on(parameter: Any, axes: set[str], own: tuple[Any, ...]) -> bool:
    """Return whether a parameter is sharded or copied over one of these mesh axes; "" stands for a mesh
    without names.
    """
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor):
        return False
    mesh = parameter.device_mesh
    return mesh not in own and not axes.isdisjoint(mesh.mesh_dim_names or ("",))


def _shards(placement: Any) -> bool:
    """Return whether a placement divides a tensor. Strided shards have a private type and are recognised by
    their dim.
    """
    return hasattr(placement, "dim")


def _see_wrapper(found: _Findings, wrapper: DataParallel, optimizer: Any, world_size: int) -> None:
    found.conflicts += wrapper.conflicts
    shard, replicate, zero, source = wrapper.shard, wrapper.replicate, wrapper.zero_stage, wrapper.source
    if zero == 0 and type(optimizer).__name__ == "ZeroRedundancyOptimizer":
        among = int(optimizer.world_size)
        shard, replicate, zero, source = among, replicate // among, 1, "ZeroRedundancyOptimizer over DDP"
    cp, seen = found.degree("cp"), found.degree("tp") * found.degree("pp") * shard * replicate
    if cp > 1 and seen * cp != world_size and (seen == world_size or wrapper.shard_dim in ("dp_shard_cp", "fsdp")):
        # Parameters are the same along the context-parallel axis, so that data parallelism usually takes it in.
        if shard % cp == 0:
            shard, source = shard // cp, f"{source}, {shard} shards over dp_shard x cp"
        elif replicate % cp == 0:
            replicate, source = replicate // cp, f"{source}, {replicate} replicas over dp_replicate x cp"
    found.see("dp_shard", shard, source)
    found.see("dp_replicate", replicate, source)
    found.see("zero_stage", zero, source)


def _see_data_parallel_by_name(found: _Findings, sharded: Sharded, named: dict[str, tuple[int, str]]) -> None:
    """Record data parallelism that is made by hand: a named axis along which parameters are sharded or not."""
    for name, parameter in sharded:
        mesh = parameter.device_mesh
        for dim, axis in enumerate(mesh.mesh_dim_names or ()):
            if axis in _SHARDING_NAMES and _shards(parameter.placements[dim]):
                source = f"placements of {name} on axis {axis!r}"
                found.see("dp_shard", int(mesh.size(dim)), source)
                found.see("zero_stage", 3, source)
    if "dp_replicate" in named:
        found.see("dp_replicate", *named["dp_replicate"])
    elif "dp" in named and "dp_shard" not in found.axes:
        size, source = named["dp"]
        found.see("dp_replicate", size, f"{source}, along which nothing is sharded")


def holds_all_experts(model: nn.Module) -> bool:
    """Return whether experts are DTensors, which have the shape of all of them; plain tensors hold this rank's experts
    only.
    """
    return any(_is_expert(name) for name, _ in _dtensors(model))


def complete_layout(axes: dict[str, Observed], world_size: int) -> DetectedLayout:
    """Return the layout of these axes. An axis that no object shows is left out, unless the others account for all
    ranks.
    """
    layout = DetectedLayout(axes=axes, world_size=world_size)
    if layout.unexplained != 1:
        return layout
    source = "the world has one rank" if world_size == 1 else f"{BY_ELIMINATION} {world_size} ranks"
    rest = {axis: Observed(1, source) for axis in DEGREES if axis not in axes}
    if axes.get("dp_shard", Observed(1, "")).value == 1 and "zero_stage" not in axes:
        rest["zero_stage"] = Observed(0, "nothing is sharded over data-parallel ranks")
    return DetectedLayout(axes={**axes, **rest}, world_size=world_size)
