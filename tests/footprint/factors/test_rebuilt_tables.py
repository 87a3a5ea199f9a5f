"""Shipped tables that a script writes from a source file are what the script writes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("tool", ["egrid_table.py", "consumption_table.py", "region_table.py"])
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


@pytest.mark.parametrize("table", ["pue", "water"])
def test_pue_and_water_are_what_the_script_writes(table: str) -> None:
    script = runpy.run_path(str(ROOT / "tools" / "facility_tables.py"))

    text = script["TABLES"][table](script["rows_of"](table))

    assert (script["DATA"] / f"{table}.yaml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("table", ["pue", "water"])
def test_every_published_figure_has_an_address_and_a_year_and_what_was_read_has_a_quotation(table: str) -> None:
    rows = runpy.run_path(str(ROOT / "tools" / "facility_tables.py"))["rows_of"](table)

    assert [row["source"] for row in rows if not row["address"].startswith("https://") or not row["year"]] == []
    read = [row for row in rows if row["read_on"]]
    assert len(read) > 0.8 * len(rows)
    # The figure stands in the words that it was read in.
    assert [row for row in read if f"{float(row['value']):g}" not in _figures(row["quotation"])] == []


def _figures(quotation: str) -> set[str]:
    return {f"{float(number):g}" for number in re.findall(r"\d+\.\d+", quotation)}


def test_the_numbers_of_hardware_profiles_are_those_of_their_source_file() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "hardware_tables.py"))
    rows = script["read_rows"]()

    assert script["collect"](rows) == rows  # no number of a profile lacks a row, and no row lacks its number
    places = script["by_place"](rows)
    texts = {path: path.read_text("utf-8") for path in script["profiles"]()}
    assert [path.name for path, text in texts.items() if text != script["written"](path, places)] == []


def test_a_changed_row_changes_its_number_in_the_profile_and_nothing_else() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "hardware_tables.py"))
    path = next(path for path in script["profiles"]() if path.stem == "h100-sxm")
    rows = script["by_place"](script["read_rows"]())
    changed = {**rows, ("h100-sxm", "tdp_w"): {**rows["h100-sxm", "tdp_w"], "value": "650", "low": "600"}}

    before, after = path.read_text("utf-8").splitlines(), script["written"](path, changed).splitlines()

    different = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert different == [
        (
            "tdp_w: {value: 700, source: epoch, confidence: read}",
            "tdp_w: {value: 650, low: 600, source: epoch, confidence: read}",
        )
    ]
