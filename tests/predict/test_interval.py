"""Intervals hold the share of runs that they say, also for sources that differ by an offset of their own."""

from __future__ import annotations

import numpy as np
import pytest

from carbon_plugin.calibrate.random_effects import random_effects
from carbon_plugin.predict.interval import EFFECTS, spread_of


def test_both_spreads_are_found_again() -> None:
    draw = np.random.default_rng(7)
    sources = np.repeat(np.arange(200).astype(str), 20)
    offsets = draw.normal(0, 0.2, 200)
    errors = np.repeat(offsets, 20) + draw.normal(0, 0.05, 4000)
    found = random_effects(errors, sources)
    assert found.sources == pytest.approx(200, abs=3)
    assert found.between == pytest.approx(float(np.sqrt(np.mean(offsets**2))), rel=0.1)
    assert found.within == pytest.approx(0.05, rel=0.1)


def test_one_odd_source_does_not_set_the_spread() -> None:
    errors = np.array([0.05, -0.04, 0.06, -0.05, 2.5])
    assert random_effects(errors, np.arange(5).astype(str)).between < 0.1


@pytest.mark.parametrize("kind", EFFECTS)
def test_intervals_hold_the_prediction_and_grow_with_what_is_not_known(kind) -> None:
    plain, assumed = spread_of(kind), spread_of(kind, assumed=True)
    assert plain.low95 < plain.p10 < 1 < plain.p90 < plain.high95
    assert assumed.p10 < plain.p10 < plain.p90 < assumed.p90


def test_ordinary_software_is_less_certain_than_tuned() -> None:
    assert spread_of("ordinary").p90 > spread_of("calibrated").p90
