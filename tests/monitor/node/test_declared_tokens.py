"""A declared number of tokens that is not what was counted is said once, whichever adapter counts."""

from __future__ import annotations

import pytest

from carbon_plugin.detect.resolve.effective import Effective
from carbon_plugin.monitor.clock import Mark
from carbon_plugin.monitor.node.declared_tokens import FEWEST_STEPS, DeclaredTokens


def effective(*, declared: bool = True, tokens_a_count: float = 1.0) -> Effective:
    return Effective(
        spec=None, fields={}, differences=(), missing=(), assumptions=(), site=None, cluster=None, charged=None,
        total_steps=None, tokens_per_step=100, tokens_a_count=tokens_a_count, declared_count=declared,
    )  # fmt: skip


def after(steps: int, mean: float, untold: int = 0) -> Mark:
    return Mark(steps + untold, 0.0, round(steps * mean), untold)


@pytest.mark.parametrize(
    ("mean", "said"), [(50, "50 % less"), (94, "6 % less"), (97, ""), (104, ""), (200, "100 % more")]
)
def test_a_difference_beyond_the_margin_is_said_once(mean, said):
    looks = DeclaredTokens()

    first = looks.look(after(FEWEST_STEPS, mean), effective())

    assert (first is not None) == bool(said)
    assert said in (first or "")
    assert looks.look(after(2 * FEWEST_STEPS, mean), effective()) is None


def test_few_steps_are_compared_at_the_end_alone():
    assert DeclaredTokens().look(after(5, 50), effective()) is None
    assert "mean of 5 steps" in (DeclaredTokens().look(after(5, 50, untold=1), effective(), last=True) or "")
    assert DeclaredTokens().look(after(0, 0, untold=3), effective(), last=True) is None


def test_sizes_of_batches_are_compared_as_the_tokens_that_they_stand_for():
    assert DeclaredTokens().look(after(FEWEST_STEPS, 4), effective(tokens_a_count=25)) is None
    assert DeclaredTokens().look(after(FEWEST_STEPS, 4), effective(tokens_a_count=50)) is not None


def test_nothing_is_compared_where_the_count_is_the_scripts_own():
    assert DeclaredTokens().look(after(FEWEST_STEPS, 50), effective(declared=False)) is None
