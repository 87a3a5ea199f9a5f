"""Fronts: nothing in them is beaten, everything outside is, and equals are stood for by the simplest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.plan.search.pareto import STEP, front, not_dominated

amounts = st.floats(0.1, 10.0)
candidates = st.lists(st.tuples(amounts, amounts, st.integers(0, 3).map(float)), min_size=1, max_size=40)


@given(candidates)
def test_no_member_of_a_front_is_beaten_by_another_and_every_candidate_is_met_to_a_step(
    rows: list[tuple[float, float, float]],
) -> None:
    time, energy, complexity = np.array(rows).T
    members = front(time, energy, complexity)
    assert (np.diff(time[members]) > 0).all()
    assert (np.diff(energy[members]) < 0).all()
    slack = 1 + 1.001 * STEP
    for index in range(len(rows)):
        assert ((time[members] <= time[index] * slack) & (energy[members] <= energy[index] * slack)).any()


@given(candidates, st.integers(0, 40))
def test_the_front_of_fronts_is_the_front_of_all(rows: list[tuple[float, float, float]], cut: int) -> None:
    columns = np.array(rows).T
    whole = front(*columns)
    parts = [part for part in (columns[:, :cut], columns[:, cut:]) if part.size]
    kept = np.concatenate([part[:, front(*part)] for part in parts], axis=1)
    assert np.array_equal(kept[:, front(*kept)], columns[:, whole])


def test_of_candidates_within_a_step_the_simplest_stands_for_all() -> None:
    time, energy = np.array([1.0, 1.0001, 1.0002]), np.array([5.0, 5.0001, 5.0001])
    assert front(time, energy, np.array([3.0, 1.0, 2.0])).tolist() == [1]


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=30))
def test_rows_outside_a_front_of_three_objectives_are_beaten_or_met_by_a_member(rows: list[tuple[int, ...]]) -> None:
    points = np.array(rows)
    members = points[not_dominated(points)]
    assert len(np.unique(members, axis=0)) == len(members)
    for point in points:
        assert (members <= point).all(axis=1).any()
    for member in members:
        assert not ((members <= member).all(axis=1) & (members < member).any(axis=1)).any()
