"""Check which layouts fit in memory. Where none does, name the rule that removed the last layout, and what
would help.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.plan.search.pareto import Floats
from carbon_plugin.plan.search.phrases import held_phrase, phrase_of
from carbon_plugin.plan.search.space import Grid, Space, grids, splits
from carbon_plugin.predict.case.from_spec import shape_of, work_of
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.own_runs import OwnRuns, moved, own_runs, place_of
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.rates.laws import NARROW
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.predict.time.schedule import StepTime, step_time
from carbon_plugin.predict.uncertainty.fit import fits
from carbon_plugin.spec.degrees import allowed_degrees, divisors, listed, what_would_do
from carbon_plugin.spec.hardware.profiles import GENERIC_NODE, list_accelerators
from carbon_plugin.spec.layout import AXES, ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.numbers.amounts import memory, plural
from carbon_plugin.spec.numbers.units import GIB
from carbon_plugin.spec.run import RunSpec, check_input, check_layout, check_work
from carbon_plugin.spec.stated_layout import fields_of_stack

NOTHING_ALONE = (
    "no single change makes room; try more nodes together with an accelerator of more memory (carbon-plugin list "
    "accelerators)"
)

MORE_NODES = (2, 4, 8, 16, 32, 64)
"""The factors on the number of nodes that are tried to find what would help."""
MORE_DEVICES = (2, 4, 8)
"""The numbers of devices that a server holds of a model that is sold as a card. More than the node holds are proposed
for a card in a workstation alone, where `--devices-per-node` then means a server."""
ADAPTERS = 0.01
"""The usual share of parameters that adapters train (LoRA of rank 16 to 64)."""


@dataclass(frozen=True, slots=True)
class SearchInputs:
    """One instance holds everything but the layout in the form in which the equations take it."""

    model: TransformerModel
    spec: RunSpec
    shape: Shape
    work: StepWork
    rates: Rates
    own: OwnRuns | None

    def step_time(self, layout: Layout) -> StepTime:
        """Return the step times of layouts, on a network that is as fast as its ports."""
        step = step_time(self.shape, layout, self.work, self.rates)
        if self.own is None:
            return step
        narrow = float(self.spec.training.precision in NARROW)
        return moved(step, self.own.shift(place_of(self.shape, layout, self.work, narrow)))

    @property
    def capacity_bytes(self) -> float:
        """Return the memory of one device in bytes."""
        return self.spec.cluster.accelerator.memory_bytes.value

    def grids(self, space: Space) -> Iterator[tuple[Grid, float]]:
        """Return every layout that keeps to what the spec holds, as `space.grids` does.

        What software decides of a layout is as in its stack, but for sequences, which every layout of a search splits.
        Software that runs DualPipe has it among the usual schedules.
        """
        if self.spec.stack.runs_dualpipe:
            space = msgspec.structs.replace(space, schedules=space.schedules | {"dualpipe"})
        held = fields_of_stack(self.spec.stack) | {"sequence_parallel": True} | self.spec.layout_held
        return grids(self.model, self.spec.cluster, self.spec.training, space, held)

    def need_bytes(self, grid: Grid) -> Floats:
        """Return the memory need of every layout of a grid, infinite where there is no layout."""
        parts = memory_bytes(self.shape, grid.layout, self.work, self.rates)
        return np.where(grid.valid, np.asarray(sum(parts.values())), np.inf)


def inputs_of(spec: RunSpec) -> SearchInputs:
    """Return a spec as the arrays of the equations.

    Raises `SpecError` for a model whose shape is not known, or a precision that the device lacks.
    """
    if not isinstance(spec.model, TransformerModel):
        raise SpecError(
            f"layout: {spec.model.name} is known only by its counted FLOPs and can only be data-parallel: plan it "
            "without --search"
        )
    check_input(spec.model, spec.training)
    rates, _ = resolve_rates(spec.cluster, spec.stack, spec.training.precision)
    own = own_runs(spec.cluster.accelerator, spec.stack)
    return SearchInputs(spec.model, spec, shape_of(spec.model), work_of(spec.training, spec.stack), rates, own)


def with_nodes(spec: RunSpec, factor: int) -> RunSpec:
    """Return the same run on this many times the nodes."""
    cluster = msgspec.structs.replace(spec.cluster, nodes=spec.cluster.nodes * factor)
    return msgspec.structs.replace(spec, cluster=cluster)


def _with_devices(spec: RunSpec, count: int) -> RunSpec:
    """Return the same run with so many devices in each node; what else such a node has does not affect memory."""
    node = msgspec.structs.replace(spec.cluster.node, accelerators=max(count, spec.cluster.node.accelerators))
    cluster = msgspec.structs.replace(spec.cluster, node=node, devices_per_node=count)
    return msgspec.structs.replace(spec, cluster=cluster)


def nodes_phrase(spec: RunSpec) -> str:
    """Return the nodes and devices of a run in words."""
    nodes, devices = spec.cluster.nodes, spec.cluster.devices
    return f"{plural(nodes, 'node')} ({plural(devices, 'device')})"


def with_held(spec: RunSpec) -> str:
    """Return " with tp 8" where the search has to keep to it, else nothing."""
    return f" with {held_phrase(spec.layout_held)}" if spec.layout_held else ""


def fits_somehow(spec: RunSpec, space: Space) -> bool:
    """Return whether any layout fits in memory."""
    inputs = inputs_of(spec)
    return any(bool(fits(inputs.need_bytes(grid), inputs.capacity_bytes).any()) for grid, _ in inputs.grids(space))


def no_layout(inputs: SearchInputs, space: Space) -> InfeasibleLayoutError:
    """Return the error where there is no layout at all.

    Either a field that is held breaks a rule, or no data-parallel degree divides the batch; then the error names the
    next larger batch that one of them divides.
    """
    spec, model = inputs.spec, inputs.model
    if spec.layout_held:
        return _no_layout_held(spec, model)
    batch = spec.training.global_batch_size
    degrees = sorted({split.dp for split in splits(model, spec.cluster, spec.training, space)})
    enough = min(-(-batch // dp) * dp for dp in degrees)
    return InfeasibleLayoutError(
        f"batch: global_batch_size {batch} is not a multiple of any data-parallel degree that {spec.cluster.devices} "
        f"devices leave beside {model.name}'s heads {model.heads}, kv_heads {model.kv_heads}, ffn {model.ffn} and "
        f"layers {model.layers} (the least is {degrees[0]}); global_batch_size {enough} would do"
    )


def _no_layout_held(spec: RunSpec, model: TransformerModel) -> InfeasibleLayoutError:
    """Return the error that names the rule which the held fields break.

    It is found by the rules for a whole layout, with data parallelism for the rest.
    """
    held, devices, seq_len = spec.layout_held, spec.cluster.devices, spec.training.seq_len
    known = {axis: degree for axis in AXES if isinstance(degree := held.get(axis), int)}
    product = math.prod(known.values())
    if devices % product:
        said = " * ".join(f"{axis} {degree}" for axis, degree in known.items())
        total = f" = {product}" if len(known) > 1 else ""
        odd = [axis for axis in known if known[axis] not in allowed_degrees(axis, model, devices, seq_len)]
        instead = [what_would_do(axis, known[axis], model, devices, seq_len) for axis in odd]
        if len(known) > 1:
            instead.append(f"expected a product of {listed(divisors(devices), product)}")
        return InfeasibleLayoutError(
            f"layout: {said}{total} does not divide the {plural(devices, 'device')} of the cluster; "
            f"{'; '.join(instead)}"
        )
    rest = next((axis for axis in ("dp_replicate", "dp_shard", "tp", "pp", "cp") if axis not in held), "cp")
    fields = {rest: devices // product, **({} if known.get("dp_shard", 1) == 1 else {"zero_stage": 1}), **held}
    try:
        layout = msgspec.convert(fields, ParallelLayout)
        check_layout(spec.model, spec.cluster, layout)
        check_work(layout, spec.training)
    except InfeasibleLayoutError as error:
        return error
    except msgspec.ValidationError as error:
        # It carries the words of an error of `ParallelLayout`, which begin with "layout:".
        ranks, ep = devices // known.get("pp", 1), held.get("ep", 1)
        if isinstance(ep, int) and ranks % ep:
            return InfeasibleLayoutError(f"{error}; {what_would_do('ep', ep, model, ranks)}")
        return InfeasibleLayoutError(str(error))
    return InfeasibleLayoutError(
        f"layout: nothing that the search knows keeps to {held_phrase(held)} on {plural(devices, 'device')}; state "
        "every degree"
    )


def no_memory(
    inputs: SearchInputs, space: Space, considered: int, need_bytes: float, tightest: ParallelLayout
) -> InfeasibleLayoutError:
    """Return the error for layouts of which even `tightest`, the one that needs least, does not fit."""
    spec, capacity = inputs.spec, inputs.capacity_bytes
    room = _more_room(spec, space, need_bytes)
    next_step = f"to make room: {', or '.join(room)}" if room else NOTHING_ALONE
    return InfeasibleLayoutError(
        f"memory: none of {plural(considered, 'layout')} of {spec.model.name}{with_held(spec)} on "
        f"{nodes_phrase(spec)} fits in "
        f"{memory(capacity)} of {spec.cluster.accelerator.name}; the smallest needs {memory(need_bytes)} "
        f"({phrase_of(tightest)}); {next_step}"
    )


def _without_one_held(spec: RunSpec, space: Space) -> list[str]:
    """Return the fields of a partly stated layout of which each alone, left to the search, would make a layout fit."""
    found = []
    for field in spec.layout_held:
        rest = {key: value for key, value in spec.layout_held.items() if key != field}
        if fits_somehow(msgspec.structs.replace(spec, layout_held=rest), space):
            found.append(f"layout.{field} left to the search")
    return found


def _halves(seq_len: int) -> Iterator[int]:
    """Yield shorter sequences, each half as long as the one before, down to an eighth."""
    return (seq_len >> halvings for halvings in (1, 2, 3) if seq_len >> halvings)


def _at_length(spec: RunSpec, seq_len: int) -> RunSpec:
    return msgspec.structs.replace(spec, training=msgspec.structs.replace(spec.training, seq_len=seq_len))


def _more_room(spec: RunSpec, space: Space, need_bytes: float) -> list[str]:
    """Return changes of which each alone would make a layout fit; no device has more memory than those that are
    known."""
    found = []
    enough = next((more for more in (with_nodes(spec, f) for f in MORE_NODES) if fits_somehow(more, space)), None)
    if enough is not None:
        found.append(nodes_phrase(enough))
    if spec.cluster.devices_per_node == 1:
        node = spec.cluster.node
        held = [more for more in MORE_DEVICES if more <= node.accelerators or node.name == GENERIC_NODE]
        count = next((more for more in held if fits_somehow(_with_devices(spec, more), space)), None)
        if count is not None:
            found.append(f"--devices-per-node {count}")
    offloading = msgspec.structs.replace(spec.training, optimizer_offload=True)
    if not spec.training.optimizer_offload and fits_somehow(msgspec.structs.replace(spec, training=offloading), space):
        found.append("training.optimizer_offload: true")
    found += _without_one_held(spec, space)
    shorter = next(
        (size for size in _halves(spec.training.seq_len) if fits_somehow(_at_length(spec, size), space)), None
    )
    if shorter is not None:
        found.append(f"training.seq_len: {shorter}")
    if isinstance(spec.model, TransformerModel) and spec.model.trainable_fraction == 1:
        adapters = msgspec.structs.replace(spec.model, trainable_fraction=ADAPTERS)
        if fits_somehow(msgspec.structs.replace(spec, model=adapters), space):
            found.append(f"model.trainable_fraction: {ADAPTERS:g}, as of LoRA adapters")
    if need_bytes <= max(known.memory_bytes.value for known in list_accelerators()):
        found.append(f"devices of {math.ceil(need_bytes / GIB)} GiB")
    return found
