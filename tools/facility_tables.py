"""Write the tables of PUE and of water from what providers published of their data centres.

    python -m tools.rebuild pue water  # reads tools/sources/pue.csv and water.csv, writes footprint/factors/data/*.yaml

Each row of a CSV is one published figure of a region, or of a provider's fleet (region `*`): value and range, the words
that the plugin gives as its source, its year, the address of the publisher, where it was read (`read_in`; GSF is the
Green Software Foundation), the words or the row of the table that say it, and the day of reading. A row without that
day was transcribed earlier and not read again. Rows without a provider are of a facility that nobody knows, and of a
desktop computer (region `desktop`). A range that nobody published is an assumption, and its source says so.

For a new year, put the new rows in the place of the old ones. Of the rows of one region the first counts, so that its
own value stands before an average of many. Rows with one source stand together.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tools" / "sources"
DATA = ROOT / "carbon_plugin" / "footprint" / "factors" / "data"

FLEET, ELSEWHERE, DESKTOP = "*", "off-site", "desktop"
NAMES = {
    "aws": "AWS",
    "azure": "Microsoft",
    "gcp": "Google",
    "oci": "Oracle",
    "ovh": "OVHcloud",
    "scaleway": "Scaleway",
}
"""What the prefixes of zones are called. A prefix that is new here is an error of the script."""

PUE_HEAD = """\
# Power usage effectiveness: facility energy over IT energy (kWh/kWh), annual. low and high are p10 and p90.
# Written by tools/facility_tables.py from tools/sources/pue.csv, where each value has its address and what was read.
# site_spread: range of the overhead (PUE - 1) of one site and season around a published annual value, an assumption.
# Of a provider's `regions` the first group that has the region counts: its own value before an average of several.
site_spread: {low: 0.8, high: 1.25}
"""

WATER_HEAD = """\
# Water of data centres and of power generation, liters a kWh; a secondary figure beside carbon.
# Written by tools/facility_tables.py from tools/sources/water.csv, where each value has its address and what was read.
# on_site: water usage effectiveness, liters a kWh of IT energy: the region's where published, else the fleet's average.
# off_site: water of generating a kWh, by country.
# site_spread: p10-p90 range of one site around a fleet or national average, as factors; an assumption (climate and
# kind of cooling move it by far more than the fleet's mean shows). It holds for a region's value too: AWS published
# 0.01 for Frankfurt in 2024 and 0.17 in 2025.
site_spread: {low: 0.3, high: 2.5}
"""

Rows = Sequence[dict[str, str]]


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a source file."""
    with (SOURCES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pue_table(rows: Rows) -> str:
    """Return the YAML text of the table of PUE."""
    nobodys = {row["region"]: row for row in rows if not row["provider"]}
    lines = [PUE_HEAD]
    for name, row in (("unknown", nobodys[""]), (DESKTOP, nobodys[DESKTOP])):
        lines += [f"{name}:\n", *(f"  {key}: {row[key]}\n" for key in ("value", "low", "high"))]
        lines += [f'  source: "{row["source"]}"\n']
    lines += ["providers:\n"]
    lines += _providers([row for row in rows if row["provider"]], named=True)
    return "".join(lines)


def water_table(rows: Rows) -> str:
    """Return the YAML text of the table of water."""
    lines = [WATER_HEAD, "on_site:\n", *_providers([row for row in rows if row["provider"] != ELSEWHERE], named=False)]
    lines.append("off_site:\n")
    lines += [f"  {row['region']}: {_estimate(row)}\n" for row in rows if row["provider"] == ELSEWHERE]
    return "".join(lines)


def _providers(rows: Rows, *, named: bool) -> Iterable[str]:
    for provider in dict.fromkeys(row["provider"] for row in rows):
        own = [row for row in rows if row["provider"] == provider]
        yield f"  {provider}:\n"
        if named:
            yield f"    name: {NAMES[provider]}\n"
        yield f"    fleet: {_estimate(next(row for row in own if row['region'] == FLEET))}\n"
        regions = [row for row in own if row["region"] != FLEET]
        if regions:
            yield "    regions:\n"
        for source in dict.fromkeys(row["source"] for row in regions):
            yield f'      - source: "{source}"\n        values:\n'
            yield from (f"          {row['region']}: {row['value']}\n" for row in regions if row["source"] == source)


def _estimate(row: dict[str, str]) -> str:
    ends = "".join(f", {key}: {row[key]}" for key in ("low", "high") if row[key])
    return f'{{value: {row["value"]}{ends}, source: "{row["source"]}"}}'


TABLES = {"pue": pue_table, "water": water_table}
