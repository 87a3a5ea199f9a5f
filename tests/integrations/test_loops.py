"""Real loops of frameworks in two processes: steps, phases, layout, figures in their loggers, an exception."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest


class Expected(NamedTuple):
    """What a framework's loop has of its own: batches in sixteen steps, and the layout of two ranks."""

    batches: int
    axis: str
    source: str


LOOPS = {
    "accelerate": Expected(32, "layout.dp_replicate", "detected: process group of DDP"),
    "deepspeed": Expected(32, "layout.dp_shard", "detected: DeepSpeed engine, ZeRO stage 1 over 2 ranks"),
    "megatron": Expected(16, "layout.tp", "detected: parallel_state.get_tensor_model_parallel_world_size"),
}


@pytest.fixture(scope="module", params=LOOPS)
def framework(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def loop(run_loop, framework) -> dict[str, Any]:
    return run_loop(framework, "raise", needs=(framework,))


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("framework", [name], indirect=True)


def test_optimizer_steps_are_counted_and_not_micro_batches(loop):
    assert loop["step"] == 16
    assert loop["steps"] == 16


def test_losses_of_both_ranks_are_bit_identical(loop, framework):
    assert len(loop["losses"]) == 2
    for bare, measured in loop["losses"]:
        assert len(bare) == LOOPS[framework].batches
        assert measured == bare


def test_nothing_of_ours_is_left_on_the_objects_of_the_script(loop):
    assert loop["traces"] == [[], []]


def test_layout_is_read_from_the_framework(loop, framework):
    axis = loop["manifest"].effective[LOOPS[framework].axis]

    assert axis["value"] == 2
    assert axis["source"] == LOOPS[framework].source


@only("accelerate")
def test_batches_of_a_step_and_mixed_precision_of_the_forward_pass_are_those_of_the_accelerator(loop):
    assert loop["manifest"].effective["training.micro_batches"]["value"] == 2
    assert loop["manifest"].effective["training.precision"]["value"] == "bf16"  # the stored weights are fp32


@only("deepspeed")
def test_batches_of_a_step_are_those_of_the_engine(loop):
    batches = loop["manifest"].effective["training.micro_batches"]

    assert batches["value"] == 2
    assert batches["source"] == "detected: engine.gradient_accumulation_steps()"


def test_phases_are_marked(loop):
    assert {"train", "checkpoint"} <= loop["phases"]


def test_figures_reach_the_logger_of_the_framework(loop):
    assert any("carbon" in name and "energy_kwh" in name for name in loop["logged"])


@only("accelerate")
def test_figures_are_in_rows_of_the_script_on_its_axis(loop):
    with_figures = [step for step, row in loop["rows"] if "loss" in row and "carbon/energy_kwh" in row]

    assert len(with_figures) >= 2
    steps = [step for step, _ in loop["rows"]]
    assert steps == sorted(steps), "a tracker with one axis drops rows that are behind the one before"


@only("accelerate")
def test_last_row_has_the_totals(loop):
    _, last = loop["rows"][-1]

    assert last["carbon/energy_kwh"] == pytest.approx(loop["energy_kwh"])


def test_exception_of_the_user_passes_and_closes_the_ledger(loop):
    assert "the user's own" in loop["stderr"]
    assert loop["returncode"] != 0
    assert loop["closed"] == ["exception: RuntimeError"]
    assert loop["verified"]
