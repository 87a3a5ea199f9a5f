"""The layouts that a job could run with, and the fastest that fits in memory.

Candidates are generated as arrays and evaluated by the one set of equations in `predict`; nothing here knows how
long anything takes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.predict.case import Layout, shape_of, work_of
from carbon_plugin.predict.memory import memory_bytes
from carbon_plugin.predict.rates import island_size, resolve_rates
from carbon_plugin.predict.schedule import step_time
from carbon_plugin.spec.hardware import Cluster
from carbon_plugin.spec.layout import ParallelLayout, Recompute
from carbon_plugin.spec.model import TransformerModel
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.training import TrainingPlan

Floats = NDArray[np.float64]

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "operators", "full")
MAX_MICRO_BATCH = 16
MAX_CHUNKS = 12
LONG_SEQUENCE = 16_384
"""Context parallelism is tried from this sequence length on."""
CHUNK = 20_000
"""Layouts evaluated at once: the arrays of a chunk stay in cache."""


@dataclass(frozen=True, slots=True)
class Degrees:
    """One way to split the world; what the dp ranks shard is a choice of its own (`shardings`)."""

    tp: int
    cp: int
    pp: int
    virtual_stages: int
    ep: int
    dp: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The fastest layout that fits, and how many were looked at."""

    layout: ParallelLayout
    step_time_s: float
    memory_bytes: float
    evaluated: int
    fitting: int


