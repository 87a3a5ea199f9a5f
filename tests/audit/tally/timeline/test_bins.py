"""Runs of any length in a few hundred bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.audit.tally.timeline.bins import TimeBins


def add(bins: TimeBins, start_s: float, duration_s: float, amounts: dict[str, float]) -> None:
    bins.add(np.array([start_s]), np.array([duration_s]), {group: np.array([each]) for group, each in amounts.items()})


def test_amount_is_spread_evenly_over_its_interval() -> None:
    bins = TimeBins(100.0)
    add(bins, 100.5, 2.0, {"a": 8.0})
    assert bins.values("a") == [2.0, 4.0, 2.0]


def test_bins_widen_when_the_run_outgrows_them() -> None:
    bins = TimeBins(0.0, capacity=4)
    for second in range(16):
        add(bins, float(second), 1.0, {"a": 1.0})
    assert bins.width_s == 4.0
    assert bins.values("a") == [4.0, 4.0, 4.0, 4.0]


def test_ninety_days_stay_in_a_few_hundred_bins() -> None:
    bins = TimeBins(0.0)
    add(bins, 0.0, 10.0, {"a": 1.0})
    add(bins, 90 * 86400.0, 10.0, {"a": 1.0})
    assert 240 < bins.count <= 480
    assert sum(bins.values("a")) == 2.0


def test_moment_without_duration_goes_to_one_bin() -> None:
    bins = TimeBins(0.0)
    add(bins, 2.0, 0.0, {"a": 5.0})
    assert bins.values("a")[2] == 5.0


def test_clock_that_is_late_goes_to_the_first_bin() -> None:
    bins = TimeBins(100.0)
    add(bins, 95.0, 2.0, {"a": 5.0})
    assert bins.values("a") == [5.0]


def test_group_that_nobody_added_to_is_zero_everywhere() -> None:
    bins = TimeBins(0.0)
    add(bins, 0.0, 3.0, {"a": 3.0})
    assert bins.values("b") == [0.0, 0.0, 0.0]


@given(st.lists(st.tuples(st.floats(-10, 1e6), st.floats(0, 1e4), st.floats(0, 1e6)), min_size=1, max_size=40))
def test_nothing_is_lost_or_made(windows: list[tuple[float, float, float]]) -> None:
    bins = TimeBins(0.0, capacity=16)
    for start_s, duration_s, amount in windows:
        add(bins, start_s, duration_s, {"a": amount})
    assert bins.count <= 16
    assert sum(bins.values("a")) == pytest.approx(sum(amount for _, _, amount in windows))


def test_extremes_of_a_rate_outlive_every_widening_of_the_bins() -> None:
    bins = TimeBins(0.0, capacity=4)
    for second in range(16):
        rate = np.array([900.0 if second == 5 else np.nan if second == 9 else 400.0 + second])
        bins.add(np.array([float(second)]), np.array([1.0]), {"a": np.array([1.0])}, {"w": rate})

    assert bins.extremes("w") == ([400.0, 404.0, 408.0, 412.0], [403.0, 900.0, 411.0, 415.0])
    assert bins.extremes("b") == ([None] * 4, [None] * 4)


def test_extremes_of_merged_bins_are_those_of_both() -> None:
    one, other = TimeBins(0.0, capacity=4), TimeBins(0.0, capacity=4)
    one.add(np.array([0.0]), np.array([4.0]), {}, {"w": np.array([300.0])})
    other.add(np.array([6.0]), np.array([1.0]), {}, {"w": np.array([700.0]), "v": np.array([5.0])})
    one.merge(other)

    assert one.extremes("w") == ([300.0, 300.0, None, 700.0], [300.0, 300.0, None, 700.0])
    assert one.extremes("v")[1] == [None, None, None, 5.0]
