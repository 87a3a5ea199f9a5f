"""Write the table of what countries consume from the yearly values that Electricity Maps publishes.

    python -m tools.rebuild grid_consumption  # reads tools/sources/electricity_maps.csv

For a new year, give it a file with the carbon intensity of each zone (`zone,year,g_per_kwh`: its yearly file, or the
copy of it in CO2.js), and change the head. The values of the year before come from the present file.
"""

from __future__ import annotations

import csv
from pathlib import Path

from carbon_plugin.footprint.factors import tables

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tools" / "sources" / "electricity_maps.csv"
TABLE = ROOT / "carbon_plugin" / "footprint" / "factors" / "data" / "grid_consumption.yaml"

OTHER_ZONES = {"CHL": "CL-SEN"}
"""Countries whose main grid has a code of its own at Electricity Maps; the others go by their alpha-2 code."""

HEAD = """\
# What countries consume: annual average of generation and imports less exports, gCO2e/kWh, traced hour by hour.
# Written by tools/consumption_table.py from tools/sources/electricity_maps.csv. This file and that one are databases
# under the Open Database License (ODbL 1.0); the rest of this package is not. previous = the year before.
source:
  title: "Electricity Maps, yearly values 2025, life cycle, consumption"
  url: https://www.electricitymaps.com/data/methodology
  licence: ODbL-1.0
  attribution: >-
    Electricity Maps (2025), yearly carbon intensity, as republished in CO2.js 0.19.0 of The Green Web Foundation
  basis: {scope: lifecycle, signal: average, boundary: consumption, method: location}
  gwp: "as in the emission factors that Electricity Maps cites (IPCC AR5 and regional studies), 100 years"
  gases: "CO2, CH4 and N2O as CO2e, as those factors count them"
  retrieved: "npm package @tgwf/co2 0.19.0, files yearly_2025 and yearly_2024"
  note: >-
    Beside grid_countries.yaml, which counts what a country generates. The two differ by trade and by method: the
    factors of plants and the estimates of hours without data are not the same.
areas:
"""


def table(source: Path = SOURCE) -> str:
    """Return the YAML text of the table for the values in a CSV file."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = {row["zone"]: row for row in csv.DictReader(file)}
    lines = []
    for code, country in sorted(tables.countries().items()):
        row = rows.get(OTHER_ZONES.get(code) or country.alpha2 or "")
        if row is not None:
            previous = f", previous: {row['previous_g_per_kwh']}" if row["previous_g_per_kwh"] else ""
            lines.append(f"  {code}: {{g_per_kwh: {row['g_per_kwh']}, year: {row['year']}{previous}}}\n")
    return HEAD + "".join(lines)
