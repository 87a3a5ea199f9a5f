"""Measure what a few runs of a cluster bring: published clusters, calibrated with 0, 1 and 3 of their rows, on all
others.

`python benchmarks/learning.py` prints a table in Markdown by how many rows were seen, mean of three random draws: the
mean absolute error in percent, how many of the rows that were not seen lie inside the 80 % range, and p90 over p10 of
that range. The shipped constants have seen rows of the fitted sources, so that the first column is better than a
stranger would have it; the sources of ordinary software show the gain best.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.rows.table import predict, select, tabulate
from carbon_plugin.calibrate.user_fit import calibrated_step_time_s
from carbon_plugin.predict.uncertainty.interval import accuracy_class, spread_of

SEEN = (0, 1, 3)
DRAWS = 3
LEAST_ROWS = 8


class Learned(NamedTuple):
    """The mean absolute error in percent, the share of rows inside the range, and p90 over p10 of the range."""

    error: float
    inside: float
    width: float


def learned(rows: list[PublishedRow], seed: int = 0) -> list[Learned]:
    """Return what is known of the rows that were not seen, for each number of rows in `SEEN`."""
    draw = random.Random(seed)
    table = tabulate(rows)
    table = replace(table, prior=table.shipped, prior_factor=np.asarray(table.sheet.framework_factor))
    step = predict(table, table.shipped)
    host = np.asarray(step.terms["host"]) / np.asarray(step.total)
    kinds = [
        accuracy_class(spec.model, spec.cluster.accelerator, spec.training.precision, spec.stack, float(share))
        for spec, share in zip((row.spec for row in rows), host, strict=True)
    ]
    found = []
    for count in SEEN:
        spreads = [spread_of(kind, own_rows=count) for kind in kinds]
        low, high = (np.array([getattr(spread, end) for spread in spreads]) for end in ("p10", "p90"))
        draws = []
        for _ in range(DRAWS if count else 1):
            mask = np.zeros(len(rows), dtype=bool)
            mask[draw.sample(range(len(rows)), count)] = True
            ratio = calibrated_step_time_s(select(table, mask) if count else None, table) / table.measured_s
            inside = (ratio * low <= 1) & (ratio * high >= 1)
            draws.append(
                (100 * np.mean(np.abs(ratio[~mask] - 1)), np.mean(inside[~mask]), np.mean((high / low)[~mask]))
            )
        found.append(Learned(*(float(value) for value in np.mean(draws, axis=0))))
    return found


def cells(found: list[Learned]) -> str:
    """Return the cells of a line of the table."""
    return " | ".join(f"{one.error:.1f} | {one.inside:.0%} | {one.width:.1f}" for one in found)


def main() -> None:
    """Print one line a cluster and the means by population."""
    rows, _ = published_rows()
    groups: dict[tuple[str, str, str], list[PublishedRow]] = {}
    for row in rows:
        groups.setdefault((row.origin, row.accelerator, row.framework), []).append(row)
    lines: dict[str, list[list[Learned]]] = {"ordinary": [], "tuned": []}
    heads = " | ".join(f"{count} seen: error, % | inside | p90 / p10" for count in SEEN)
    sys.stdout.write(f"| cluster | rows | {heads} |\n|{'---|' * (2 + 3 * len(SEEN))}\n")
    for (origin, accelerator, framework), members in groups.items():
        if len(members) < LEAST_ROWS:
            continue
        found = learned(members)
        lines[members[0].spec.stack.population].append(found)
        sys.stdout.write(f"| {origin}, {accelerator}, {framework} | {len(members)} | {cells(found)} |\n")
    for population, values in lines.items():
        means = [Learned(*(float(value) for value in column)) for column in np.mean(values, axis=0)]
        sys.stdout.write(f"| **mean over {len(values)} clusters, {population} software** | | {cells(means)} |\n")


if __name__ == "__main__":
    main()
