"""Published energy and carbon: every row is predicted or says why not, counted as its source counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from carbon_plugin.cli.main import run
from carbon_plugin.cli.tables.validate_carbon import lines_of
from carbon_plugin.cli.tables.validate_power import power_lines
from carbon_plugin.validate.hardware.power import validate_power
from carbon_plugin.validate.run.carbon import CarbonRow, carbon_rows, coverage
from carbon_plugin.validate.run.carbon_rows import carbon_setups, carbon_sources

PAGE = Path(__file__).resolve().parents[3] / "docs" / "carbon_validation.md"


@pytest.fixture(scope="module")
def rows() -> list[CarbonRow]:
    return carbon_rows()


def test_every_published_row_is_predicted_or_says_why_not(rows: list[CarbonRow]) -> None:
    assert {source.id for source in carbon_sources()} == set(carbon_setups())
    for row in rows:
        assert row.source
        compared = (row.device_hours, row.energy_mwh, row.carbon_t)
        assert (row.skipped is None) == any(item is not None for item in compared), row.id
        assert row.skipped is None or not row.skipped.startswith("setup of"), row.skipped


def test_shapes_that_a_row_leaves_out_have_its_number_of_parameters() -> None:
    from carbon_plugin.spec.loading import build_run_spec

    published = {"llama1-t15-llama-33b": 32.5e9, "llama1-t15-llama-65b": 65.2e9, "llama2-34b": 34e9}
    published |= {"olmo1-7b-mi250x": 6.9e9, "starcoderbase-15b": 15.5e9, "xlm": 0.55e9}
    published |= {row.id: row.params_b * 1e9 for row in carbon_sources() if row.set == "second" and row.params_b}
    for name, parameters in published.items():
        setup = carbon_setups()[name]
        assert setup.run is not None
        spec = build_run_spec({"site": {"zone": "USA"}, **setup.run})
        assert spec.model.parameters == pytest.approx(parameters, rel=0.02), name


def test_prediction_is_counted_as_the_source_counts(rows: list[CarbonRow]) -> None:
    by_id = {row.id: row for row in rows}
    olmo = by_id["olmo2-7b"]
    assert olmo.energy_mwh is not None
    assert olmo.carbon_t is not None
    assert olmo.with_everything_t is not None
    assert (olmo.energy_counts, olmo.carbon_counts) == ("gpu", "gpu_pue")
    # PUE 1.2 and 332 g/kWh are the source's
    assert olmo.carbon_t.predicted.value == pytest.approx(olmo.energy_mwh.predicted.value * 1.2 * 0.332)
    assert olmo.with_everything_t.value > olmo.carbon_t.predicted.value
    llama = by_id["llama1-t15-llama-7b"]
    assert llama.energy_mwh is not None
    assert llama.device_hours is not None
    assert llama.energy_mwh.predicted.value < llama.device_hours.predicted.value * 400 * 1.1 / 1e6  # TDP x PUE


def test_predictions_are_of_the_published_size_without_any_fit(rows: list[CarbonRow]) -> None:
    measured = [row.energy_mwh.ratio for row in rows if row.energy_mwh and not row.circular]
    assert len(measured) == 6
    assert all(0.3 < ratio < 2 for ratio in measured)


def test_the_range_of_a_real_run_holds_seventy_percent_of_published_values_also_without_their_source(
    rows: list[CarbonRow],
) -> None:
    found = {item.quantity: item for item in coverage(rows)}

    assert set(found) == {"device_hours", "energy_mwh", "carbon_t"}
    assert all(item.rows >= 19 for item in found.values())
    assert all(item.inside >= 0.7 and item.blind_inside >= 0.7 for item in found.values())


def test_circular_rows_have_a_table_of_their_own(rows: list[CarbonRow]) -> None:
    first, second = (lines_of(rows, circular=circular) for circular in (False, True))
    assert not {line[0] for line in first} & {line[0] for line in second}
    assert "olmo2-7b" in {line[0] for line in first}
    assert "opt-175b" in {line[0] for line in second}


def test_llmcarbon_stands_beside_where_it_has_a_number(rows: list[CarbonRow]) -> None:
    ratios = {row.id: row.llmcarbon_ratio for row in rows if row.llmcarbon_t is not None}
    assert set(ratios) == {"patterson-t5-11b", "patterson-switch-1500b", "patterson-gpt3-175b", "xlm"}
    # arXiv 2309.14393, within 8.2 % on its own rows
    assert all(ratio is not None and abs(ratio - 1) < 0.083 for ratio in ratios.values())


def test_page_has_every_row(rows: list[CarbonRow]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    predicted = {line[0] for circular in (False, True) for line in lines_of(rows, circular=circular)}
    predicted |= {line[0] for line in power_lines(validate_power())}
    found = set(re.findall(r"^\| ([a-z0-9.-]+) \|", page, re.MULTILINE))
    assert found - {"run", "measured", "---"} == predicted, "run `make docs`"
    for row in rows:
        assert f"`{row.id}`: " in page, "run `make docs`"


def test_command_prints_both_tables_and_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--carbon"]) == 0
    printed = capsys.readouterr().out
    assert "circular: the published energy" in printed
    assert "lamda-137b: no profile of TPU v3" in printed
    assert run(["validate", "--carbon", "--records", "mine.yaml"]) == 2
