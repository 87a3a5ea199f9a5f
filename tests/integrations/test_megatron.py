"""A real loop of megatron in two processes: steps, phases, layout, figures in its logger, an exception."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def loop(run_loop) -> dict[str, Any]:
    return run_loop("megatron", "raise", needs=("megatron",))


def test_optimizer_steps_are_counted_and_not_micro_batches(loop):
    assert loop["step"] == 16
    assert loop["steps"] == 16


def test_losses_of_both_ranks_are_bit_identical(loop):
    assert len(loop["losses"]) == 2
    for bare, measured in loop["losses"]:
        assert len(bare) == 16
        assert measured == bare


def test_layout_is_read_from_the_framework(loop):
    axis = loop["manifest"].effective["layout.tp"]

    assert axis["value"] == 2
    assert axis["source"] == "detected: parallel_state.get_tensor_model_parallel_world_size"


def test_phases_are_marked(loop):
    assert {"train", "checkpoint"} <= loop["phases"]


def test_figures_reach_the_logger_of_the_framework(loop):
    assert any("carbon" in name and "energy_kwh" in name for name in loop["logged"])


def test_exception_of_the_user_passes_and_closes_the_ledger(loop):
    assert "the user's own" in loop["stderr"]
    assert loop["returncode"] != 0
    assert loop["closed"] == ["exception: RuntimeError"]
    assert loop["verified"]
