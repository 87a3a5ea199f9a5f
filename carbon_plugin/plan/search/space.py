"""Generate the layouts that a job could run with, as grids of arrays that broadcast against one another.

A grid has one axis for each choice: split of the world, expert parallelism, what the data-parallel ranks shard,
micro-batch, schedule, recompute. Its layouts are never written out one at a time, so that equations which depend on few
of the choices are computed once for all of the others. Nothing here knows how long anything takes or whether it fits.
Where a user states a field of a layout (`HeldDegrees`), only the stated value is tried, even if the search would
not try it otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from carbon_plugin.plan.search.pareto import Floats
from carbon_plugin.predict.arrays import Flags, Values
from carbon_plugin.predict.case.from_spec import AGAIN, again_flags
from carbon_plugin.predict.case.inputs import NOT, Layout
from carbon_plugin.predict.rates.islands import island_size
from carbon_plugin.spec.degrees import allowed_degrees, divisors, splits_heads
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.layout import (
    DEGREES,
    SHARED_OUT,
    TABLES,
    ContextParallelKind,
    ParallelLayout,
    PipelineSchedule,
    Recompute,
)
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.training import TrainingPlan

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "operators", "full")
MAX_MICRO_BATCH = 16
MAX_CHUNKS = 12
MAX_CONTEXT = 64
GRID = 50_000
"""The most layouts of a grid, unless one split alone has more: its arrays then stay in cache."""
SMALL_GRID = 15_000
"""The most layouts of a grid that is filled up. One of so many takes about twice as long as one of 500, because in
small arrays the number of operations counts."""

SPLIT, EXPERTS, SHARDING, MICRO_BATCH, SCHEDULE, RECOMPUTED = range(6)
"""The axes of a grid."""
AXES_OF_GRID = 6

StagedSchedule = tuple[PipelineSchedule, int]
"""A schedule and its number of virtual stages."""
Sharding = tuple[int, int, int]
"""The values (dp_replicate, dp_shard, zero_stage)."""
HeldDegrees = Mapping[str, Any]
"""The fields of `ParallelLayout` that every layout has to have, with their values."""
NOTHING: HeldDegrees = {}


class Space(Struct, frozen=True, kw_only=True):
    """One instance says which kinds of layout are tried.

    Context parallelism is tried only for sequences of at least `shortest_context` tokens.
    """

    schedules: frozenset[PipelineSchedule]
    context_kinds: tuple[ContextParallelKind, ...]
    shortest_context: int


USUAL = Space(schedules=frozenset(("1f1b", "interleaved")), context_kinds=("ring",), shortest_context=16_384)
"""The layouts that every large framework runs; `layout: auto` takes the fastest of these."""
EVERYTHING = Space(
    schedules=frozenset(("1f1b", "interleaved", "zero_bubble", "dualpipe")),
    context_kinds=("ring", "all_to_all"),
    shortest_context=1,
)
"""All layouts that the predictor knows, which `plan --search` tries."""


class GridRow(NamedTuple):
    """One row of a grid: a way to split the world, how it may shard there, and how its stages may be scheduled."""

    split: WorldSplit
    shardings: list[Sharding]
    schedules: list[StagedSchedule]


class WorldSplit(NamedTuple):
    """One instance is a way to split the world among the axes that multiply to it."""

    tp: int
    cp: int
    ring: bool
    pp: int
    dp: int


class Grid(NamedTuple):
    """One grid holds layouts whose fields broadcast to `valid.shape`, and which of these combinations are layouts at
    all.
    """

    layout: Layout
    valid: Flags

    def at(self, flat: Any) -> Layout:
        """Return the layouts at flat indices; all fields have the length of these."""
        where = np.unravel_index(flat, self.valid.shape)
        return Layout(
            **{name: np.broadcast_to(getattr(self.layout, name), self.valid.shape)[where] for name in Layout.__slots__}
        )

    def cropped(self, wanted: Flags, values: Floats) -> tuple[Grid, Flags, Floats]:
        """Return the smallest grid with all wanted layouts, which of its layouts are wanted, and the values of these.

        `values` has one value for each layout of this grid.
        """
        axes = range(wanted.ndim)
        kept = [np.flatnonzero(wanted.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]

        def crop(column: Any) -> Any:
            for axis, index in enumerate(kept):
                if np.ndim(column) and column.shape[axis] > 1 and index.size < column.shape[axis]:
                    column = np.take(column, index, axis=axis)
            return column

        layout = Layout(**{name: crop(getattr(self.layout, name)) for name in Layout.__slots__})
        return Grid(layout, crop(self.valid)), crop(wanted), crop(values)


def splits(
    model: TransformerModel, cluster: Cluster, training: TrainingPlan, space: Space, held: HeldDegrees = NOTHING
) -> list[WorldSplit]:
    """Return every split of the world that the model's dimensions allow, whatever the batch."""
    world = cluster.devices
    widest = world if "tp" in held else island_size(cluster)
    tps = [t for t in allowed_degrees("tp", model, world, training.seq_len) if t <= widest]
    longest = MAX_CONTEXT if training.seq_len >= space.shortest_context else 1
    cps = [c for c in divisors(world) if c == 1 or (c <= longest and training.seq_len % (2 * c) == 0)]
    if "cp" in held:
        cps = allowed_degrees("cp", model, world, training.seq_len)
    pps = allowed_degrees("pp", model, world, training.seq_len)
    tps, cps, pps = (
        [degree for degree in degrees if held.get(axis, degree) == degree]
        for axis, degrees in (("tp", tps), ("cp", cps), ("pp", pps))
    )
    kinds = (held["context_parallel_kind"],) if "context_parallel_kind" in held else space.context_kinds
    return [
        WorldSplit(tp, cp, kind == "ring", pp, world // (tp * cp * pp))
        for tp, cp, pp in itertools.product(tps, cps, pps)
        if world % (tp * cp * pp) == 0
        for kind in (kinds if cp > 1 else ("ring",))
        # An all-to-all hands each rank whole heads (Ulysses, arXiv 2309.14509).
        if kind == "ring" or splits_heads(model, tp * cp)
    ]


def schedules(model: TransformerModel, pp: int, space: Space, held: HeldDegrees = NOTHING) -> list[StagedSchedule]:
    """Return the schedules of a pipeline of `pp` stages. Uneven stages are allowed: the longest sets the pace.

    Embedding and head may each take the place of a layer, as with Llama 3's 126 layers in 128 chunks (arXiv 2407.21783
    section 3.3.2).
    """
    wanted, chunks = held.get("pipeline_schedule"), held.get("virtual_stages")
    if pp == 1:
        return [("1f1b", 1)] if wanted in (None, "1f1b", "gpipe") and chunks in (None, 1) else []
    kinds = space.schedules | {"interleaved"} if (chunks or 1) > 1 else space.schedules
    kinds = kinds if wanted is None else frozenset((wanted,))
    plain: tuple[PipelineSchedule, ...] = ("1f1b", "zero_bubble", "gpipe", *(("dualpipe",) if pp % 2 == 0 else ()))
    found: list[StagedSchedule] = [(kind, 1) for kind in plain if kind in kinds]
    stage = -(-model.layers // pp)
    most = MAX_CHUNKS if chunks is None else chunks
    several = [v for v in divisors(stage) if 1 < v <= most and pp * v <= model.layers + TABLES]
    found += [("interleaved", v) for v in several if "interleaved" in kinds]
    found += [("zero_bubble", v) for v in several if wanted == "zero_bubble"]
    return [one for one in found if chunks in (None, one[1])]


def shardings(dp: int, inner: int, held: HeldDegrees = NOTHING) -> list[Sharding]:
    """Return the ways to use dp ranks of which `inner` share an island.

    These are replicas, ZeRO over all ranks, and hybrid sharding over any whole number of islands.
    """
    if held.get("dp_replicate", 1) > 1 or "dp_shard" in held:
        every = [(dp // shard, shard, stage) for shard in divisors(dp) for stage in ((1, 2, 3) if shard > 1 else (0,))]
    elif dp == 1:
        every = [(1, 1, held.get("zero_stage", 0))]
    else:
        hybrid = [(dp // shard, shard, 3) for shard in divisors(dp) if 1 < shard < dp and shard % inner == 0]
        every = [(dp, 1, 0), (1, dp, 1), (1, dp, 2), (1, dp, 3), *hybrid]
    names = ("dp_replicate", "dp_shard", "zero_stage")
    return [ways for ways in every if all(held.get(name, way) == way for name, way in zip(names, ways, strict=True))]


def grids(
    model: TransformerModel, cluster: Cluster, training: TrainingPlan, space: Space, held: HeldDegrees = NOTHING
) -> Iterator[tuple[Grid, float]]:
    """Return every layout of the space that keeps to `held`, in grids, each with the share of the space done after it.

    There is none where no data-parallel degree divides the batch, or where nothing keeps to what is held.
    """
    batch = training.global_batch_size
    island = island_size(cluster)
    rows = []
    for split in splits(model, cluster, training, space, held):
        if batch % split.dp == 0:
            inner = max(1, island // (split.tp * split.cp))
            row = GridRow(split, shardings(split.dp, inner, held), schedules(model, split.pp, space, held))
            if row.shardings and row.schedules:
                rows.append(row)
    most = max(MAX_MICRO_BATCH, held.get("micro_batch_size", 1))
    experts = _choice(divisors(model.moe.experts) if model.moe else [1], held.get("ep"))
    sizes = _choice([size for size in divisors(batch) if size <= most], held.get("micro_batch_size"))
    if not (experts.size and sizes.size):
        return
    done = 0
    for part in _parted(rows, experts.size * sizes.size * len(RECOMPUTE)):
        done += len(part)
        yield _grid(part, experts, sizes, batch, held), done / len(rows)


def _parted(rows: list[GridRow], each: int) -> Iterator[list[GridRow]]:
    """Return the rows of one grid after the other. A pair of sharding and schedule stands for `each` layouts.

    Rows with equally many ways to shard and to schedule share a grid, so that no axis has to be filled up. Small grids
    also take others, because filling up costs them less than another grid.
    """

    def width(row: GridRow) -> tuple[int, int]:
        return len(row.shardings), len(row.schedules)

    part: list[GridRow] = []
    for row in sorted(rows, key=width):
        widths = {width(other) for other in (*part, row)}
        ways, plans = (max(lengths) for lengths in zip(*widths, strict=True))
        layouts = (len(part) + 1) * ways * plans * each
        if part and layouts > (GRID if len(widths) == 1 else SMALL_GRID):
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _choice(values: list[int], held: int | None) -> Floats:
    return np.array([value for value in values if held in (None, value)], dtype=np.float64)


def _filled(choices: list[Any], length: int) -> list[Any]:
    """Return the choices, with the last of them again up to this length."""
    return choices + choices[-1:] * (length - len(choices))


def _column(values: Any, *axes: int) -> Any:
    """Return an array whose dimensions are those axes of a grid, with dimensions of 1 for the others."""
    array = np.asarray(values, dtype=np.float64)
    return array.reshape([array.shape[axes.index(axis)] if axis in axes else 1 for axis in range(AXES_OF_GRID)])


def _stated(lengths: list[int], axis: int) -> Flags:
    """Return which choices along an axis are not filled up, for rows with so many choices."""
    return np.asarray(_column(np.arange(max(lengths)) < np.array(lengths)[:, None], SPLIT, axis) > 0)


def _grid(rows: list[GridRow], experts: Floats, sizes: Floats, batch: int, held: HeldDegrees) -> Grid:
    tp, cp, ring, pp, _ = (_column(values, SPLIT) for values in zip(*(row.split for row in rows), strict=True))
    ways, plans = [len(row.shardings) for row in rows], [len(row.schedules) for row in rows]
    shards = np.array([_filled(row.shardings, max(ways)) for row in rows], dtype=np.float64)
    planned = [_filled(row.schedules, max(plans)) for row in rows]
    replicate, shard, stage = (_column(shards[..., part], SPLIT, SHARDING) for part in range(3))
    # A stated share of the layers says that some recompute as a whole or by their operations.
    open_kinds = SHARED_OUT if "recompute_share" in held else RECOMPUTE
    tried = (held["recompute"],) if "recompute" in held else open_kinds
    again_share = held.get("recompute_share", 1.0)
    kinds = [_column([kind == name for name in tried], RECOMPUTED) for kind in RECOMPUTE]
    again = again_flags("selective", held.get("recompute_modules", ()))

    def scheduled(name: PipelineSchedule) -> Any:
        return _column([[kind == name for kind, _ in row] for row in planned], SPLIT, SCHEDULE)

    def switch(name: str) -> Values:
        return float(held.get(name, False))

    layout = Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        dp_replicate=replicate,
        dp_shard=shard,
        ep=_column(experts, EXPERTS),
        expert_tp=float(held.get("expert_tp", 1)),
        zero_stage=stage,
        sequence_parallel=((tp > 1) & held.get("sequence_parallel", True)).astype(np.float64),
        ring=ring,
        zero_bubble=scheduled("zero_bubble"),
        dualpipe=scheduled("dualpipe"),
        gpipe=scheduled("gpipe"),
        pipeline_rounds=np.where(pp > 1, held.get("pipeline_rounds", 1), 1).astype(np.float64),
        virtual_stages=_column([[chunks for _, chunks in row] for row in planned], SPLIT, SCHEDULE),
        micro_batch_size=_column(sizes, MICRO_BATCH),
        recompute_operators=kinds[2] * again_share,
        recompute_full=kinds[3] * again_share,
        reentrant=switch("recompute_reentrant") * kinds[3],
        async_tp=switch("async_tp") * (tp > 1),
        expert_overlap=np.maximum(scheduled("dualpipe"), switch("expert_overlap")),
        balanced_stages=switch("balanced_stages") * (pp > 1),
        **{flag: kinds[1] if named else NOT for flag, named in again.items()},
    )
    dp = _column([row.split.dp for row in rows], SPLIT)
    valid = _keeps_rules(layout, dp, batch) & _stated(ways, SHARDING) & _stated(plans, SCHEDULE)
    shape = (len(rows), experts.size, max(ways), sizes.size, max(plans), len(tried))
    return Grid(layout, np.broadcast_to(valid, shape))


def _keeps_rules(layout: Layout, dp: Values, batch: int) -> Flags:
    """Return where the degrees divide the ranks, the batch divides among them, and its schedule can be run."""
    # The micro-batches that a pipeline runs before it drains.
    rounds = batch / (dp * layout.micro_batch_size * layout.pipeline_rounds)
    whole = (dp * layout.cp * layout.tp) % (layout.ep * layout.expert_tp) == 0
    whole = whole & (rounds % 1 == 0) & ((layout.expert_tp == 1) | (layout.ep > 1))
    # Interleaving schedules micro-batches in rounds of pp (Megatron-LM).
    in_rounds = (layout.virtual_stages == 1) | (rounds % layout.pp == 0)
    # DualPipe feeds the pipeline from both ends, each with at least as many micro-batches as it has stages.
    from_both_ends = (layout.dualpipe == 0) | ((rounds % 2 == 0) & (rounds >= 2 * layout.pp))
    return np.asarray(whole & in_rounds & from_both_ends)


def complexity(layout: Layout) -> Values:
    """Return how complex a layout is: 1 for each technique that it uses, and a little for every doubling of
    a degree.
    """
    parallel = [layout.tp, layout.cp, layout.pp, layout.ep]
    hybrid = (layout.dp_replicate > 1) & (layout.dp_shard > 1)
    selective = sum(getattr(layout, flag) for flag in AGAIN.values()) > 0
    recompute = selective + (layout.recompute_operators > 0) + (layout.recompute_full > 0)
    switches = [*(degree > 1 for degree in parallel), layout.virtual_stages > 1, layout.zero_stage > 0, hybrid]
    used = sum(np.asarray(switch, dtype=np.float64) for switch in switches)
    used = used + recompute + layout.zero_bubble + layout.dualpipe + (layout.ring == 0) * (layout.cp > 1)
    doublings = sum(np.log2(degree) for degree in (*parallel, layout.virtual_stages)) + layout.zero_stage
    return np.asarray(used + 0.01 * doublings)


def layout_at(layouts: Layout, index: int) -> ParallelLayout:
    """Return one layout of an array of them as the spec type."""
    one = {name: np.broadcast_to(getattr(layouts, name), np.shape(layouts.tp))[index] for name in Layout.__slots__}
    modules = tuple(module for module, flag in AGAIN.items() if one[flag])
    shares = [float(bool(modules)), float(one["recompute_operators"]), float(one["recompute_full"])]
    chunks = int(one["virtual_stages"])
    schedule: PipelineSchedule = "interleaved" if chunks > 1 else "1f1b"
    for kind in ("zero_bubble", "dualpipe", "gpipe"):
        if one[kind]:
            schedule = kind
    degrees: dict[str, Any] = {name: int(one[name]) for name in DEGREES}
    return ParallelLayout(
        **degrees,
        zero_stage=int(one["zero_stage"]),  # type: ignore[arg-type]  # one of 0..3 by construction
        sequence_parallel=bool(one["sequence_parallel"]),
        context_parallel_kind="ring" if one["ring"] else "all_to_all",
        pipeline_schedule=schedule,
        virtual_stages=chunks,
        pipeline_rounds=int(one["pipeline_rounds"]),
        micro_batch_size=int(one["micro_batch_size"]),
        recompute=RECOMPUTE[1 + shares.index(max(shares))] if any(shares) else "none",
        recompute_share=max(shares) or 1.0,
        recompute_modules=() if modules == ("core_attn",) else modules,
        recompute_reentrant=bool(one["reentrant"]),
        async_tp=bool(one["async_tp"]),
        expert_overlap=bool(one["expert_overlap"]) and not one["dualpipe"],
        balanced_stages=bool(one["balanced_stages"]),
    )
