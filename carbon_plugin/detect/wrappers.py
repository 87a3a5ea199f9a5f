"""Read data-parallel wrappers around a module (DDP, FSDP1, FSDP2) from what they hold. torch is imported late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from carbon_plugin.detect.names import AXIS_OF_NAME

if TYPE_CHECKING:
    from torch import nn

_FSDP1_OFFLOAD = "FSDP1 keeps parameters and optimizer states in host memory; predicted as on the device"
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""The names under which wrappers of torch, and the module of Lightning Fabric, hold what they wrap."""


class DataParallel(Struct, frozen=True, kw_only=True):
    """One instance says how a wrapper spreads the data: `shard` ranks share the states of `zero_stage`, `replicate`
    hold copies.

    `meshes` are the device meshes of the wrapper's own parameters, `shard_dim` is the mesh dim that shards, by name
    if it has one. `param_dtype` is the dtype of computation if the wrapper casts, `reduce_dtype` that of exchanged
    gradients. `shard_unit` is what it gathers at a time, as in `spec.stack`. `conflicts` are contradictions between
    its parts, `remarks` are facts for which a layout has no field.
    """

    shard: int
    replicate: int
    zero_stage: Literal[0, 1, 2, 3]
    source: str
    meshes: tuple[Any, ...] = ()
    shard_dim: str | None = None
    param_dtype: str | None = None
    reduce_dtype: str | None = None
    shard_unit: str | None = None
    conflicts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the user's module inside compile, checkpoint, DDP and FSDP1 wrappers. FSDP2 changes a module in place."""

    while True:
        inner = next((getattr(module, name) for name in _WRAPPED if name in module._modules), None)
        if inner is None and list(module._modules.keys()) == ["module"] and not module._parameters:
            inner = module._modules["module"]  # this is DDP, or an engine or a cast of a framework
        if inner is None:
            return module
        module = inner


def class_name(module: nn.Module) -> str:
    """Return the name of the user's class. FSDP2 gives a module a class of its own, named after it."""
    from torch.distributed.fsdp import FSDPModule

    name = type(module).__name__
    return name.removeprefix("FSDP") if isinstance(module, FSDPModule) else name


def is_compiled(module: nn.Module) -> bool:
    """Return whether calls of this module go through `torch.compile`."""
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None


def gradients_sync(module: nn.Module) -> bool:
    """Return whether the backward pass of a call of this wrapper exchanges gradients, which is False inside its
    `no_sync`.
    """
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        return all(group.reduce_grads for group in module._get_fsdp_state()._fsdp_param_groups)
    for flag in ("require_backward_grad_sync", "_sync_gradients"):  # the first is of DDP, the second of FSDP1
        if hasattr(module, flag):
            return bool(getattr(module, flag))
    return True


def data_parallel(model: nn.Module) -> DataParallel | None:
    """Return the data-parallel wrapper of a model, or None if there is none."""
    return _fsdp2(model) or _fsdp1(model) or _ddp(model)


def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype, for instance "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def _ddp(model: nn.Module) -> DataParallel | None:
    from torch import distributed as dist
    from torch import nn
    from torch.distributed._composable.contract import _get_registry

    for module in model.modules():
        plain = isinstance(module, nn.parallel.DistributedDataParallel)
        engine: Any = module if plain else None
        if not plain and "replicate" in (_get_registry(module) or {}):
            engine = _composed_ddp(module)
        if engine is not None:
            size = dist.get_world_size(engine.process_group)
            source = "process group of DDP" if plain else "process group of replicate()"
            return DataParallel(shard=1, replicate=size, zero_stage=0, source=source)
    return None


def _composed_ddp(module: nn.Module) -> Any:
    """Return the DDP object that the composable `replicate` keeps beside a module, or None if it is gone."""
    from torch.distributed._composable.replicate import replicate

    reference = getattr(replicate.state(module), "_ddp_weakref", None)
    return None if reference is None else reference()


def _fsdp1(model: nn.Module) -> DataParallel | None:
    from torch import distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel

    for module in model.modules():
        if isinstance(module, FullyShardedDataParallel):
            strategy = module.sharding_strategy.name
            size = dist.get_world_size(module.process_group)
            between = getattr(module, "_inter_node_pg", None)  # it is there only when the sharding is hybrid
            source = f"FSDP1 {strategy}"
            if strategy == "NO_SHARD":
                return DataParallel(shard=1, replicate=size, zero_stage=0, source=source)
            policy = module.mixed_precision
            dtype, reduced = (policy.param_dtype, policy.reduce_dtype) if policy else (None, None)
            return DataParallel(
                shard=size,
                replicate=1 if between is None else int(between.size()),
                zero_stage=2 if strategy in ("SHARD_GRAD_OP", "_HYBRID_SHARD_ZERO2") else 3,
                source=source,
                param_dtype=None if dtype is None else dtype_name(dtype),
                reduce_dtype=None if reduced is None else dtype_name(reduced),
                shard_unit="flat",
                remarks=(_FSDP1_OFFLOAD,) if module.cpu_offload and module.cpu_offload.offload_params else (),
            )
    return None


