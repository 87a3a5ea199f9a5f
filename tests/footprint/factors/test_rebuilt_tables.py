"""Shipped tables that a script writes from a source file are what the script writes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("tool", ["egrid_table.py", "consumption_table.py"])
def test_a_table_is_what_its_script_writes(tool: str) -> None:
    script = runpy.run_path(str(ROOT / "tools" / tool))

    assert script["TABLE"].read_text(encoding="utf-8") == script["table"]()


def test_rates_of_three_gases_become_one_intensity() -> None:
    """SRVC of eGRID2024: 637.4 lb CO2, 0.047 lb CH4 and 0.007 lb N2O a MWh."""
    script = runpy.run_path(str(ROOT / "tools" / "egrid_table.py"))

    assert script["g_per_kwh"](637.4, 0.047, 0.007) == pytest.approx(289.12 + 0.576 + 0.867, abs=0.01)


@pytest.mark.parametrize("table", ["grid_countries", "grid_gcp", "grid_canada", "grid_australia", "grid_china"])
def test_the_rows_of_a_table_are_those_of_its_source_file(table: str) -> None:
    script = runpy.run_path(str(ROOT / "tools" / "grid_tables.py"))

    assert (script["DATA"] / f"{table}.yaml").read_text(encoding="utf-8") == script["written"](table)


def test_a_whole_download_of_our_world_in_data_is_read_for_the_newest_year_of_each_area() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "grid_tables.py"))
    rows = [
        {"Entity": entity, "Code": code, "Year": year, "Carbon intensity of electricity": value}
        for entity, code, year, value in (
            ("World", "OWID_WRL", "2024", "470.5"),
            ("World", "OWID_WRL", "2025", "458.3"),
            ("Asia", "", "2025", "560.1"),
            ("France", "FRA", "2023", "56.04"),
            ("France", "FRA", "2025", "41.44"),
        )
    ]

    assert script["_owid"](rows) == [
        "  FRA: {g_per_kwh: 41.44, year: 2025}\n",
        "  WORLD: {g_per_kwh: 458.3, year: 2025, previous: 470.5}\n",
    ]
