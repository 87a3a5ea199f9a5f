"""A real loop of deepspeed in two processes: steps, phases, layout, figures in its logger, an exception."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def loop(run_loop) -> dict[str, Any]:
    return run_loop("deepspeed", "raise", needs=("deepspeed",))


def test_optimizer_steps_are_counted_and_not_micro_batches(loop):
    assert loop["step"] == 16
    assert loop["steps"] == 16


def test_losses_of_both_ranks_are_bit_identical(loop):
    assert len(loop["losses"]) == 2
    for bare, measured in loop["losses"]:
        assert len(bare) == 32
        assert measured == bare


def test_layout_is_read_from_the_framework(loop):
    axis = loop["manifest"].effective["layout.dp_shard"]

    assert axis["value"] == 2
    assert axis["source"] == "detected: DeepSpeed engine, ZeRO stage 1 over 2 ranks"
    assert (
        loop["manifest"].effective["training.micro_batches"]["source"]
        == "detected: engine.gradient_accumulation_steps()"
    )


def test_phases_are_marked(loop):
    assert {"train", "checkpoint"} <= loop["phases"]


def test_figures_reach_the_logger_of_the_framework(loop):
    assert any("carbon" in name and "energy_kwh" in name for name in loop["logged"])


def test_exception_of_the_user_passes_and_closes_the_ledger(loop):
    assert "the user's own" in loop["stderr"]
    assert loop["returncode"] != 0
    assert loop["closed"] == ["exception: RuntimeError"]
    assert loop["verified"]
