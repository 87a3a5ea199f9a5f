"""Write the rows of the tables of grid intensity from the files that their publishers release.

    python -m tools.rebuild grid_gcp 2026.csv  # takes the new release first, then writes the table

`owid.csv` has the form of Our World in Data's download (Entity, Code, Year, value, whatever the value is called): the
newest year of an area and the one before count, regions without a code do not. The others have a row an area. After a
new release, change what the head of the table says of its year, licence and copy: everything above `areas:` stays as it
is. The tables of eGRID and of Electricity Maps have scripts of their own.
"""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tools" / "sources"
DATA = ROOT / "carbon_plugin" / "footprint" / "factors" / "data"

TABLES = {
    "grid_countries": "owid",
    "grid_gcp": "google",
    "grid_canada": "canada",
    "grid_australia": "australia",
    "grid_china": "china",
}
"""The table and the name of its CSV."""

OWID_CODES = {"OWID_WRL": "WORLD", "OWID_EU27": "EU27", "OWID_KOS": "XKX"}
"""What Our World in Data calls areas that ISO 3166-1 has no code for."""


def written(table: str) -> str:
    """Return the text of a table with the rows of its CSV under its present head."""
    source = SOURCES / f"{TABLES[table]}.csv"
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    head, separator, _ = (DATA / f"{table}.yaml").read_text(encoding="utf-8").partition("\nareas:\n")
    return head + separator + "".join(_owid(rows) if table == "grid_countries" else map(_plain, rows))


def _plain(row: dict[str, str]) -> str:
    return _line(row["code"], row["name"], float(row["g_per_kwh"]), row["year"], row["previous_g_per_kwh"])


def _owid(rows: list[dict[str, str]]) -> list[str]:
    """Return a line an area, with its newest year and the value of the year before it."""
    series: dict[str, dict[int, float]] = {}
    for _, word, year, value in (tuple(row.values())[:4] for row in rows):
        code = OWID_CODES.get(word, word)
        if code:
            series.setdefault(code, {})[int(year)] = float(value)
    lines = []
    for code, years in sorted(series.items()):
        newest = max(years)
        before = years.get(newest - 1)
        lines.append(_line(code, "", years[newest], str(newest), "" if before is None else str(before)))
    return lines


def _line(code: str, name: str, g_per_kwh: float, year: str, previous: str) -> str:
    named = f'name: "{name}", ' if name else ""
    before = f", previous: {float(previous):g}" if previous else ""
    return f"  {code}: {{{named}g_per_kwh: {g_per_kwh:g}, year: {year}{before}}}\n"
