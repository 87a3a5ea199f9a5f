"""Write the table of cloud regions from the codes that providers publish and the areas that we match them with.

    python -m tools.rebuild cloud_regions  # reads tools/sources/cloud_regions.csv

A row is a region: its provider and code, the place that the provider names for it, where code and place were read (with
year and address), and the area of the tables that stands for the place. The area is our own matching and no statement
of the provider. For a new region, add a row; a test holds the table against the codes that providers publish.
"""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tools" / "sources" / "cloud_regions.csv"
TABLE = ROOT / "carbon_plugin" / "footprint" / "factors" / "data" / "cloud_regions.yaml"

HEAD = """\
# Which area of the tables stands for a cloud region. Our own mapping by place, an inference and not a statement of the
# provider: a country where its grid is one zone, else a part of it (places.yaml) or a row of a table. Where Google has
# a region in the same grid zone, its published value counts for the others' too, so that one city has one intensity.
# Google regions have a table of their own. Written by tools/region_table.py from tools/sources/cloud_regions.csv, which
# says where each code and its place were read. Crusoe publishes codes without places: a place is that of the data
# centre which its blog names for the country or state of the code, and the whole country where it names none.
"""


def table(source: Path = SOURCE) -> str:
    """Return the YAML text of the table for the regions in a CSV file."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [HEAD]
    for provider in dict.fromkeys(row["provider"] for row in rows):
        lines.append(f"{provider}:\n")
        lines += [_line(row) for row in rows if row["provider"] == provider]
    return "".join(lines)


def _line(row: dict[str, str]) -> str:
    # A colon within a plain scalar of a flow mapping is no part of it in every reader.
    area = f'"{row["area"]}"' if ":" in row["area"] else row["area"]
    return f"  {row['region']}: {{area: {area}, place: {row['place']}}}\n"
