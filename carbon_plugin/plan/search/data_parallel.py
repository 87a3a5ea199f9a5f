"""List the layouts of a model that is known only by what was counted in it, which can only be data-parallel.

There are a few dozen layouts at most, and each is predicted by itself. `search.layouts` searches transformers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.plan.search.fullness import expected_slowdown
from carbon_plugin.plan.search.pareto import STEP
from carbon_plugin.plan.search.phrases import held_phrase, phrase_of
from carbon_plugin.plan.search.slow_network import network_slowdown
from carbon_plugin.plan.search.space import shardings
from carbon_plugin.predict.rates.islands import island_size
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.degrees import divisors
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.numbers.amounts import memory, plural
from carbon_plugin.spec.run import RunSpec, with_layout


class Candidate(NamedTuple):
    """One candidate is a layout with its predicted and expected step time in s, and its memory need in bytes."""

    layout: ParallelLayout
    step_time_s: float
    expected_time_s: float
    memory_bytes: float
    fits: bool


def data_parallel_layouts(spec: RunSpec) -> list[Candidate]:
    """Return every data-parallel layout that keeps to what the spec holds.

    They are sorted by expected time, of those within 0.1 % the simplest first, and those that do not fit come last.
    Raises `InfeasibleLayoutError` where the devices cannot share the batch, where no such layout has the fields that
    are held, or where nothing fits.
    """
    devices, batch = spec.cluster.devices, spec.training.global_batch_size
    if batch % devices:
        raise InfeasibleLayoutError(
            f"batch: global_batch_size {batch} is not a multiple of the {plural(devices, 'device')}, over which "
            f"{spec.model.name} can only be data-parallel; global_batch_size {-(-batch // devices) * devices} would do"
        )
    found = [_candidate(spec, layout) for layout in _layouts(spec, batch // devices)]
    if not found:
        raise InfeasibleLayoutError(
            f"layout: {spec.model.name} is known only by what was counted in it and can only be data-parallel, but the "
            f"layout is to have {held_phrase(spec.layout_held)}"
        )
    # The sort is stable, and the simplest ways to shard come first.
    found.sort(key=lambda one: (not one.fits, math.floor(math.log(one.expected_time_s) / math.log1p(STEP))))
    if not found[0].fits:
        least = min(found, key=lambda one: one.memory_bytes)
        capacity = spec.cluster.accelerator.memory_bytes.value
        raise InfeasibleLayoutError(
            f"memory: none of {plural(len(found), 'layout')} of {spec.model.name} fits in {memory(capacity)} of "
            f"{spec.cluster.accelerator.name}; the smallest needs {memory(least.memory_bytes)} "
            f"({phrase_of(least.layout)})"
        )
    return found


def _layouts(spec: RunSpec, share: int) -> Iterator[ParallelLayout]:
    held = spec.layout_held
    fixed = {name: value for name, value in held.items() if name not in ("dp_replicate", "dp_shard", "zero_stage")}
    if any(held.get(axis, 1) != 1 for axis in ("tp", "cp", "pp", "ep")):
        return
    sizes = [size for size in divisors(share) if held.get("micro_batch_size", size) == size]
    ways = shardings(spec.cluster.devices, island_size(spec.cluster), held)
    for (replicate, shard, stage), size in itertools.product(ways, sizes):
        fields = {"dp_replicate": replicate, "dp_shard": shard, "zero_stage": stage, "micro_batch_size": size}
        yield msgspec.convert({**fixed, **fields}, ParallelLayout)


def _candidate(spec: RunSpec, layout: ParallelLayout) -> Candidate:
    planned = with_layout(spec, layout)
    prediction = predict_step(planned)
    memory, step_s = prediction.memory, prediction.step_time_s.value
    slower = float(expected_slowdown(memory.total_bytes / memory.capacity_bytes, spec.stack.population))
    expected_s = step_s * slower * network_slowdown(planned, step_s)
    return Candidate(layout, step_s, expected_s, memory.total_bytes, memory.fits)
