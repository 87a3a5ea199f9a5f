"""The slowest of many ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from carbon_plugin.predict.time.slowest import expected_maximum


def test_one_rank_waits_for_nobody_and_two_differ_by_what_order_statistics_say() -> None:
    assert expected_maximum(np.float64(1)) == 0
    assert expected_maximum(np.float64(2)) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-3)


def test_expected_maxima_are_those_of_random_ranks() -> None:
    drawn = np.random.default_rng(1).standard_normal((4000, 64)).max(axis=1).mean()
    assert expected_maximum(np.float64(64)) == pytest.approx(drawn, abs=0.05)


def test_more_ranks_are_never_faster_and_the_growth_slows_down() -> None:
    found = expected_maximum(2.0 ** np.arange(0, 18))
    steps = np.diff(found)
    assert np.all(steps > 0)
    assert np.all(np.diff(steps) < 1e-3)
