"""Shipped tables are what their commands write from the source files, and a new release is one command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import egrid_table, facility_tables, grid_tables, hardware_tables, rebuild, release, server_table

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("table", rebuild.TABLES)
def test_a_table_is_what_its_source_file_gives(table: str) -> None:
    assert rebuild.differing(rebuild.texts_of([table])) == []


def test_the_page_of_tables_names_every_shipped_file_of_data() -> None:
    page = rebuild.PAGE.read_text(encoding="utf-8")
    shipped = {path.stem for path in (ROOT / "carbon_plugin" / "footprint" / "factors" / "data").glob("*.yaml")}

    assert [name for name in sorted(shipped) if f"`{name}`" not in page and f"`{name}.yaml`" not in page] == []


def test_a_changed_table_is_named_and_then_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("old\n", encoding="utf-8")
    table = rebuild.TABLES["grid_gcp"]._replace(texts=lambda: {path: "new\n"})
    monkeypatch.setattr(rebuild, "ROOT", tmp_path)
    monkeypatch.setattr(rebuild, "TABLES", {"grid_gcp": table})
    monkeypatch.setattr(rebuild, "PAGE", tmp_path / "page.md")
    rebuild.PAGE.write_text("", encoding="utf-8")

    assert rebuild.main(["--check"]) == 1
    assert "table.yaml" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == "old\n"
    assert rebuild.main(["grid_gcp"]) == 0
    assert path.read_text(encoding="utf-8") == "new\n"
    assert rebuild.main(["--check"]) == 0


@pytest.fixture
def google(tmp_path: Path) -> Path:
    """Return a file of Google's for the year after the present one, with one region that is new."""
    path = tmp_path / "2026.csv"
    path.write_text(
        "Google Cloud Region,Location,Google CFE,Grid carbon intensity (gCO2eq / kWh)\n"
        "asia-east1,Taiwan,0.2,400.5\neurope-north9,N/A,1,12\n",
        encoding="utf-8",
    )
    return path


def test_the_file_of_a_publisher_becomes_the_source_with_the_present_values_as_the_year_before(google: Path) -> None:
    text = release.adopted("google", google, rebuild.SOURCES / "google.csv")

    assert text.splitlines() == [
        "code,name,year,g_per_kwh,previous_g_per_kwh",
        "asia-east1,Taiwan,2026,400.5,427.95",
        "europe-north9,,2026,12,",
    ]


@pytest.mark.parametrize(("year", "previous"), [("2025", "439.29"), ("2027", "")])
def test_a_correction_keeps_the_year_before_and_a_gap_has_none(google: Path, year: str, previous: str) -> None:
    file = google.rename(google.with_name(f"{year}.csv"))

    text = release.adopted("google", file, rebuild.SOURCES / "google.csv")

    assert text.splitlines()[1] == f"asia-east1,Taiwan,{year},400.5,{previous}"


def test_the_year_before_of_a_subregion_is_the_sum_of_its_gases(tmp_path: Path) -> None:
    file = tmp_path / "egrid2025.csv"
    file.write_text("subregion,name,co2_lb_per_mwh,ch4_lb_per_mwh,n2o_lb_per_mwh\nSRVC,x,600,0.04,0.006\n", "utf-8")

    row = release.adopted("egrid", file, rebuild.SOURCES / "egrid.csv").splitlines()[1]

    assert row == "SRVC,x,2025,600,0.04,0.006,290.6"


