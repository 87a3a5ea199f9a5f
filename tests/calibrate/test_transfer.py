"""How much of the deviation of a few runs is put down to their cluster, which runs in other layouts share."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.table import RowArrays, predict, tabulate
from carbon_plugin.calibrate.transfer import believed_step_time_s, deviation_of_cluster

logs = st.floats(-2.5, 2.5)
spreads = st.floats(0.03, 0.5)


@given(st.lists(logs, min_size=1, max_size=12), spreads, spreads)
def test_the_offset_lies_between_none_and_the_mean_and_one_run_moves_it_by_one_spread(means, between, within) -> None:
    _, offset, spread = deviation_of_cluster(np.array(means), between, within)

    assert abs(offset) <= len(means) * between + 1e-9
    assert min(*means, 0) <= offset <= max(*means, 0)
    assert spread > 0


@given(logs, spreads, spreads, st.integers(1, 20))
def test_more_layouts_that_agree_are_believed_more(mean, between, within, count) -> None:
    few = deviation_of_cluster(np.full(count, mean), between, within).offset
    more = deviation_of_cluster(np.full(count + 1, mean), between, within).offset

    assert abs(more) >= abs(few) - 1e-12


def test_a_deviation_that_layouts_usually_have_is_hardly_carried_over_and_a_large_one_is_in_part() -> None:
    small, large = (deviation_of_cluster(np.array([mean]), 0.3, 0.16).offset for mean in (0.05, 0.4))

    assert small < 0.1 * 0.05
    assert 0.5 * 0.4 < large < 0.4


def test_layouts_that_differ_much_among_themselves_say_less_of_their_cluster() -> None:
    alike, apart = (deviation_of_cluster(np.array(means), 0.3, 0.16).offset for means in ((0.4,) * 3, (0.0, 0.1, 1.1)))

    assert apart < 0.75 * alike


def table_of(slower: tuple[float, ...], layouts: tuple[int, ...]) -> tuple[RowArrays, np.ndarray]:
    """Return rows of one source, `slower` times as slow as predicted, in the layouts of these numbers."""
    source = [row for row in published_rows()[0] if row.source == "llmf-h100"]
    rows = [msgspec.structs.replace(source[number], id=str(index)) for index, number in enumerate(layouts)]
    table = tabulate(rows)
    predicted = np.asarray(predict(table, table.shipped).total)
    return replace(table, measured_s=predicted * np.array(slower)), predicted


def test_several_runs_of_one_layout_count_as_one() -> None:
    table, predicted = table_of((1.3, 1.3, 1.3), (0, 0, 0))
    alone, alone_predicted = table_of((1.3,), (0,))

    (many,), (one,) = believed_step_time_s(table, predicted)[1], believed_step_time_s(alone, alone_predicted)[1]

    assert many.layouts == 1
    assert many.carried == pytest.approx(one.carried)


def test_what_runs_say_of_one_another_stays_as_it_was_measured() -> None:
    table, predicted = table_of((1.1, 1.3, 1.2), (0, 5, 9))

    believed, (carried,) = believed_step_time_s(table, predicted)

    assert np.diff(np.log(believed / table.measured_s)) == pytest.approx(0, abs=1e-12)
    assert 0 < carried.carried < carried.shift == pytest.approx(np.mean(np.log([1.1, 1.3, 1.2])))
