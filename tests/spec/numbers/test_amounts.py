"""Numbers for a person: no exponent in everyday sizes, and counts whose unit fits what is written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.spec.numbers.amounts import count, either, fitting_unit, number, percent, quantity
from carbon_plugin.spec.numbers.units import BYTE_UNITS


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"), (1, "1"), (999, "999"), (1000, "1 k"), (124_439_808, "124 M"), (999_400_000, "999 M"),
        (999_600_000, "1 B"), (999_999_999, "1 B"), (8_030_261_248, "8.03 B"), (9.996e11, "1 T"), (2.78e12, "2.78 T"),
        (1.234e15, "1,230 T"), (15e12, "15 T"),
    ],
)  # fmt: skip
def test_a_count_is_written_in_the_unit_that_fits_it_once_rounded(amount, text):
    assert count(amount) == text


@given(st.floats(1, 9e14))
def test_no_count_has_an_exponent_or_more_than_three_digits_before_its_unit(amount):
    digits, _, unit = count(amount).partition(" ")

    assert "e" not in digits
    assert float(digits) < 1000
    scale = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[unit]
    assert float(digits) * scale == pytest.approx(amount, rel=0.006)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (41.44, "41.4"),
        (999.7, "1,000"),
        (3200, "3,200"),
        (1e9, "1,000,000,000"),
        (1_430_000, "1,430,000"),
        (0.00333, "0.00333"),
    ],
)
def test_a_number_has_three_digits_and_separated_thousands(value, text):
    assert number(value) == text


def test_fewer_digits_than_a_number_has_are_no_reason_for_an_exponent():
    assert number(113, 2) == "110"
    assert number(1234.5, 5) == "1,234.5"
    assert number(0.96, 1) == "1"


def test_a_unit_is_reached_by_the_rounded_value():
    assert fitting_unit(0.9996, ((1e-3, "g"), (1.0, "kg"))) == (1.0, "kg")
    assert fitting_unit(0.9994, ((1e-3, "g"), (1.0, "kg"))) == (1e-3, "g")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.99684, "99.7 %"),
        (0.5, "50 %"),
        (0, "0 %"),
        (1, "100 %"),
        (0.0004, "<0.1 %"),
        (0.9996, ">99.9 %"),
        (52.58, "5,260 %"),
        (-0.3, "−30 %"),
        (np.float64(-0.3), "−30 %"),
    ],
)
def test_a_share_in_percent_has_three_digits_and_only_all_of_it_reads_as_100(share, said):
    assert percent(share) == said


@pytest.mark.parametrize(
    ("share", "decimals", "signed", "said"),
    [
        (0.327, 1, False, "32.7 %"),
        (0.996, 0, False, "100 %"),
        (52.58, 0, False, "5,258 %"),
        (0.124, 0, True, "+12 %"),
        (-0.124, 0, True, "−12 %"),
        (-0.004, 0, True, "0 %"),
    ],
)
def test_a_share_in_percent_has_the_decimals_and_the_sign_that_are_asked_for(share, decimals, signed, said):
    assert percent(share, decimals, signed=signed) == said


def test_alternatives_are_listed_as_a_sentence_lists_them():
    assert [either(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]


def test_a_checkpoint_of_a_small_model_is_not_a_hundredth_of_a_megabyte():
    assert [quantity(size, BYTE_UNITS) for size in (29_300, 15.6e6, 96.4e9)] == ["29.3 kB", "15.6 MB", "96.4 GB"]
