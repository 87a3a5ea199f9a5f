"""Measure what a few runs of a cluster bring: published clusters, calibrated with 0, 1 and 3 of their rows, on all
others.

`python benchmarks/learning.py` prints a table in Markdown: mean absolute error in percent by how many rows were seen,
mean of three random draws. The shipped constants have seen rows of the fitted sources, so that the first column is
better than a stranger would have it; the sources of ordinary software show the gain best.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np

from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.rows.table import select, tabulate
from carbon_plugin.calibrate.user_fit import calibrated_step_time_s

SEEN = (0, 1, 3)
DRAWS = 3
LEAST_ROWS = 8


def errors(rows: list[PublishedRow], seed: int = 0) -> list[float]:
    """Return the mean absolute error of the rows that were not seen, percent, for each number of rows in `SEEN`."""
    draw = random.Random(seed)
    table = tabulate(rows)
    table = replace(table, prior=table.shipped, prior_factor=np.asarray(table.sheet.framework_factor))
    found = []
    for count in SEEN:
        means = []
        for _ in range(DRAWS if count else 1):
            mask = np.zeros(len(rows), dtype=bool)
            mask[draw.sample(range(len(rows)), count)] = True
            predicted = calibrated_step_time_s(select(table, mask) if count else None, table)
            means.append(np.mean(np.abs(predicted[~mask] / table.measured_s[~mask] - 1)))
        found.append(100 * float(np.mean(means)))
    return found


def main() -> None:
    """Print one line a cluster and the means by population."""
    rows, _ = published_rows()
    groups: dict[tuple[str, str, str], list[PublishedRow]] = {}
    for row in rows:
        groups.setdefault((row.origin, row.accelerator, row.framework), []).append(row)
    lines: dict[str, list[list[float]]] = {"ordinary": [], "tuned": []}
    sys.stdout.write("| cluster | rows | 0 seen | 1 | 3 |\n|---|---|---|---|---|\n")
    for (origin, accelerator, framework), members in groups.items():
        if len(members) < LEAST_ROWS:
            continue
        found = errors(members)
        lines[members[0].spec.stack.population].append(found)
        cells = " | ".join(f"{value:.1f}" for value in found)
        sys.stdout.write(f"| {origin}, {accelerator}, {framework} | {len(members)} | {cells} |\n")
    for population, values in lines.items():
        cells = " | ".join(f"{value:.1f}" for value in np.mean(values, axis=0))
        sys.stdout.write(f"| **mean over {len(values)} clusters, {population} software** | | {cells} |\n")


if __name__ == "__main__":
    main()
