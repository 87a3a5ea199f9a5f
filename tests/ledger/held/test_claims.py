"""Each joule once, whoever reads the counter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.ledger.held.claims import DeviceClaims


def shares(claims: DeviceClaims, file: str, windows: list[tuple[float, float]], key: str = "GPU-a") -> list[float]:
    claims.begin(file)
    start_s, end_s = min(start for start, _ in windows), max(start + length for start, length in windows)
    contested = claims.claim(key, start_s, end_s)
    counted = [claims.share(key, *window) for window in windows]
    claims.end()
    assert contested or counted == [1.0] * len(windows)
    return counted


def test_device_in_one_file_counts_fully() -> None:
    claims = DeviceClaims()
    assert shares(claims, "a", [(0.0, 10.0), (10.0, 10.0)]) == [1.0, 1.0]
    assert claims.overlaps == []


def test_gpu_metered_by_two_containers_is_counted_once_and_flagged() -> None:
    claims = DeviceClaims()
    shares(claims, "a", [(0.0, 10.0), (10.0, 10.0)])
    assert shares(claims, "b", [(5.0, 10.0), (15.0, 10.0)]) == [0.0, 0.5]
    (overlap,) = claims.overlaps
    assert (overlap.key, overlap.file, overlap.counted_in, overlap.duration_s) == ("GPU-a", "b", "a", 15.0)


def test_attempts_after_each_other_both_count() -> None:
    claims = DeviceClaims()
    shares(claims, "a", [(0.0, 10.0)])
    assert shares(claims, "b", [(10.0, 10.0)]) == [1.0]
    assert claims.overlaps == []


def test_clocks_that_disagree_by_less_than_a_second_are_no_overlap() -> None:
    claims = DeviceClaims()
    shares(claims, "a", [(0.0, 10.0)])
    assert shares(claims, "b", [(9.5, 10.0)]) == [1.0]
    assert claims.overlaps == []


def test_different_devices_do_not_shadow_each_other() -> None:
    claims = DeviceClaims()
    shares(claims, "a", [(0.0, 10.0)])
    assert shares(claims, "b", [(0.0, 10.0)], key="GPU-b") == [1.0]


def test_third_file_is_measured_against_both_others_once() -> None:
    claims = DeviceClaims()
    shares(claims, "a", [(0.0, 10.0)])
    shares(claims, "b", [(5.0, 10.0)])
    assert shares(claims, "c", [(5.0, 20.0)]) == [0.5]
    assert [(overlap.file, overlap.counted_in) for overlap in claims.overlaps] == [("b", "a"), ("c", "a"), ("c", "b")]


extents = st.lists(st.tuples(st.integers(0, 200), st.integers(2, 100)), min_size=1, max_size=6)


@given(extents)
def test_time_counted_is_the_union_of_the_files(pairs: list[tuple[int, int]]) -> None:
    """Whole-file windows on a grid of 2 s, so that the clock tolerance plays no part."""
    claims = DeviceClaims()
    counted_s = 0.0
    covered: set[int] = set()
    for number, (start, length) in enumerate(sorted(pairs)):
        covered |= set(range(start, start + length))
        (share,) = shares(claims, f"file {number}", [(2.0 * start, 2.0 * length)])
        counted_s += share * 2.0 * length
    assert counted_s == pytest.approx(2.0 * len(covered))
