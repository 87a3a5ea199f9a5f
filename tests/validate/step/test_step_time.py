"""The gate: errors on published rows that the constants never saw stay at or under the floors.

`FLOORS` hold for constants that saw other models of the same source, `HEADLINE_FLOORS` for those that saw nothing of
the source. The figures reached are in docs/validation.md.
"""

from __future__ import annotations

import math
from statistics import fmean, median, stdev

import msgspec
import pytest

from carbon_plugin.plan.search.fullness import SLOWDOWN_AT_LIMIT
from carbon_plugin.predict.uncertainty.interval import EFFECTS, NOT_VALIDATED
from carbon_plugin.validate.step.spreads import FEWEST_BLIND, class_spreads
from carbon_plugin.validate.step.step_time import Validation, validate
from carbon_plugin.validate.step.validated_row import ValidatedRow

FLOORS = {
    "vtrain_multi_node": 10,
    "vtrain_single_node": 10,
    "sc21": 5,
    "korthikanti": 7,
    "llmf-a80": 6,
    "llmf-a40": 6,
    "llmf-h100": 4,
    "simumax": 15,  # its products are slow by its own measurement, and the level is that of all 14 sources; 5.5 before
    "simumax-moe": 6.5,  # 5.8 since the rows of other sources say which of them drop tokens, 5.4 before
    "titan": 12,
    "mbridge": 15,
    "mbridge-moe": 25,
    "nemo2407": 15,
    "dgxc-nemo": 15,
    "dgxc-nemo-moe": 25,
}


HEADLINE_FLOORS = {("first", "dense"): 8, ("first", "mixtures"): 15, ("second", "dense"): 16}
UNKNOWN_FLOORS = {"llmf-h100": 12, "simumax": 20}


pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def result() -> Validation:
    return validate()


@pytest.mark.parametrize("source", FLOORS)
def test_step_time_error_is_under_the_floor(result, source) -> None:
    found = next(item for item in result.summary if item.source == source)
    seen = [abs(row.model_left_out_step_time_s / row.measured_step_time_s - 1) for row in fitted_rows(result, source)]
    assert 100 * sum(seen) / len(seen) <= FLOORS[source]
    assert found.left_out


def fitted_rows(result: Validation, source: str) -> list[ValidatedRow]:
    dense = source.removesuffix("-moe")
    group = dense.removesuffix("-nemo")
    return [
        row
        for row in result.rows
        if row.source == group
        and row.model_left_out_step_time_s is not None
        and row.moe == (dense != source)
        and (group == dense or row.framework == "nemo")
    ]


@pytest.mark.parametrize(("collection", "kind"), HEADLINE_FLOORS)
def test_error_without_the_source_is_under_the_floor(result, collection, kind) -> None:
    found = next(item for item in result.headlines if (item.collection, item.kind) == (collection, kind))
    assert found.source_left_out <= HEADLINE_FLOORS[collection, kind]


def test_the_eighty_percent_interval_holds_at_least_about_that_often_without_the_source(result) -> None:
    """The range counts the blind sets as they were predicted blind. About predictions after the mends it holds more
    often than it says; the next test has no such advantage and bounds it from above too.
    """
    found = next(item for item in result.headlines if (item.collection, item.kind) == ("all", "dense"))
    assert 0.75 <= found.coverage <= 0.95


def test_each_end_of_the_range_is_passed_by_about_a_tenth_with_a_spread_that_never_saw_the_source(result) -> None:
    """Rows of blind sets count as they were predicted blind. A class of a few sources says nothing of the next."""
    spreads = [spread for spread in class_spreads(result.rows) if spread.sources >= FEWEST_BLIND]
    held = {spread.kind: spread.held_blind for spread in spreads}

    assert {"calibrated", "low_precision", "sustained_law", "ordinary", "moe", "moe_ordinary"} == set(held)
    for kind, shares in held.items():
        assert shares is not None
        assert 0.75 <= shares.inside <= 0.9, (kind, shares)
        assert max(shares.below, shares.above) <= 0.125, (kind, shares)


@pytest.mark.exhaustive
def test_the_shipped_spreads_are_those_of_the_residuals_without_the_source(result) -> None:
    found = {item.kind: item.effects for item in class_spreads(result.rows)}
    assert set(found) == set(EFFECTS) - set(NOT_VALIDATED)
    for kind, effects in found.items():
        assert effects == pytest.approx(EFFECTS[kind], abs=2e-3)


def test_a_row_that_told_the_fit_nothing_is_predicted_without_the_rest_of_its_source(result) -> None:
    held = {row.origin for row in result.rows if row.fitted}
    apart = [row for row in result.rows if row.skipped is None and row.fitted is False and row.origin in held]
    assert apart
    assert all(row.left_out_step_time_s is not None for row in apart)


