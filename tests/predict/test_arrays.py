"""Choices between values give for one case what numpy gives for an array of that case."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.predict.arrays import any_of, clip, values, where

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
