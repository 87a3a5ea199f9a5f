"""The power of all machines at each moment, and what a mean over wide bins hides of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.audit.tally.timeline.peaks import PowerOverTime, without_seams

DAY_S = 86400.0


def follow(power: PowerOverTime, windows: list[tuple[float, float, float]]) -> None:
    """Add windows of (start, end, power)."""
    starts_s, ends_s, watts = (np.array(column) for column in zip(*windows, strict=True))
    power.add(starts_s, ends_s, watts)


def test_power_of_nodes_adds_up_at_the_moments_that_they_share() -> None:
    power = PowerOverTime(100.0)
    follow(power, [(100.0, 110.0, 400.0), (110.0, 120.0, 500.0)])
    follow(power, [(105.0, 115.0, 300.0)])

    lows, highs = power.extremes(10.0, 2, 20.0)

    assert lows == [400.0, 500.0]
    assert highs == [700.0, 800.0]


def test_ten_seconds_in_ninety_days_are_still_the_peak_of_their_bin() -> None:
    power = PowerOverTime(0.0)
    follow(power, [(0.0, 40 * DAY_S + 3, 400.0)])
    follow(power, [(40 * DAY_S + 3, 40 * DAY_S + 13, 950.0)])
    follow(power, [(40 * DAY_S + 13, 90 * DAY_S, 400.0)])
    width_s = 16384.0

    lows, highs = power.extremes(width_s, 475, 90 * DAY_S)

    assert power.every_s == 8.0
    peak = int((40 * DAY_S + 3) // width_s)
    assert highs[peak] == 950.0
    assert [at for at, high in enumerate(highs) if high != 400.0] == [peak]
    assert set(lows) == {400.0}


def test_time_without_a_window_has_no_power_and_the_time_after_the_end_does_not_count() -> None:
    power = PowerOverTime(0.0)
    follow(power, [(0.0, 10.0, 400.0), (30.0, 44.0, 400.0)])

    lows, highs = power.extremes(16.0, 3, 44.0)

    assert lows == [0.0, 0.0, 400.0]
    assert highs == [400.0, 400.0, 400.0]


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 500), st.integers(1, 1000)), min_size=1, max_size=20),
    st.integers(0, 20),
)
def test_power_followed_in_parts_is_that_followed_at_once(windows: list[tuple[int, int, int]], first: int) -> None:
    spans = [(float(start), float(start + lasted), float(watts)) for start, lasted, watts in windows]
    whole, left, right = (PowerOverTime(0.0, most=2048) for _ in range(3))
    follow(whole, spans)
    for part, chosen in ((left, spans[:first]), (right, spans[first:])):
        if chosen:
            follow(part, chosen)
    left.merge(right)

    assert left.every_s == whole.every_s
    moments = np.arange(0, 3500, whole.every_s)
    expected = [sum(watts for start, end, watts in spans if start <= moment < end) for moment in moments]
    assert left.extremes(whole.every_s, len(moments), 3500.0) == (expected, expected)


def test_windows_that_nearly_touch_follow_each_other_without_a_gap_or_an_overlap() -> None:
    starts_s, ends_s = np.array([10.002, 19.998, 95.0]), np.array([20.0, 30.0, 105.0])

    assert without_seams(starts_s, ends_s, 10.0).tolist() == [10.0, 20.0, 95.0]


def test_clock_that_goes_back_leaves_windows_where_they_are() -> None:
    starts_s, ends_s = np.array([10.0, -3580.0]), np.array([20.0, -3570.0])

    assert without_seams(starts_s, ends_s, -float("inf")).tolist() == pytest.approx([10.0, -3580.0])