def test_a_source_weighs_the_same_however_many_rows_it_has(result) -> None:
    dense = next(item for item in result.headlines if (item.collection, item.kind) == ("first", "dense"))
    rows = [row for row in result.rows if row.collection == "first" and row.moe is False]
    errors: dict[str, list[float]] = {}
    for row in rows:
        predicted = row.left_out_step_time_s or row.predicted_step_time_s
        errors.setdefault(row.origin, []).append(abs(predicted / row.measured_step_time_s - 1))
    assert dense.sources == len(errors)
    assert dense.rows == len(rows)
    assert dense.source_left_out == pytest.approx(100 * sum(sum(e) / len(e) for e in errors.values()) / len(errors))


def test_tables_of_one_laboratory_are_left_out_together(result) -> None:
    origins = {row.source: row.origin for row in result.rows if row.origin is not None}
    assert origins["vtrain_single_node"] == origins["vtrain_multi_node"] == "vtrain"
    assert origins["llmf-a80"] == origins["llmf-h100"] == "llmf"
    assert origins["mlm"] != origins["mlm2020"]


def test_the_error_by_cluster_of_near_linear_rows_is_under_the_floor(result) -> None:
    (clusters,) = result.clusters
    assert clusters.n == 54
    assert clusters.left_out
    assert clusters.model_left_out_mape <= 10


@pytest.mark.parametrize("source", UNKNOWN_FLOORS)
def test_a_device_that_nobody_calibrated_is_predicted_under_the_floor(result, source) -> None:
    rows = [row for row in result.rows if row.source == source]
    errors = [abs(row.unknown_device_step_time_s / row.measured_step_time_s - 1) for row in rows]
    assert 100 * sum(errors) / len(errors) <= UNKNOWN_FLOORS[source]


def test_no_row_of_the_reference_family_is_predicted_as_unknown(result) -> None:
    assert all(row.unknown_device_step_time_s is None for row in result.rows if row.source.startswith("vtrain"))


def test_memory_error_is_under_the_floor_where_it_was_measured(result) -> None:
    fitted = [item for item in result.memory if item.source in ("simumax", "titan")]
    assert {item.source: item.n for item in fitted} == {"simumax": 43, "titan": 20}
    assert all(item.mape <= 8 for item in fitted)


def test_layouts_are_ranked_as_measured_and_the_pick_costs_little(result) -> None:
    found = {item.source: item for item in result.layouts}
    assert found["vtrain_multi_node"].regret <= 3
    assert found["vtrain_multi_node"].spearman >= 0.8
    assert found["vtrain_single_node"].regret <= 5
    assert found["vtrain_single_node"].spearman >= 0.9
    assert all(choice.regret >= 0 for choice in result.choices)


def test_rows_that_fill_their_memory_lose_what_the_rule_says_within_two_standard_errors(result) -> None:
    fills = {row.id: row.need_bytes / row.capacity_bytes for row in result.memory_rows}
    losses: dict[str, dict[bool, list[float]]] = {}
    for row in result.rows:
        fill = fills.get(row.id, 0.9)
        if row.skipped is None and not 0.85 < fill < 0.95:
            predicted_s = row.left_out_step_time_s or row.predicted_step_time_s
            apart = losses.setdefault(row.source, {True: [], False: []})
            apart[fill >= 0.95].append(math.log(row.measured_step_time_s / predicted_s))
    means = [fmean(apart[True]) - median(apart[False]) for apart in losses.values() if all(apart.values())]

    assert len(means) > 30
    assert abs(fmean(means) - SLOWDOWN_AT_LIMIT) < 2 * stdev(means) / math.sqrt(len(means))


def test_the_model_beats_every_baseline_on_the_mean_over_sources(result) -> None:
    dense = next(item for item in result.headlines if (item.collection, item.kind) == ("first", "dense"))
    assert dense.source_left_out < 0.5 * min(dense.baseline_mape.values())


def test_a_file_of_the_users_is_predicted_with_the_shipped_constants(tmp_path) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(
        "rows:\n- {id: mine-1, kind: benchmark, arch: llama3_8b, seq_len: 8192, precision: bf16, gpu: H800-80GB-SXM, "
        "n_gpus: 8, tp: 1, pp: 1, sharding: FSDP, mbs: 1, gbs: 8, framework: mystery, step_time_s: 1.2}\n"
        "- {id: mine-2, kind: benchmark, arch: llama3_8b, gpu: H100}\n"
    )
    result = validate(path)
    row, skipped = result.rows
    assert row.fitted is False
    assert row.unknown_device_step_time_s is None
    assert row.left_out_step_time_s is None
    assert row.low_s is not None
    assert row.predicted_step_time_s is not None
    assert row.high_s is not None
    assert row.low_s < row.predicted_step_time_s < row.high_s
    assert set(row.baselines) == {"llmcarbon", "constant_mfu", "6nd_40"}
    assert skipped.skipped
    assert msgspec.json.decode(msgspec.json.encode(result), type=Validation) == result
