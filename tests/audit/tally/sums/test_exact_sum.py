"""Sums that do not depend on how their terms are grouped."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.audit.tally.sums.exact_sum import ExactSum, total

energies = st.lists(st.floats(0, 1e15, allow_nan=False), max_size=200)


def summed(terms: list[float]) -> ExactSum:
    one = ExactSum()
    for first in range(0, len(terms), 3):
        one.add(terms[first : first + 3])
    return one


@given(energies)
def test_running_sum_is_the_correctly_rounded_sum(terms: list[float]) -> None:
    assert summed(terms).value == math.fsum(terms)


@given(energies, st.integers(1, 7))
def test_total_of_groups_is_the_sum_of_all_terms(terms: list[float], groups: int) -> None:
    parts = [summed(terms[group::groups]) for group in range(groups)]
    assert total(parts) == math.fsum(terms)


def test_small_windows_of_a_long_run_are_not_lost() -> None:
    terms = [1e12] + [1e-6] * 1000
    assert summed(terms).value == math.fsum(terms) != 1e12 + 0.0


def test_sum_beyond_the_range_of_floats_is_infinite() -> None:
    one = summed([1e308] * 20)
    one.add([1.0])
    assert one.value == total([one, summed([1.0])]) == math.inf
