"""Write the table of US eGRID subregions from the rates that the EPA publishes.

    python -m tools.rebuild grid_egrid  # reads tools/sources/egrid.csv

For a new release, give it a file with the total output emission rates (lb/MWh, table 6 of the Emission Factors Hub or
table 1 of the summary tables of eGRID) in the columns of the present one, and change the head. What the present one
says becomes the year before.
"""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tools" / "sources" / "egrid.csv"
TABLE = ROOT / "carbon_plugin" / "footprint" / "factors" / "data" / "grid_egrid.yaml"

G_PER_KWH_OF_LB_PER_MWH = 0.45359237
GWP_CH4, GWP_N2O = 27, 273
"""Global warming potentials over 100 years of methane and nitrous oxide, IPCC AR6, as the Hub of 2026 uses them."""

HEAD = """\
# Output emission rate of US eGRID subregions: annual average, gCO2e/kWh generated (published in lb/MWh).
# Written by tools/egrid_table.py from tools/sources/egrid.csv. previous = the same row of eGRID2023, revision 2.
source:
  title: "US EPA eGRID2024, total output emission rates (Emission Factors Hub of 26 May 2026, table 6)"
  url: https://www.epa.gov/climateleadership/ghg-emission-factors-hub
  licence: public domain (US federal work)
  attribution: "US EPA, Emissions & Generation Resource Integrated Database (eGRID2024), Emission Factors Hub 2026"
  basis: {scope: direct, signal: average, boundary: generation, method: location}
  gwp: "IPCC AR6, 100 years (CH4 27, N2O 273)"
  gases: "CO2, CH4 and N2O"
  retrieved: >-
    a public transcription of table 6; SRVC, NWPP, SPNO, NYUP and the US average were checked against a second reading
  note: >-
    Stack emissions of generation inside the subregion, not lifecycle: CO2, CH4 and N2O with the potentials of AR6
    (27 and 273). At the meter divide by 1 - 0.044 (US gross grid loss); not applied here.
areas:
"""


def g_per_kwh(co2_lb: float, ch4_lb: float, n2o_lb: float) -> float:
    """Return gCO2e/kWh of emission rates in lb/MWh."""
    return (co2_lb + ch4_lb * GWP_CH4 + n2o_lb * GWP_N2O) * G_PER_KWH_OF_LB_PER_MWH


def g_per_kwh_of(row: dict[str, str]) -> float:
    """Return gCO2e/kWh of a row of the source file, to a tenth of a gram."""
    return round(g_per_kwh(*(float(row[f"{gas}_lb_per_mwh"]) for gas in ("co2", "ch4", "n2o"))), 1)


def table(source: Path = SOURCE) -> str:
    """Return the YAML text of the table for the rates in a CSV file."""
    lines = []
    with source.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            value, previous = g_per_kwh_of(row), float(row["previous_g_per_kwh"])
            name = f'{row["subregion"]}: {{name: "{row["name"]}", g_per_kwh: {value:g}, year: {row["year"]}'
            lines.append(f"  {name}, previous: {previous:g}}}\n")
    return HEAD + "".join(lines)
