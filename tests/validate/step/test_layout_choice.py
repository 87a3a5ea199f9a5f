"""Which rows are layouts of one job, and what the choice between them costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from carbon_plugin.calibrate.rows.rows import PublishedRow, parse_rows
from carbon_plugin.plan.search.fullness import SLOWDOWN_AT_LIMIT
from carbon_plugin.validate.hardware.memory import expected_slowdowns, memory_rows, validate_memory
from carbon_plugin.validate.step.layout_choice import layout_choices, overall_phrase, summarise_choices, within_limits


def rows(*changes: dict[str, Any]) -> list[PublishedRow]:
    common = {
        "model": "GPT", "layers": 24, "hidden": 2048, "ffn": 8192, "heads": 16, "seq_len": 2048, "precision": "bf16",
        "gpu": "A100-80GB-SXM", "n_gpus": 8, "gpus_per_node": 8, "pp": 1, "sharding": "none", "mbs": 1, "gbs": 8,
        "framework": "Megatron-LM 2021", "step_time_s": 1.0,
    }  # fmt: skip
    found, skipped = parse_rows([{"id": f"a-{i}", **common, **change} for i, change in enumerate(changes)], {})
    assert skipped == []
    return found


def test_layouts_of_one_job_are_compared_and_the_regret_is_over_the_best_measured() -> None:
    job = rows({"tp": 1, "step_time_s": 2.0}, {"tp": 2, "step_time_s": 1.0}, {"tp": 4, "step_time_s": 1.5})

    (choice,) = layout_choices(job, np.array([3.0, 2.0, 1.0]))

    assert (choice.layouts, choice.picked, choice.best) == (3, "a-2", "a-1")
    assert choice.regret == pytest.approx(50)


def test_runs_of_one_layout_are_no_choice_and_count_once_with_their_mean() -> None:
    job = rows(
        {"tp": 1, "step_time_s": 1.0}, {"tp": 1, "step_time_s": 3.0}, {"tp": 2, "step_time_s": 1.6},
        {"tp": 4, "step_time_s": 4.0},
    )  # fmt: skip

    (choice,) = layout_choices(job, np.array([1.0, 1.0, 2.0, 3.0]))

    assert (choice.layouts, choice.picked, choice.best) == (3, "a-0", "a-2")
    assert choice.regret == pytest.approx(100 * (2.0 / 1.6 - 1))
    assert choice.spearman == pytest.approx(0.5)
    assert layout_choices(job[:2], np.array([1.0, 1.0])) == ()


def test_layouts_within_what_a_measurement_repeats_to_are_tied() -> None:
    near = rows({"tp": 1, "step_time_s": 1.01}, {"tp": 2, "step_time_s": 1.0}, {"tp": 4, "step_time_s": 1.5})
    (exchanged,) = layout_choices(near, np.array([1.0, 2.0, 3.0]))
    (in_order,) = layout_choices(near, np.array([2.0, 1.0, 3.0]))
    (last_first,) = layout_choices(near, np.array([3.0, 2.0, 1.0]))
    (tied_alike,) = layout_choices(near, np.array([1.0, 1.0, 3.0]))

    assert exchanged.spearman == pytest.approx(1)
    assert in_order.spearman == pytest.approx(1)
    assert last_first.spearman == pytest.approx(-1)
    assert tied_alike.spearman == 1
    assert (exchanged.spearman_untied, in_order.spearman_untied) == pytest.approx((0.5, 1.0))


def test_ties_pass_no_layout_on_to_the_next() -> None:
    """The second layout is tied with both others, which are not tied with each other."""
    chain = rows({"tp": 1, "step_time_s": 1.0}, {"tp": 2, "step_time_s": 1.015}, {"tp": 4, "step_time_s": 1.03})
    (choice,) = layout_choices(chain, np.array([1.0, 2.0, 3.0]))
    assert choice.spearman == pytest.approx(1)


def test_a_job_whose_layouts_are_all_tied_has_no_rank_correlation_but_that_without_ties() -> None:
    job = rows({"tp": 1, "step_time_s": 1.0}, {"tp": 2, "step_time_s": 1.01}, {"tp": 4, "step_time_s": 1.015})
    (summary,) = summarise_choices(layout_choices(job, np.array([3.0, 2.0, 1.0])))

    assert summary.spearman is None
    assert summary.spearman_untied == pytest.approx(-1)
    assert within_limits(summary)
    assert not within_limits(summary, untied=True)


@pytest.mark.parametrize(
    "change",
    [{"framework": "OneFlow-GPT (2021)"}, {"framework": "Megatron-LM 2020"}, {"gbs": 16}, {"optimizer": "8-bit Adam"}],
)
def test_what_differs_in_more_than_the_layout_is_another_job(change: dict[str, Any]) -> None:
    # Two programs in the same layout would else be a choice that nobody who plans a layout has.
    assert layout_choices(rows({"tp": 1}, {"tp": 2, **change}), np.array([1.0, 2.0])) == ()


def test_a_row_that_fills_its_memory_is_expected_to_be_slower_than_predicted() -> None:
    roomy, full = expected_slowdowns(
        validate_memory(memory_rows(rows({"tp": 8}, {"tp": 1, "mbs": 8, "gbs": 64, "recompute": "none"}), ()))
    )

    assert roomy == pytest.approx(1, abs=0.001)
    assert 1.005 < full < 1 + SLOWDOWN_AT_LIMIT  # it did not have to be run again with recompute


def test_a_source_keeps_both_limits_or_is_counted_as_one_that_does_not() -> None:
    job = rows({"tp": 1, "step_time_s": 2.0}, {"tp": 2, "step_time_s": 1.0}, {"tp": 4, "step_time_s": 1.5})

    (right,) = summarise_choices(layout_choices(job, np.array([2.0, 1.0, 1.5])))
    (wrong,) = summarise_choices(layout_choices(job, np.array([1.0, 2.0, 1.5])))

    assert (within_limits(right), within_limits(wrong)) == (True, False)
    assert overall_phrase([right, wrong]).startswith("regret 50.0 % as a mean over 2 sources, of which 1 keep")
