"""Measure what a few runs of a cluster bring: clusters, calibrated with 0, 1 and 3 of their runs, on all their others.

`python benchmarks/learning.py` prints a table in Markdown by how many runs were seen, mean over random draws: the mean
absolute error in percent, how many of the runs that were not seen lie inside the 80 % range, and p90 over p10 of that
range. Runs in a layout that was seen do not count among the others. Published clusters are predicted with constants
that saw no row of their source, as a stranger's is. Synthetic clusters differ from the predictions as the spreads of
the intervals say: by an offset that all of their layouts share, and by one of each layout.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from carbon_plugin.calibrate.fit import fit_populations, fit_without, fitted_constants, problem_of
from carbon_plugin.calibrate.parameters import cluster_offsets, fitted_rows, shipped_parameters
from carbon_plugin.calibrate.rows.hybrids import without_hybrids
from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.rows.table import RowArrays, predict, select, tabulate
from carbon_plugin.calibrate.transfer import layouts_of, row_classes
from carbon_plugin.calibrate.user_fit import calibrated_step_time_s
from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.predict.uncertainty.interval import EFFECTS, WHOLE, spread_of
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.stack import ORDINARY, STACKS

SEEN = (0, 1, 3)
DRAWS = 12
LEAST_LAYOUTS = 4
MOST_ROWS = 120
"""Of a larger source so many rows are drawn at random, because a thousand rows of one machine say the same."""
SYNTHETIC, MEASURED_SPREAD = 10, 0.02
"""Number of synthetic clusters of each population, and the spread of a run's time from one run to the next."""


class Learned(NamedTuple):
    """The mean absolute error in percent, the share of runs inside the range, and p90 over p10 of the range."""

    error: float
    inside: float
    width: float


def learned(table: RowArrays, seed: int = 0) -> list[Learned]:
    """Return what is known of the runs in layouts that were not seen, for each number of runs in `SEEN`.

    Without any, the same runs are asked for as with one.
    """
    draw = random.Random(seed)
    kinds, jobs = row_classes(table), layouts_of(table)
    before_s = np.asarray(predict(table, table.prior, table.prior_factor).total)
    found = []
    for count in SEEN:
        draws = []
        for _ in range(DRAWS):
            picked = draw.sample(sorted(set(jobs.tolist())), max(count, 1))
            others = ~np.isin(jobs, picked)
            rows = np.array([draw.choice(np.flatnonzero(jobs == job).tolist()) for job in picked])
            predicted_s, left = before_s, [WHOLE] * before_s.size
            if count:
                predicted_s, left = calibrated_step_time_s(select(table, rows), table)
            spreads = [spread_of(kind, left=one) for kind, one in zip(kinds, left, strict=True)]
            low, high = (np.array([getattr(spread, end) for spread in spreads]) for end in ("p10", "p90"))
            ratio = predicted_s[others] / table.measured_s[others]
            inside = (ratio * low[others] <= 1) & (ratio * high[others] >= 1)
            draws.append((100 * np.mean(np.abs(ratio - 1)), np.mean(inside), np.mean((high / low)[others])))
        found.append(Learned(*(float(value) for value in np.mean(draws, axis=0))))
    return found


def published_clusters() -> Iterator[tuple[str, RowArrays]]:
    """Yield the name of each cluster of at least `LEAST_LAYOUTS` layouts, and its rows under a stranger's constants."""
    table = tabulate(without_hybrids(published_rows()[0]))
    problem = problem_of(table, (*shipped_parameters(), *cluster_offsets(table)))
    kept = fitted_rows(table)
    whole = fit_populations(problem, kept)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for index, row in enumerate(table.rows):
        groups.setdefault((row.origin, row.accelerator, row.framework), []).append(index)
    known: dict[str, RowArrays] = {}
    for (origin, accelerator, framework), members in groups.items():
        if np.unique(layouts_of(select(table, np.array(members)))).size < LEAST_LAYOUTS:
            continue
        if origin not in known:
            without = fit_without(problem, kept, whole, table.origin == origin)
            constants, factor = fitted_constants(table, without)
            known[origin] = replace(table, prior=constants, prior_factor=factor)
        drawn = sorted(random.Random(0).sample(members, min(len(members), MOST_ROWS)))
        yield f"{origin}, {accelerator}, {framework}", select(known[origin], np.array(drawn))


