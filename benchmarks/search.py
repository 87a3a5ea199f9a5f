"""Measure what a search costs: layouts a second of `plan --search`, beside the same layouts predicted one at a time.

    make bench                                  # with the other benchmarks
    .venv/bin/python benchmarks/search.py       # about fifteen seconds

A layout is considered when its memory need is computed, fully evaluated when its step is timed and its power known,
which happens where it fits. Both are counted over the CPU time of the whole search, which runs on one core:
candidates made, memory, step, power, front. Wall time is beside it, and longer where other work wants the core.

The plain evaluation calls `predict_step` for a random sample of the same layouts, in turns with the search. That both
give the same time, power and memory is asserted, to 1e-9.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import statistics
import sys
import time
from pathlib import Path

# One core: what numpy would hand to several threads stays on this one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
from results_file import write_result

from carbon_plugin.plan.search.feasibility import SearchInputs, inputs_of
from carbon_plugin.plan.search.layouts import search
from carbon_plugin.plan.search.space import EVERYTHING, layout_at
from carbon_plugin.predict.power import step_power_w
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import load_run_spec
from carbon_plugin.spec.run import RunSpec

ROOT = Path(__file__).resolve().parents[1]
SPECS = ("gpt3-175b-a100-auto", "llama3-70b-h100-hsdp", "mixtral-8x7b-h100", "moe-1t-h100-auto")
AGREEMENT = 1e-9


class Sampled(msgspec.Struct, frozen=True):
    """Holds a layout with what the search computes for it: seconds a step, W a device, bytes a device."""

    layout: ParallelLayout
    time_s: float
    power_w: float
    memory_bytes: float


def sample(inputs: SearchInputs, wanted: int, seed: int) -> list[Sampled]:
    """Draw layouts evenly from all grids of a search, and evaluate them as grids."""
    generator = np.random.default_rng(seed)
    total = sum(int(np.count_nonzero(grid.valid)) for grid, _ in inputs.grids(EVERYTHING))
    found = []
    for grid, _ in inputs.grids(EVERYTHING):
        flat = np.flatnonzero(grid.valid)
        flat = generator.choice(flat, size=min(flat.size, math.ceil(wanted * flat.size / total)), replace=False)
        step = step_time(inputs.shape, grid.layout, inputs.work, inputs.rates)
        power = step_power_w(step.terms, inputs.spec.cluster)
        columns = [step.total, power, inputs.need_bytes(grid)]
        rows = [np.broadcast_to(column, grid.valid.shape).ravel()[flat].tolist() for column in columns]
        layouts = grid.at(flat)
        found += [Sampled(layout_at(layouts, index), *values) for index, values in enumerate(zip(*rows, strict=True))]
    random.Random(seed).shuffle(found)
    return found


def one_at_a_time(spec: RunSpec, layouts: list[Sampled]) -> float:
    """Return the CPU seconds that it takes to predict the layouts one by one. Raises `SystemExit` where a result
    differs from that of the search.
    """
    specs = [msgspec.structs.replace(spec, layout=one.layout) for one in layouts]
    start = time.process_time()
    predictions = [predict_step(one) for one in specs]
    elapsed = time.process_time() - start
    for one, alone in zip(layouts, predictions, strict=True):
        pairs = (
            (alone.step_time_s.value, one.time_s),
            (alone.gpu_power_w.value, one.power_w),
            (alone.memory.total_bytes, one.memory_bytes),
        )
        if not all(math.isclose(ours, theirs, rel_tol=AGREEMENT) for ours, theirs in pairs):
            sys.exit(f"{one.layout} is predicted {pairs[0]} s, {pairs[1]} W, {pairs[2]} bytes: alone and in the search")
    return elapsed


def measure(spec: RunSpec, rounds: int, sampled: int, seed: int) -> dict[str, object]:
    """Measure the search and the plain evaluation of one spec, in turns."""
    inputs = inputs_of(spec)
    layouts = sample(inputs, sampled, seed)
    found = search(spec, EVERYTHING)  # caches and pages are warm from here on
    walls, searches, alone = [], [], []
    for _ in range(rounds):
        wall, start = time.perf_counter(), time.process_time()
        search(spec, EVERYTHING)
        searches.append(time.process_time() - start)
        walls.append(time.perf_counter() - wall)
        alone.append(one_at_a_time(spec, layouts))
    core_s, plain = statistics.median(searches), statistics.median(alone) / len(layouts)
    return {
        "devices": spec.cluster.devices,
        "parameters": spec.model.parameters,
        "considered": found.considered,
        "fully_evaluated": found.fitting,
        "front": int(found.front.step_time_s.size),
        "search_core_s": core_s,
        "search_wall_s": statistics.median(walls),
        "considered_per_core_s": found.considered / core_s,
        "fully_evaluated_per_core_s": found.fitting / core_s,
        "one_at_a_time_per_core_s": 1 / plain,
        "compared_layouts": len(layouts),
        "times_faster": found.considered / core_s * plain,
        "times_faster_fully_evaluated": found.fitting / core_s * plain,
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--specs", nargs="+", default=SPECS, help="names of example specs")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--sampled", type=int, default=300, help="layouts that are predicted one at a time")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "search.json")
    options = arguments.parse_args()
    searches = {}
    for name in options.specs:
        spec = load_run_spec(ROOT / "examples" / "specs" / f"{name}.yaml")
        searches[name] = measure(spec, options.rounds, options.sampled, options.seed)
    figures = {
        "numpy": np.__version__,
        "rounds": options.rounds,
        "most_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "searches": searches,
    }
    print(write_result(options.output, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
