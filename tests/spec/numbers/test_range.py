"""The arithmetic of numbers with a range, on generated ranges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.range import ZERO, Range

amounts = st.floats(0.0, 1e12)
fractions = st.floats(0.0, 1.0)


@st.composite
def ranges(draw: st.DrawFn, numbers: st.SearchStrategy[float] = amounts) -> Range:
    low, value, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    return Range(value, low, high)


def is_ordered(number: Range) -> bool:
    return number.low <= number.value <= number.high


@given(ranges(), ranges(), ranges(fractions), amounts)
def test_every_operation_keeps_the_value_within_its_range(one: Range, other: Range, share: Range, known: float) -> None:
    assert is_ordered(one.plus(other))
    assert is_ordered(one.scaled(known))
    assert is_ordered(one.times(share))
    assert is_ordered(one.less(known))
    assert is_ordered(one.at_least(other))
    assert is_ordered(one.widened(known))
    assert is_ordered(Range.total([one, other, share]))
    assert is_ordered(one.since(other).ordered())


@given(ranges(), ranges())
def test_what_a_sum_gained_is_what_was_added(one: Range, added: Range) -> None:
    gained = one.plus(added).since(one)
    for name in Range.__struct_fields__:
        assert getattr(gained, name) == pytest.approx(getattr(added, name), rel=1e-9, abs=1e-3)


@given(st.lists(ranges(), max_size=8), st.randoms())
def test_order_of_the_terms_does_not_change_a_total(terms: list[Range], random: object) -> None:
    shuffled = list(terms)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Range.total(shuffled) == Range.total(terms)


@given(ranges())
def test_nothing_added_or_everything_kept_changes_nothing(one: Range) -> None:
    assert one.plus(ZERO) == one
    assert one.since(ZERO) == one
    assert one.scaled(1.0) == one
    assert one.less(0.0) == one
    assert one.widened(one.value) == one.ordered() == one
    assert one.towards(ZERO, 0.0) == one
    assert one.less_independent(ZERO).value == one.value
    assert Range.total([]) == ZERO


@given(ranges(), ranges())
def test_independent_errors_give_a_narrower_range_than_errors_that_go_against_each_other(
    whole: Range, part: Range
) -> None:
    rest = whole.less_independent(part)
    slack = 1e-9 * (whole.high + part.high) + 1e-9
    assert rest.value == whole.value - part.value
    assert max(0.0, whole.low - part.high) - slack <= max(0.0, rest.low)
    assert rest.high <= whole.high - part.low + slack
    assert rest.high >= rest.value
    assert rest.low <= max(0.0, rest.value)


def test_independent_errors_are_added_in_quadrature() -> None:
    assert Range(100.0, 97.0, 103.0).less_independent(Range(40.0, 36.0, 44.0)) == Range(60.0, 55.0, 65.0)


def test_rest_beside_a_known_part_is_never_below_nothing() -> None:
    assert Range(10.0, 5.0, 20.0).less(8.0) == Range(2.0, 0.0, 12.0)


def test_end_that_is_not_stated_or_on_the_wrong_side_is_the_value() -> None:
    assert Range.of(5.0, None, 7.0) == Range(5.0, 5.0, 7.0)
    assert Range.of(5.0, 6.0, 4.0) == Range.exactly(5.0)


def test_point_between_two_numbers_lies_between_them_end_by_end() -> None:
    assert Range(0.0, 0.0, 0.0).towards(Range(10.0, 8.0, 14.0), 0.5) == Range(5.0, 4.0, 7.0)


@given(ranges())
def test_figure_holds_the_same_numbers_as_its_range(number: Range) -> None:
    figure = Figure.of(number, "J", "measured", "test")
    assert figure.range == number
    assert math.isclose(figure.scaled(2.0).range.high, number.scaled(2.0).high)
