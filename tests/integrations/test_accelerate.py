"""A real loop of accelerate in two processes: steps, phases, layout, figures in its logger, an exception."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def loop(run_loop) -> dict[str, Any]:
    return run_loop("accelerate", "raise", needs=("accelerate",))


def test_optimizer_steps_are_counted_and_not_micro_batches(loop):
    assert loop["step"] == 16
    assert loop["steps"] == 16


def test_layout_is_read_from_the_framework(loop):
    axis = loop["manifest"].effective["layout.dp_replicate"]

    assert axis["value"] == 2
    assert axis["source"] == "detected: process group of DDP"
    assert loop["manifest"].effective["training.micro_batches"]["value"] == 2


def test_mixed_precision_is_that_of_the_forward_pass_and_not_of_the_stored_weights(loop):
    assert loop["manifest"].effective["training.precision"]["value"] == "bf16"


def test_phases_are_marked(loop):
    assert {"train", "checkpoint"} <= loop["phases"]


def test_figures_are_in_rows_of_the_script_on_its_axis(loop):
    with_figures = [step for step, row in loop["rows"] if "loss" in row and "carbon/energy_kwh" in row]

    assert len(with_figures) >= 2
    steps = [step for step, _ in loop["rows"]]
    assert steps == sorted(steps), "a tracker with one axis drops rows that are behind the one before"


def test_last_row_has_the_totals(loop):
    _, last = loop["rows"][-1]

    assert last["carbon/energy_kwh"] == pytest.approx(loop["energy_kwh"])


def test_exception_of_the_user_passes_and_closes_the_ledger(loop):
    assert "the user's own" in loop["stderr"]
    assert loop["returncode"] != 0
    assert loop["closed"] == ["exception: RuntimeError"]
    assert loop["verified"]
