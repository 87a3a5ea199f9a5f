"""Published rows of models with layers of several kinds: read, predicted, and kept out of every fit."""

from __future__ import annotations

import pytest

from carbon_plugin.calibrate.rows.hybrids import hybrid_groups, without_hybrids
from carbon_plugin.calibrate.rows.published import all_published_rows
from carbon_plugin.calibrate.rows.rows import PublishedRow, parse_rows
from carbon_plugin.calibrate.rows.table import predict, tabulate


@pytest.fixture(scope="module")
def every() -> list[PublishedRow]:
    return all_published_rows()[0]


def test_hybrid_rows_are_read_and_no_constant_sees_them(every) -> None:
    fitted = {row.id for row in without_hybrids(every)}
    hybrids = [row for group in hybrid_groups(every) for row in group]
    assert len(hybrids) == 48
    assert not fitted & {row.id for row in hybrids}
    collections = {"hybrids", "seventh", "twelfth", "thirteenth", "seventeenth", "twentieth", "twenty_second"}
    assert {row.collection for row in hybrids} == collections
    assert len(fitted) + len(hybrids) == len(every)


@pytest.mark.parametrize(
    ("name", "parameters", "active"),
    [
        ("Nemotron-H 56B", 56.3e9, 56.3e9),
        ("Nemotron 3 Nano 30B-A3B", 31.6e9, 3.6e9),
        ("Nemotron 3 Super 120B-A12B", 120.6e9, 12.7e9),
    ],
)
def test_models_of_hybrid_rows_have_their_published_parameters(every, name, parameters, active) -> None:
    rows = [row for group in hybrid_groups(every) for row in group]
    model = next(row.spec.model for row in rows if row.spec.model.name == name)
    assert model.parameters == pytest.approx(parameters, rel=0.005)
    assert model.active_parameters == pytest.approx(active, rel=0.02)


def test_dense_hybrids_are_predicted_within_a_quarter_although_nothing_was_fitted(every) -> None:
    (group,) = [rows for rows in hybrid_groups(every) if rows[0].source == "nemotronh"]
    table = tabulate(group)
    error = predict(table, table.shipped).total / table.measured_s - 1
    assert len(group) == 7
    assert abs(error).max() < 0.25


def test_a_row_of_an_encoder_and_a_decoder_states_the_length_of_the_input(every) -> None:
    own = next(row.spec.training for row in every if row.id == "rosetta_t5-xl-a100-144")
    assert (own.input_len, own.seq_len) == (512, 128)

    record = {"gpu": "A100-80GB-SXM", "n_gpus": 1, "arch": "t5", "seq_len": 128, "mbs": 8, "framework": "PyTorch"}
    shape = {"model_type": "t5", "d_model": 768, "d_ff": 2048, "d_kv": 64, "num_heads": 12, "num_layers": 12}
    config = {**shape, "vocab_size": 32128}
    _, (skipped,) = parse_rows([{**record, "step_time_s": 1.0}], {"t5": {"config": config}})
    assert skipped.reason == "input_len is not stated"


def test_models_with_the_same_layers_and_other_vocabularies_are_predicted_apart(every) -> None:
    groups = [{row.spec.model.name for row in group} for group in hybrid_groups(every)]
    assert {"T5 3B"} in groups
    assert {"mT5 3B"} in groups
