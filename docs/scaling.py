"""Writes the tables of `scaling.md` between its markers, from `scaling/scaling.csv`. That file and its charts are
written by `carbon-plugin scale --compute 1e21:1e28 --points 8 -o docs/scaling`, which takes some minutes.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from marked_tables import replace_marked, table

from carbon_plugin.spec.numbers.amounts import number, percent

PAGE = Path(__file__).with_name("scaling.md")
POINTS = PAGE.with_name("scaling") / "scaling.csv"
HEADINGS = (
    "FLOP", "loss (p10–p90)", "parameters", "on", "devices", "days", "MFU", "goodput", "tCO2e (p10–p90)", "best case",
    "ideal",
)  # fmt: skip
NAMES = {"v100-sxm2-32gb": "V100", "a100-sxm-80gb": "A100", "h100-sxm": "H100", "b200-sxm": "B200"}
SHOWN = ("h100-sxm", "b200-sxm")
BILLION, TRILLION = 1e9, 1e12

Point = Mapping[str, str]


def points_of(zone: str) -> dict[str, list[Point]]:
    """Return the points of each accelerator in a zone, by rising compute."""
    with POINTS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["zone"] == zone]
    return {name: [row for row in rows if row["accelerator"] == name] for name in NAMES}


def line(point: Point) -> list[str]:
    """Return the cells of a point under `HEADINGS`."""
    parameters = float(point["parameters"])
    size = f"{parameters / TRILLION:.1f} T" if parameters >= TRILLION else f"{number(parameters / BILLION, 2)} B"
    loss = f"{float(point['loss']):.2f} ({float(point['loss_p10']):.2f}–{float(point['loss_p90']):.2f})"
    low, high = (number(float(point[f"total_t_{end}"]), 2) for end in ("p10", "p90"))
    return [
        f"{float(point['compute_flop']):.0e}".replace("+", "") + "*" * bool(point["extrapolated"]),
        loss,
        size,
        NAMES[point["accelerator"]],
        f"{int(point['devices']):,}",
        number(float(point["time_days"]), 2) + "!" * (point["meets_deadline"] == "False"),
        percent(float(point["mfu"]), 0),
        percent(float(point["goodput"]), 0),
        f"{number(float(point['total_t']), 2)} ({low}–{high})",
        number(float(point["best_case_t"]), 2),
        number(float(point["ideal_t"]), 2),
    ]


def growth(points: Sequence[Point]) -> list[str]:
    """Return the growth of carbon from one point to the next, as a power of compute."""
    return [
        f"{math.log10(float(after['total_t']) / float(before['total_t'])):.2f}"
        + "!" * (after["meets_deadline"] == "False")
        for before, after in pairwise(points)
    ]


def write(page: Path = PAGE) -> None:
    """Replace what stands between the markers of each part."""
    found = points_of("WORLD")
    pairs = zip(*(found[name] for name in SHOWN), strict=True)
    steps = [f"{10.0**power:.0e}".replace("+", "") for power in range(22, 29)]
    grown = [[NAMES[name], *growth(found[name]), *[""] * (8 - len(found[name]))] for name in NAMES]
    headings = ["growth of carbon from one point to the next, as a power of compute", *steps]
    parts = {
        "points": table(HEADINGS, [line(point) for pair in pairs for point in pair]),
        "growth": table(headings, grown),
    }
    replace_marked(page, parts)


if __name__ == "__main__":
    write()
    sys.stdout.write(f"wrote {PAGE}\n")
