"""Scores and what they make of a range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.footprint.uncertainty import PERCENTILES, mean_of, percentiles, scores, spread


def _row(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def test_scores_depend_on_scope_draws_and_seed_only() -> None:
    first = scores("gpu", 500, 1).copy()
    scores.cache_clear()

    assert np.array_equal(scores("gpu", 500, 1), first)
    assert not np.array_equal(scores("host", 500, 1), first)
    assert not np.array_equal(scores("gpu", 500, 2), first)


def test_scores_of_two_scopes_are_uncorrelated() -> None:
    assert abs(np.corrcoef(scores("gpu", 2000, 0), scores("host", 2000, 0))[0, 1]) < 0.07


def test_scores_cannot_be_changed_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        scores("gpu", 100, 0)[0] = 1.0


@given(
    low=st.floats(1e-6, 1e6),
    down=st.floats(1, 100),
    up=st.floats(1, 100),
    draws=st.sampled_from([1000, 2000, 4999]),
)
def test_samples_have_the_stated_p10_median_and_p90(low: float, down: float, up: float, draws: int) -> None:
    value, high = low * down, low * down * up

    samples = spread(_row(value), _row(low), _row(high), scores("x", draws, 3)[None, :])

    _, p10, p90, _ = percentiles(samples)
    assert p10[0] == pytest.approx(low, rel=2e-2)
    assert p90[0] == pytest.approx(high, rel=2e-2)
    assert np.median(samples) == pytest.approx(value, rel=2e-2)
    assert (samples > 0).all()


@given(draws=st.integers(1, 50), seed=st.integers(0, 5))
def test_percentiles_are_those_of_hazen(draws: int, seed: int) -> None:
    samples = np.random.default_rng(seed).lognormal(size=(3, draws))

    assert percentiles(samples) == pytest.approx(np.quantile(samples, PERCENTILES, axis=-1, method="hazen"))


def test_a_range_that_begins_at_zero_is_linear_and_never_negative() -> None:
    samples = spread(_row(5.0, 0.0), _row(0.0, 0.0), _row(9.0, 4.0), np.tile(_row(-3, -1, -0.5, 0, 1), (2, 1)))

    assert samples.tolist() == [[0, 0, 2.5, 5, 9], [0, 0, 0, 0, 4]]


def test_no_range_is_a_constant() -> None:
    samples = spread(_row(7.0, 0.0), _row(7.0, 0.0), _row(7.0, 0.0), np.tile(scores("x", 100, 0), (2, 1)))

    assert (samples == _row(7.0, 0.0)[:, None]).all()


@pytest.mark.parametrize("ends", [(2.0, 1.0, 3.0), (5.0, 3.0, 6.0), (1.0, 1.0, 1.0), (2.0, 0.0, 5.0), (0.0, 0.0, 3.0)])
def test_the_mean_of_an_input_is_that_of_its_samples(ends: tuple[float, float, float]) -> None:
    value, low, high = (np.array([end]) for end in ends)

    sampled = spread(value, low, high, scores("any", 20_000, 0)[None, :]).mean()

    assert mean_of(value, low, high)[0] == pytest.approx(sampled, rel=2e-4)
