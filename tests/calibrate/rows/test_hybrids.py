"""Published rows of models with layers of several kinds: read, predicted, and kept out of every fit."""

from __future__ import annotations

import pytest

from carbon_plugin.calibrate.rows.hybrids import hybrid_groups, without_hybrids
from carbon_plugin.calibrate.rows.published import all_published_rows
from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.rows.table import predict, tabulate


@pytest.fixture(scope="module")
def every() -> list[PublishedRow]:
    return all_published_rows()[0]


def test_hybrid_rows_are_read_and_no_constant_sees_them(every) -> None:
    fitted = {row.id for row in without_hybrids(every)}
    hybrids = [row for group in hybrid_groups(every) for row in group]
    assert len(hybrids) == 14
    assert not fitted & {row.id for row in hybrids}
    assert {row.collection for row in hybrids} == {"hybrids", "seventh", "thirteenth"}
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