def _fsdp2(model: nn.Module) -> DataParallel | None:
    everything = list(_fsdp2_groups(model))
    # Experts are sharded over another mesh, smaller by the expert-parallel degree; the rest shows the layout.
    groups = [(group, root) for group, root in everything if not _holds_experts(group)] or everything
    if not groups:
        return None
    sizes: Counter[tuple[int, int]] = Counter()
    stages: Counter[Literal[0, 2, 3]] = Counter()
    # A root keeps its parameters after the forward pass whatever the blocks do, so it says nothing about them.
    telling = [group for group, root in groups if not root] or [group for group, _ in groups]
    for group, _ in groups:
        sizes[_mesh_sizes(group)] += _numel(group)
    for group in telling:
        resharded = group.post_forward_mesh_info is not None
        stages[0 if _mesh_sizes(group)[0] == 1 else 3 if resharded else 2] += _numel(group)
    (shard, replicate), _ = sizes.most_common(1)[0]
    zero_stage, _ = stages.most_common(1)[0]
    main = next(group for group, _ in groups if _mesh_sizes(group) == (shard, replicate))
    info, names = main.mesh_info, main.mesh_info.mesh.mesh_dim_names
    shard_dim = getattr(info, "shard_mesh_dim", None)
    dtype = main.mp_policy.param_dtype
    return DataParallel(
        shard=shard,
        replicate=replicate,
        zero_stage=zero_stage,
        source=f"FSDP2 {type(info).__name__} of {len(groups)} parameter groups",
        meshes=tuple({group.mesh_info.mesh: None for group, _ in everything}),
        shard_dim=names[shard_dim] if names and shard_dim is not None else None,
        param_dtype=None if dtype is None else dtype_name(dtype),
        reduce_dtype=None if main.mp_policy.reduce_dtype is None else dtype_name(main.mp_policy.reduce_dtype),
        shard_unit="layer" if shard > 1 else None,
        conflicts=_several("FSDP2 shards x replicas", [f"{s} x {r}" for s, r in sizes])
        + _several("FSDP2 ZeRO stages", [str(stage) for stage in stages]),
        remarks=_remarks(telling, main),
    )


def _remarks(telling: list[Any], main: Any) -> tuple[str, ...]:
    kept = {_after_forward(group) for group in telling} - {None, _mesh_sizes(main)[0]}
    remarks = [f"FSDP2 reshards after forward to {n} of {_mesh_sizes(main)[0]} ranks; predicted as all" for n in kept]
    if type(main.offload_policy).__name__ == "CPUOffloadPolicy":
        remarks.append("FSDP2 keeps parameters and optimizer states in host memory; predicted as on the device")
    return tuple(remarks)


def _after_forward(group: Any) -> int | None:
    """Return the shards of the parameters between forward and backward, or None if they stay whole."""
    info = group.post_forward_mesh_info
    return None if info is None else int(getattr(info, "shard_mesh_size", 1))


def _fsdp2_groups(model: nn.Module) -> Iterator[tuple[Any, bool]]:
    """Return the parameter groups of FSDP2, each with whether it is the root's.

    The state is private to torch, because nothing public shows it.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            state = module._get_fsdp_state()
            yield from ((group, bool(state._is_root)) for group in state._fsdp_param_groups)


def _holds_experts(group: Any) -> bool:
    meshes = (getattr(param.sharded_param, "device_mesh", None) for param in group.fsdp_params)
    return any(AXIS_OF_NAME.get(name) == "ep" for mesh in meshes if mesh for name in mesh.mesh_dim_names or ())


def _mesh_sizes(group: Any) -> tuple[int, int]:
    """Return (shards, replicas) of a group. A replicating group has no shards."""
    info = group.mesh_info
    return int(getattr(info, "shard_mesh_size", 1)), int(getattr(info, "replicate_mesh_size", 1))


def _numel(group: Any) -> int:
    return sum(param.sharded_param.numel() for param in group.fsdp_params)


def _several(what: str, values: list[str]) -> tuple[str, ...]:
    if len(values) < 2:
        return ()
    return (f"{what} differ between parameter groups: {', '.join(values)}; the one with most parameters counts",)