def divisors(number: int) -> list[int]:
    """All divisors in rising order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def splits(model: TransformerModel, cluster: Cluster, training: TrainingPlan) -> list[Degrees]:
    """Every split of the world that the model's dimensions and the batch allow."""
    world, island = cluster.devices, island_size(cluster)
    tps = [t for t in divisors(world) if t <= island and model.heads % t == 0 and model.ffn % t == 0]
    tps = [t for t in tps if model.kv_heads % t == 0 or t % model.kv_heads == 0]
    cps = [c for c in divisors(world) if c == 1 or (training.seq_len >= LONG_SEQUENCE and c <= 64)]
    cps = [c for c in cps if training.seq_len % (2 * c) == 0 or c == 1]
    pps = [p for p in divisors(world) if p <= model.layers]
    experts = divisors(model.moe.experts) if model.moe else [1]
    found = []
    for tp, cp, pp in itertools.product(tps, cps, pps):
        if world % (tp * cp * pp):
            continue
        dp = world // (tp * cp * pp)
        if training.global_batch_size % dp:
            continue
        # Uneven stages are allowed: the longest sets the pace.
        stage = -(-model.layers // pp)
        chunks = [v for v in divisors(stage) if v <= MAX_CHUNKS and pp * v <= model.layers] if pp > 1 else [1]
        eps = [e for e in experts if (dp * cp * tp) % e == 0]
        found += [Degrees(tp, cp, pp, v, ep, dp) for v, ep in itertools.product(chunks, eps)]
    return found


def shardings(dp: int, island: int) -> list[tuple[int, int, int]]:
    """Ways to use dp ranks: (dp_replicate, dp_shard, zero_stage)."""
    if dp == 1:
        return [(1, 1, 0)]
    ways = [(dp, 1, 0), (1, dp, 1), (1, dp, 2), (1, dp, 3)]
    if dp > island > 1 and dp % island == 0:
        ways += [(dp // island, island, 3)]
    return ways


def candidates(model: TransformerModel, cluster: Cluster, training: TrainingPlan) -> Layout:
    """All candidate layouts as arrays of shape (n,). Raises `InfeasibleLayoutError` if there is none."""
    island = island_size(cluster)
    rows = []
    for degrees in splits(model, cluster, training):
        share = training.global_batch_size // degrees.dp
        sizes = [b for b in divisors(share) if b <= MAX_MICRO_BATCH]
        # Interleaving schedules micro-batches in rounds of pp.
        if degrees.virtual_stages > 1:
            sizes = [b for b in sizes if (share // b) % degrees.pp == 0]
        inner = max(1, island // (degrees.tp * degrees.cp))
        for (replicate, shard, stage), size in itertools.product(shardings(degrees.dp, inner), sizes):
            head = (degrees.tp, degrees.cp, degrees.pp, replicate, shard, degrees.ep, stage)
            rows += [(*head, degrees.virtual_stages, size, kind) for kind in range(len(RECOMPUTE))]
    if not rows:
        raise InfeasibleLayoutError(
            f"layout: no split of {cluster.devices} devices divides {model.name}'s heads {model.heads}, "
            f"layers {model.layers} and global_batch_size {training.global_batch_size}; "
            f"a global_batch_size that is a multiple of {cluster.devices} always has one"
        )
    return _as_layout(np.array(rows, dtype=np.float64))


def _as_layout(rows: Any) -> Layout:
    tp, cp, pp, replicate, shard, ep, stage, chunks, size, kind = rows.T
    none = np.zeros_like(tp)
    return Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        dp_replicate=replicate,
        dp_shard=shard,
        ep=ep,
        expert_tp=none + 1,
        zero_stage=stage,
        sequence_parallel=(tp > 1).astype(np.float64),
        ring=none + 1,
        zero_bubble=none,
        dualpipe=none,
        virtual_stages=chunks,
        micro_batch_size=size,
        recompute_selective=(kind == 1).astype(np.float64),
        recompute_operators=(kind == 2).astype(np.float64),
        recompute_full=(kind == 3).astype(np.float64),
        reentrant=none,
        async_tp=none,
        expert_overlap=none,
    )


def take(layout: Layout, index: Any) -> Layout:
    """The layouts at an index, slice or mask."""
    return Layout(**{name: getattr(layout, name)[index] for name in Layout.__slots__})


def layout_at(layout: Layout, index: int) -> ParallelLayout:
    """One candidate as the spec type."""
    one = take(layout, index)
    kinds = (one.recompute_selective, one.recompute_operators, one.recompute_full)
    chunks = int(one.virtual_stages)
    return ParallelLayout(
        tp=int(one.tp),
        cp=int(one.cp),
        pp=int(one.pp),
        dp_replicate=int(one.dp_replicate),
        dp_shard=int(one.dp_shard),
        ep=int(one.ep),
        zero_stage=int(one.zero_stage),  # type: ignore[arg-type]  # one of 0..3 by construction
        sequence_parallel=bool(one.sequence_parallel),
        pipeline_schedule="interleaved" if chunks > 1 else "1f1b",
        virtual_stages=chunks,
        micro_batch_size=int(one.micro_batch_size),
        recompute=RECOMPUTE[1 + kinds.index(1)] if any(kinds) else "none",
    )


def evaluate(spec: RunSpec, layouts: Layout) -> tuple[Floats, Floats]:
    """Step time (s) and memory need (bytes) of each layout, shape (n,)."""
    if not isinstance(spec.model, TransformerModel):
        raise SpecError(f"layout: {spec.model.name} is known only by its counted FLOPs; give a layout instead of auto")
    rates, _ = resolve_rates(spec.cluster, spec.stack, spec.training.precision)
    shape, work = shape_of(spec.model), work_of(spec.training, spec.stack)
    times, needs = [], []
    for start in range(0, layouts.tp.size, CHUNK):
        part = take(layouts, slice(start, start + CHUNK))
        times.append(np.broadcast_to(step_time(shape, part, work, rates).total, part.tp.shape))
        needs.append(sum(memory_bytes(shape, part, work, rates).values()))
    return np.concatenate(times), np.concatenate(needs)


def search_layout(spec: RunSpec) -> SearchResult:
    """The fastest layout of `spec` that fits in device memory.

    Raises `InfeasibleLayoutError` when none fits, with the smallest need found and what would make room.
    """
    if not isinstance(spec.model, TransformerModel):
        raise SpecError(f"layout: {spec.model.name} is known only by its counted FLOPs; give a layout instead of auto")
    layouts = candidates(spec.model, spec.cluster, spec.training)
    times, needs = evaluate(spec, layouts)
    capacity = spec.cluster.accelerator.memory_bytes.value
    fits = needs <= capacity
    if not np.any(fits):
        smallest = int(np.argmin(needs))
        short = float(needs[smallest]) / capacity
        raise InfeasibleLayoutError(
            f"layout: none of {needs.size} layouts of {spec.model.name} fits in {capacity / 2**30:.1f} GiB of "
            f"{spec.cluster.accelerator.name}; the smallest needs {float(needs[smallest]) / 2**30:.1f} GiB "
            f"({describe(layout_at(layouts, smallest))}); about {np.ceil(short):.0f} times the devices, or devices "
            f"with more memory, would make room"
        )
    best = int(np.argmin(np.where(fits, times, np.inf)))
    return SearchResult(
        layout_at(layouts, best), float(times[best]), float(needs[best]), int(needs.size), int(fits.sum())
    )


def describe(layout: ParallelLayout) -> str:
    """A layout in one short phrase, degrees of 1 left out."""
    degrees = {
        "tp": layout.tp,
        "cp": layout.cp,
        "pp": layout.pp,
        "dp_replicate": layout.dp_replicate,
        "dp_shard": layout.dp_shard,
        "ep": layout.ep,
    }
    parts = [f"{axis} {degree}" for axis, degree in degrees.items() if degree > 1] or ["one device"]
    if layout.zero_stage:
        parts.append(f"ZeRO-{layout.zero_stage}")
    if layout.virtual_stages > 1:
        parts.append(f"{layout.virtual_stages} virtual stages")
    parts.append(f"micro-batch {layout.micro_batch_size}")
    parts.append(f"recompute {layout.recompute}")
    return ", ".join(parts)