def synthetic_clusters(population: str) -> Iterator[tuple[str, RowArrays]]:
    """Yield clusters of a software population whose runs differ from the predictions as `EFFECTS` says."""
    kind: AccuracyClass = "ordinary" if population == ORDINARY else "calibrated"
    usual = EFFECTS[kind]
    stack = STACKS["ordinary" if population == ORDINARY else "torchtitan"]
    for number in range(SYNTHETIC):
        draw = random.Random(number)
        far = draw.gauss(0, 1)
        offset = far * (usual.slower if far > 0 else usual.faster)
        rows = []
        for index, layout in enumerate(_layouts()):
            spec = build_run_spec(
                {
                    "model": "llama-3.1-8b",
                    "cluster": {"accelerator": "h100-sxm", "nodes": 2},
                    "layout": layout,
                    "training": {"seq_len": 4096, "global_batch_size": 64, "steps": 10, "precision": "bf16"},
                    "site": {"zone": "FRA"},
                }
            )
            deviation = offset + draw.gauss(0, usual.within) + draw.gauss(0, MEASURED_SPREAD)
            rows.append(
                PublishedRow(
                    id=f"synthetic-{number}-{index}", source="synthetic", origin="synthetic", collection="first",
                    accelerator="h100-sxm", framework="ordinary" if population == ORDINARY else "torchtitan",
                    model_key="m", spec=msgspec.structs.replace(spec, stack=stack), measured_step_time_s=deviation,
                )
            )  # fmt: skip
        table = tabulate(rows)
        table = replace(table, prior=table.shipped, prior_factor=np.asarray(table.sheet.framework_factor))
        measured_s = np.asarray(predict(table, table.shipped).total) * np.exp(table.measured_s)
        yield f"synthetic {number}", replace(table, measured_s=measured_s)


def _layouts() -> Iterator[dict[str, object]]:
    for tp in (1, 2, 4, 8):
        for size in (1, 2):
            yield {
                "tp": tp, "dp_shard": 16 // tp, "zero_stage": 3, "micro_batch_size": size, "sequence_parallel": tp > 1,
                "recompute": "operators",
            }  # fmt: skip


def cells(found: Sequence[Learned]) -> str:
    """Return the cells of a line of the table."""
    return " | ".join(f"{one.error:.1f} | {one.inside:.0%} | {one.width:.1f}" for one in found)


def main() -> None:
    """Print one line a cluster and the means by population."""
    heads = " | ".join(f"{count} seen: error, % | inside | p90 / p10" for count in SEEN)
    sys.stdout.write(f"| cluster | rows | {heads} |\n|{'---|' * (2 + 3 * len(SEEN))}\n")
    clusters = [
        (f"{table.rows[0].spec.stack.population} software", name, table) for name, table in published_clusters()
    ]
    for population in ("ordinary", "tuned"):
        clusters += [(f"synthetic, {population}", *found) for found in synthetic_clusters(population)]
    groups: dict[str, list[list[Learned]]] = {}
    with ProcessPoolExecutor() as pool:
        results = pool.map(learned, [table for _, _, table in clusters])
        for (group, name, table), found in zip(clusters, results, strict=True):
            groups.setdefault(group, []).append(found)
            sys.stdout.write(f"| {name} | {table.measured_s.size} | {cells(found)} |\n")
    for name, values in groups.items():
        means = [Learned(*(float(value) for value in column)) for column in np.mean(values, axis=0)]
        worse = [sum(found[index].error > found[0].error + 0.3 for found in values) for index in (1, 2)]
        most = [max(found[index].error - found[0].error for found in values) for index in (1, 2)]
        sys.stdout.write(
            f"| **mean over {len(values)} clusters, {name}** | | {cells(means)} |\n"
            f"worse by more than 0.3 points after {SEEN[1]}: {worse[0]} (at most {most[0]:.1f}), after {SEEN[2]}: "
            f"{worse[1]} (at most {most[1]:.1f})\n"
        )


if __name__ == "__main__":
    main()
