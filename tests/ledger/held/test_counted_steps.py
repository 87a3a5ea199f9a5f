"""Step time from windows, with an error of a step for each stretch of training."""

from __future__ import annotations

import pytest

from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.records import Phase, Window


def counted(*windows: tuple[Phase, float, int]) -> CountedSteps:
    """Return the steps of windows that are given as (seconds, steps)."""
    found = CountedSteps()
    for index, (phase, duration_s, steps) in enumerate(windows):
        found.add(
            Window(
                index=index, phase=phase, start_unix_s=0.0, duration_s=duration_s, energies=[], steps=steps,
                last_step=0, tokens=0, intensity_g_per_kwh=None, pue=None,
            )
        )  # fmt: skip
    return found


def test_start_up_evaluation_and_checkpoints_are_no_part_of_a_step():
    figure = counted(
        ("startup", 30.0, 1), ("train", 10.0, 10), ("data_wait", 2.0, 0), ("evaluation", 60.0, 0), ("train", 8.0, 10)
    ).step_time_s

    assert figure.value == pytest.approx(1.0)
    assert (figure.low, figure.high) == pytest.approx((1 / 1.1, 1.1))
    assert figure.kind == "measured"


def test_a_single_step_may_be_off_by_itself():
    figure = counted(("train", 5.0, 1)).step_time_s

    assert (figure.low, figure.value, figure.high) == (2.5, 5.0, 10.0)


def test_without_a_step_there_is_no_step_time():
    assert counted(("train", 5.0, 0), ("startup", 5.0, 1)).step_time_s is None
