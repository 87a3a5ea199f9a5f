"""What fits in memory, and where nothing does, which rule removed the last layout and what would make room."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.plan.pareto import Floats
from carbon_plugin.plan.space import Grid, Space, describe, grids, splits
from carbon_plugin.predict.case import Shape, Work, shape_of, work_of
from carbon_plugin.predict.memory import memory_bytes
from carbon_plugin.predict.rates import Rates, resolve_rates
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.model import TransformerModel
from carbon_plugin.spec.run import RunSpec

GIB = 2**30
NEARLY_FULL = 0.9
"""Above this share of device memory, published runs are up to 25 % slower than predicted (allocator retries)."""
MORE_NODES = (2, 4, 8, 16, 32, 64)
"""Factors on the number of nodes that are tried to find what would help."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything but the layout, as the equations take it."""

    model: TransformerModel
    spec: RunSpec
    shape: Shape
    work: Work
    rates: Rates

    @property
    def capacity_bytes(self) -> float:
        """Memory of one device."""
        return self.spec.cluster.accelerator.memory_bytes.value

    @property
    def roomy_bytes(self) -> float:
        """What a layout may need without filling the memory of a device nearly up."""
        return NEARLY_FULL * self.capacity_bytes

    def grids(self, space: Space) -> Iterator[tuple[Grid, float]]:
        """Every layout, as `space.grids`."""
        return grids(self.model, self.spec.cluster, self.spec.training, space)

    def need_bytes(self, grid: Grid) -> Floats:
        """Memory need of every layout of a grid, infinite where it is none."""
        parts = memory_bytes(self.shape, grid.layout, self.work, self.rates)
        return np.where(grid.valid, np.asarray(sum(parts.values())), np.inf)


def inputs_of(spec: RunSpec) -> Inputs:
    """The arrays of a spec. Raises `SpecError` for a model whose shape is not known, or a precision that the device
    lacks."""
    if not isinstance(spec.model, TransformerModel):
        raise SpecError(f"layout: {spec.model.name} is known only by its counted FLOPs; give a layout instead of auto")
    rates, _ = resolve_rates(spec.cluster, spec.stack, spec.training.precision)
    return Inputs(spec.model, spec, shape_of(spec.model), work_of(spec.training, spec.stack), rates)


def with_nodes(spec: RunSpec, factor: int) -> RunSpec:
    """The same run on so many times the nodes."""
    cluster = msgspec.structs.replace(spec.cluster, nodes=spec.cluster.nodes * factor)
    return msgspec.structs.replace(spec, cluster=cluster)


def nodes_phrase(spec: RunSpec) -> str:
    """Nodes and devices of a run in words."""
    nodes, devices = spec.cluster.nodes, spec.cluster.devices
    return f"{nodes:,} node{'s' * (nodes > 1)} ({devices:,} device{'s' * (devices > 1)})"


def fits_somehow(spec: RunSpec, space: Space) -> bool:
    """Whether any layout fits in memory."""
    inputs = inputs_of(spec)
    return any(bool((inputs.need_bytes(grid) <= inputs.capacity_bytes).any()) for grid, _ in inputs.grids(space))


def no_split(inputs: Inputs, space: Space) -> InfeasibleLayoutError:
    """The error for a batch that no data-parallel degree divides, with the next larger batch that one does."""
    spec, model = inputs.spec, inputs.model
    batch = spec.training.global_batch_size
    degrees = sorted({split.dp for split in splits(model, spec.cluster, spec.training, space)})
    enough = min(-(-batch // dp) * dp for dp in degrees)
    return InfeasibleLayoutError(
        f"batch: global_batch_size {batch} is not a multiple of any data-parallel degree that {spec.cluster.devices} "
        f"devices leave beside {model.name}'s heads {model.heads}, kv_heads {model.kv_heads}, ffn {model.ffn} and "
        f"layers {model.layers} (the least is {degrees[0]}); global_batch_size {enough} would do"
    )


def no_memory(
    inputs: Inputs, space: Space, considered: int, need_bytes: float, tightest: ParallelLayout
) -> InfeasibleLayoutError:
    """The error for layouts of which even the one that needs least, `tightest`, does not fit."""
    spec, capacity = inputs.spec, inputs.capacity_bytes
    return InfeasibleLayoutError(
        f"memory: none of {considered:,} layouts of {spec.model.name} on {nodes_phrase(spec)} fits in "
        f"{capacity / GIB:.1f} GiB of {spec.cluster.accelerator.name}; the smallest needs {need_bytes / GIB:.1f} GiB "
        f"({describe(tightest)}); to make room: {', or '.join(_more_room(spec, space, need_bytes))}"
    )


def _more_room(spec: RunSpec, space: Space, need_bytes: float) -> list[str]:
    """What would make a layout fit, each alone."""
    found = []
    enough = next((more for more in (with_nodes(spec, f) for f in MORE_NODES) if fits_somehow(more, space)), None)
    if enough is not None:
        found.append(nodes_phrase(enough))
    offloading = msgspec.structs.replace(spec.training, optimizer_offload=True)
    if not spec.training.optimizer_offload and fits_somehow(msgspec.structs.replace(spec, training=offloading), space):
        found.append("training.optimizer_offload: true")
    return [*found, f"devices of {math.ceil(need_bytes / GIB)} GiB"]
