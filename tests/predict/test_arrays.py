"""Functions of values give for one case what numpy gives for an array of that case."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.predict import arrays
from carbon_plugin.predict.arrays import any_of, clip, interpolated, sum_of, values, where
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.flops import step_flops
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=2048, global_batch_size=64, steps=10)
NUMBERS = st.floats(-1e12, 1e12)


@given(st.booleans(), NUMBERS, NUMBERS)
def test_one_case_is_chosen_as_in_an_array(condition: bool, chosen: float, otherwise: float) -> None:
    one = where(np.bool_(condition), values(chosen), values(otherwise))
    many = where(np.array([condition]), np.array([chosen]), np.array([otherwise]))
    assert one == many[0]
    assert np.ndim(one) == 0


@given(NUMBERS, NUMBERS, NUMBERS)
def test_one_case_is_clipped_as_numpy_clips(number: float, low: float, high: float) -> None:
    assert clip(values(number), values(low), values(high)) == np.clip(number, low, high)


def test_a_scalar_chosen_by_an_array_is_spread_over_it() -> None:
    assert where(np.array([True, False]), np.float64(1), np.float64(2)).tolist() == [1, 2]
    assert where(np.bool_(True), np.array([1.0, 2.0]), np.float64(3)).tolist() == [1, 2]


def test_any_of_an_array_and_of_a_scalar() -> None:
    assert any_of(np.array([0.0, 2.0]))
    assert not any_of(np.zeros(3))
    assert any_of(np.float64(0.5))
    assert not any_of(np.float64(0))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
@given(first=NUMBERS, second=NUMBERS)
def test_the_larger_and_the_smaller_of_two_cases_are_those_of_numpy(name: str, first: float, second: float) -> None:
    one = getattr(arrays, name)(values(first), values(second))
    many = getattr(arrays, name)(np.array([first]), values(second))
    assert one == many[0] == getattr(np, name)(first, second)


@pytest.mark.parametrize("name", ["sqrt", "log2", "floor", "ceil"])
@given(number=st.floats(1e-6, 1e12))
def test_functions_of_one_case_are_those_of_numpy(name: str, number: float) -> None:
    one, many = (getattr(arrays, name)(case) for case in (values(number), np.array([number])))
    assert one == pytest.approx(many[0], rel=1e-14)
    assert many[0] == getattr(np, name)(number)


@given(st.floats(0, 20))
def test_between_the_entries_of_a_table_one_case_is_interpolated_as_many_are(number: float) -> None:
    table = np.array([0.0, 1.0, 4.0, 9.0])
    assert interpolated(number, table) == pytest.approx(interpolated(np.array([number]), table)[0])
    assert interpolated(20.0, table) == 9


def test_a_sum_of_cases_is_a_float_and_one_of_arrays_an_array() -> None:
    assert sum_of([1.0, 2.5]) == 3.5
    assert sum_of([1.0, np.array([1.0, 2.0])]).tolist() == [2, 3]
    assert sum_of([]) == 0


def test_a_single_prediction_computes_no_arrays(rates, gpt) -> None:
    """numpy's scalars and arrays of one element make a prediction several times slower, and a step gives the same."""
    case = (shape_of(gpt), layout_of(ParallelLayout(tp=8, dp_shard=8, zero_stage=3)), work_of(PLAN, Stack()))

    found = [*step_time(*case, rates()).terms.values(), *memory_bytes(*case, rates()).values(), *step_flops(*case)]

    assert {type(value) for value in found} == {float}
