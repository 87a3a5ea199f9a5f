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
from carbon_plugin.calibrate.transfer import (
    CarriedOver,
    ClusterOffset,
    carried_over,
    layouts_of,
    offset_of_cluster,
    row_classes,
)
from carbon_plugin.predict.uncertainty.interval import WHOLE, Effects

logs = st.floats(-2.5, 2.5)
spreads = st.floats(0.03, 0.5)
USUAL = Effects(0.2, 0.3, 0.1, 30)
NONE_KNOWN = 0.0


def offset(*means: float, effects: Effects = USUAL, shared: float = NONE_KNOWN) -> ClusterOffset:
    """Return what layouts tell that have these mean deviations and `shared` as a common spread by constants."""
    return offset_of_cluster(np.array(means), np.full((len(means), len(means)), shared**2), effects)


@given(st.lists(logs, min_size=1, max_size=12), spreads, spreads, spreads)
def test_the_offset_lies_between_none_and_the_mean_and_one_run_moves_it_by_one_spread(
    means, faster, slower, within
) -> None:
    effects = Effects(faster, slower, within, 30)
    found = offset(*means, effects=effects)

    assert abs(found.offset) <= len(means) * effects.between + 1e-9
    assert min(*means, 0) - 0.02 <= found.offset <= max(*means, 0) + 0.02
    assert found.spread > 0
    assert found.uncertain > 0
    assert all(0 <= side <= 1 for side in found.left)


@given(st.floats(-0.9, 0.9), st.floats(0.0, 0.3), spreads, st.floats(0.1, 0.5))
def test_a_run_that_took_longer_never_makes_the_cluster_faster(mean, more, between, share) -> None:
    effects = Effects(between, between, share * between, 30)

    assert offset(mean + more, effects=effects).offset >= offset(mean, effects=effects).offset - 1e-6


@given(st.floats(0.05, 0.6), spreads, st.integers(1, 12))
def test_more_layouts_that_agree_are_believed_more(mean, within, count) -> None:
    few, more = (offset(*[mean] * number, effects=Effects(0.3, 0.3, within, 30)) for number in (count, count + 1))

    assert more.offset >= 0.98 * few.offset  # offsets are looked up at points that lie 7 % apart


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.1, 0.4])
def test_layouts_that_agree_make_the_offset_surer(mean) -> None:
    few, several, many = (offset(*[mean] * count).uncertain for count in (1, 4, 12))

    assert many < several < few


def test_a_deviation_that_layouts_usually_have_is_hardly_carried_over_and_a_large_one_is_for_the_most_part() -> None:
    small, large = (offset(mean, effects=Effects(0.3, 0.5, 0.1, 30)).offset for mean in (0.05, 0.38))

    assert small < 0.2 * 0.05
    assert 0.75 * 0.38 < large <= 0.38


def test_layouts_that_differ_much_among_themselves_say_less_of_their_cluster() -> None:
    alike, apart = offset(0.2, 0.2, 0.2), offset(0.0, 0.05, 0.55)

    assert apart.offset < 0.75 * alike.offset
    assert apart.spread > alike.spread
    assert apart.uncertain > alike.uncertain


def test_what_constants_may_explain_is_not_all_put_down_to_the_cluster() -> None:
    assert offset(0.25, shared=0.2).offset < 0.7 * offset(0.25).offset


def test_a_run_beyond_all_bounds_leaves_the_range_of_a_stranger() -> None:
    assert offset(1.5).left == WHOLE
    assert max(offset(0.02).left[:2]) < 0.5


def table_of(slower: tuple[float, ...], layouts: tuple[int, ...]) -> tuple[RowArrays, np.ndarray]:
    """Return rows of one source, `slower` times as slow as predicted, in the layouts of these numbers."""
    source = [row for row in published_rows()[0] if row.source == "llmf-h100"]
    rows = [msgspec.structs.replace(source[number], id=str(index)) for index, number in enumerate(layouts)]
    table = tabulate(rows)
    predicted = np.asarray(predict(table, table.shipped).total)
    return replace(table, measured_s=predicted * np.array(slower)), predicted


def carried_of(table: RowArrays, predicted: np.ndarray) -> CarriedOver:
    """Return what is put down to the cluster where no constant is in doubt."""
    slopes, noises = np.zeros((predicted.size, 0)), np.zeros(predicted.size)
    (carried,) = carried_over(table, np.log(table.measured_s / predicted), slopes, noises, row_classes(table))
    return carried


@given(logs)
def test_a_class_of_which_no_source_was_faster_still_gives_an_offset(mean) -> None:
    found = offset(mean, effects=Effects(0.0, 0.5, 0.25, 30))

    assert min(0.0, mean) - 0.02 <= found.offset <= max(0.0, mean) + 0.02
    assert all(0 <= side <= 1 for side in found.left)


def test_runs_of_one_layout_in_other_software_are_another_layout() -> None:
    table, _ = table_of((1.3, 1.3), (0, 0))
    eager, other = table.rows
    stack = msgspec.structs.replace(other.spec.stack, fused=not other.spec.stack.fused)
    compiled = msgspec.structs.replace(other, spec=msgspec.structs.replace(other.spec, stack=stack))

    assert layouts_of(tabulate([eager, compiled])).tolist() == [0, 1]


def test_several_runs_of_one_layout_count_as_one() -> None:
    many, one = carried_of(*table_of((1.3,) * 3, (0, 0, 0))), carried_of(*table_of((1.3,), (0,)))
    layouts = carried_of(*table_of((1.3,) * 3, (0, 5, 9)))

    assert (many.layouts, one.layouts, layouts.layouts) == (1, 1, 3)
    assert many.carried == pytest.approx(one.carried)
    assert many.uncertain == pytest.approx(one.uncertain)
    assert layouts.uncertain < many.uncertain


def test_a_longer_run_of_a_layout_is_the_same_layout() -> None:
    table, _ = table_of((1.3, 1.3), (0, 0))
    short, long = table.rows
    training = msgspec.structs.replace(long.spec.training, steps=10**6, tokens=None, kind="benchmark")
    longer = msgspec.structs.replace(long, spec=msgspec.structs.replace(long.spec, training=training))

    assert layouts_of(tabulate([short, longer])).tolist() == [0, 0]
    assert layouts_of(table_of((1.3, 1.3), (0, 5))[0]).tolist() == [0, 1]


def test_a_step_that_is_short_beside_what_ranks_wait_tells_nothing() -> None:
    table, predicted = table_of((1.3,), (0,))
    known = carried_of(table, predicted)
    (unknown,) = carried_over(
        table, np.log(table.measured_s / predicted), np.zeros((1, 0)), np.array([5.0]), row_classes(table)
    )

    assert abs(unknown.carried) < 0.1 * known.carried
    assert unknown.uncertain > 0.95 * unknown.between
