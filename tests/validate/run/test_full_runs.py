"""Device-hours of whole published runs."""

from __future__ import annotations

import pytest

from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.stack import STACKS
from carbon_plugin.validate.run.full_runs import FullRunRow, full_run_rows, full_run_sources, planned_run


@pytest.fixture(scope="module")
def rows() -> dict[str, FullRunRow]:
    return {row.id: row for row in full_run_rows()}


def test_every_row_is_predicted_or_says_what_it_lacks(rows):
    skipped = {row.id: row.skipped for row in rows.values() if row.skipped}

    assert skipped == {"gopher-280b": "layers is not stated"}
    assert len(rows) == 11


def test_a_run_whose_devices_and_layout_are_stated_is_within_the_interval(rows):
    hours = rows["ibm-llama2-7b"].predicted_device_hours

    assert hours is not None
    assert hours.low < 162_000 < hours.high


def test_a_run_that_names_its_framework_is_predicted_in_its_layout_and_software(rows):
    """DeepSeek-V3 as its report describes it: the hours of step and modelled losses, which fit into its devices."""
    row = rows["deepseek-v3"]
    raw = next(raw for raw in full_run_sources() if raw["id"] == "deepseek-v3")
    spec = planned_run(raw, [])

    assert (spec.layout.pipeline_schedule, spec.layout.ep) == ("dualpipe", 64)
    assert spec.stack == STACKS["hai-llm"]
    assert predict_step(spec).memory.fits
    assert row.predicted_device_hours.value == pytest.approx(2.664e6, rel=0.14)


def test_runs_of_unknown_layout_take_longer_than_in_the_best_layout_but_not_twice_as_long(rows):
    searched = [row for row in rows.values() if "512 devices" in row.assumed]

    assert len(searched) == 4
    assert all(0.5 < (row.ratio or 0) < 1 for row in searched)


def test_a_shape_from_memory_has_the_published_number_of_parameters():
    falcon = next(raw for raw in full_run_sources() if raw["id"] == "falcon-180b")

    assert planned_run(falcon, []).model.parameters == pytest.approx(179.5e9, rel=0.01)


def test_what_a_source_leaves_out_is_named(rows):
    assert "512 devices" in rows["llama2-7b"].assumed
    assert "1,760 sequences a step" in rows["mpt-7b"].assumed
    assert any("from memory" in item for item in rows["palm-540b"].assumed)