def test_a_release_with_other_columns_or_without_a_year_is_refused_in_one_sentence(google: Path, capsys) -> None:
    other = google.with_name("other.csv")
    other.write_text("region,value\nasia-east1,3\n", encoding="utf-8")
    nameless = google.rename(google.with_name("newest.csv"))

    for file, words in ((other, ("code", "g_per_kwh", "google.csv")), (nameless, ("year", "2026.csv"))):
        assert rebuild.main(["grid_gcp", str(file)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert all(word in said for word in (str(file), *words))


def test_a_release_of_a_table_of_several_sources_has_to_name_one(tmp_path: Path, capsys) -> None:
    file = tmp_path / "2026.csv"
    file.write_text("name,kg\n", encoding="utf-8")

    assert rebuild.main(["embodied_servers", str(file)]) == 2
    assert "hpe_servers.csv" in capsys.readouterr().err


def test_of_a_whole_collection_of_footprints_the_servers_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rebuild, "SOURCES", tmp_path)
    present, release_file = tmp_path / "boavizta_servers.csv", tmp_path / "boavizta-data-us.csv"
    present.write_text("manufacturer,name,subcategory,gwp_total\nDell,R1,Server,9\n", encoding="utf-8")
    release_file.write_text(
        "manufacturer,name,subcategory,gwp_total,added_date\nDell,R1,Server,9,x\nDell,P22,Monitor,5,x\nDell,R2,Server,8,x\n",
        encoding="utf-8",
    )

    rebuild.take("embodied_servers", release_file)

    assert present.read_text("utf-8").splitlines()[1:] == ["Dell,R1,Server,9", "Dell,R2,Server,8"]


def test_a_whole_download_of_our_world_in_data_is_kept_for_the_newest_two_years(tmp_path: Path) -> None:
    file = tmp_path / "carbon-intensity-electricity.csv"
    file.write_text(
        "Entity,Code,Year,Carbon intensity\nAsia,,2025,560\n"
        "France,FRA,2023,56\nFrance,FRA,2024,42\nFrance,FRA,2025,41\n",
        encoding="utf-8",
    )

    text = release.adopted("owid", file, rebuild.SOURCES / "owid.csv")

    assert text.splitlines() == ["Entity,Code,Year,g_per_kwh", "France,FRA,2024,42", "France,FRA,2025,41"]


@pytest.mark.parametrize("share", ["15.20%", "0.1520"])
def test_a_server_is_read_from_either_version_of_the_collection(share: str) -> None:
    row = {
        "manufacturer": "Dell", "name": "PowerEdge R740", "subcategory": "Server", "report_date": "January 2019",
        "gwp_total": "8640", "gwp_manufacturing_ratio": share, "server_type": "Rack", "memory": "32", "number_cpu": "2",
        "hard_drive": "x2 300GB 2.5in HDD  x1 1TB 2.5in HDD x2 480GB 2.5in SSD",
    }  # fmt: skip

    assert server_table.dell_servers([row], "2019") == {
        "Dell PowerEdge R740": {"kg": "1313", "sockets": "2", "dram_gb": "32", "ssd_gb": "960", "disks": "3"}
    }
    assert server_table.dell_servers([{**row, "server_type": "Blade"}], "2019") == {}


def test_rates_of_three_gases_become_one_intensity() -> None:
    """SRVC of eGRID2024: 637.4 lb CO2, 0.047 lb CH4 and 0.007 lb N2O a MWh."""
    assert egrid_table.g_per_kwh(637.4, 0.047, 0.007) == pytest.approx(289.12 + 0.576 + 0.867, abs=0.01)


def test_a_whole_download_of_our_world_in_data_is_read_for_the_newest_year_of_each_area() -> None:
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

    assert grid_tables._owid(rows) == [
        "  FRA: {g_per_kwh: 41.44, year: 2025}\n",
        "  WORLD: {g_per_kwh: 458.3, year: 2025, previous: 470.5}\n",
    ]


@pytest.mark.parametrize("table", ["pue", "water"])
def test_every_published_figure_has_an_address_and_a_year_and_what_was_read_has_a_quotation(table: str) -> None:
    rows = facility_tables.rows_of(table)

    assert [row["source"] for row in rows if not row["address"].startswith("https://") or not row["year"]] == []
    read = [row for row in rows if row["read_on"]]
    assert len(read) > 0.8 * len(rows)
    # The figure stands in the words that it was read in.
    assert [row for row in read if f"{float(row['value']):g}" not in _figures(row["quotation"])] == []


def _figures(quotation: str) -> set[str]:
    return {f"{float(number):g}" for number in re.findall(r"\d+\.\d+", quotation)}


def test_no_number_of_a_hardware_profile_lacks_a_row_and_no_row_its_number() -> None:
    rows = hardware_tables.read_rows()

    assert hardware_tables.collect(rows) == rows


def test_what_was_read_has_an_address_and_fewer_numbers_than_before_are_from_memory() -> None:
    rows = hardware_tables.read_rows()

    quoted = [row for row in rows if row["quotation"]]
    assert len(quoted) > 180
    assert [row for row in quoted if not row["address"].startswith("https://")] == []
    assert sum(row["confidence"] == "memory" for row in rows) <= 101  # 333 when the rows were first collected


def test_a_source_of_a_profile_has_one_name() -> None:
    names: dict[tuple[str, str], set[str]] = {}
    for row in hardware_tables.read_rows():
        names.setdefault((row["profile"], row["source"]), set()).add(row["published"])

    assert [place for place, words in names.items() if len(words) > 1] == []


def test_the_sources_of_a_profile_are_those_of_its_numbers() -> None:
    path = next(path for path in hardware_tables.profiles() if path.stem == "a30")
    rows = hardware_tables.by_place(hardware_tables.read_rows())
    other = {"source": "new-sheet", "published": "a newer data sheet"}
    changed = {place: row | other if row["source"] == "a30-sheet" else row for place, row in rows.items()}

    text = hardware_tables.written(path, changed)

    assert '  new-sheet: "a newer data sheet"\n' in text
    assert "a30-sheet" not in text
    assert "  calibration: " in text


def test_a_changed_row_changes_its_number_in_the_profile_and_nothing_else() -> None:
    path = next(path for path in hardware_tables.profiles() if path.stem == "h100-sxm")
    rows = hardware_tables.by_place(hardware_tables.read_rows())
    changed = {**rows, ("h100-sxm", "tdp_w"): {**rows["h100-sxm", "tdp_w"], "value": "650", "low": "600"}}

    before, after = path.read_text("utf-8").splitlines(), hardware_tables.written(path, changed).splitlines()

    different = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert different == [
        (
            "tdp_w: {value: 700, source: epoch, confidence: read}",
            "tdp_w: {value: 650, low: 600, source: epoch, confidence: read}",
        )
    ]
