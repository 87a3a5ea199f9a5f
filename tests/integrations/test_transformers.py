"""A real training with the Hugging Face Trainer in two processes: steps, phases, layout, rows, an exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.monitor.running import LEFT

JOB = Path(__file__).parent / "jobs" / "hf_trainer.py"


@pytest.fixture(scope="module")
def trained(run_loop) -> dict[str, Any]:
    return run_loop("trainer", script=JOB, needs=("accelerate", "transformers"))


def test_optimizer_steps_are_counted_and_not_micro_batches(trained):
    assert trained["step"] == 16
    assert trained["steps"] == 16


def test_weights_are_those_of_a_training_without_us_to_the_last_bit(trained):
    assert trained["same_weights"]


def test_wrapped_model_is_found_without_being_handed_over(trained):
    fields = trained["manifest"].effective

    assert fields["layout.dp_replicate"] == {
        "value": 2,
        "source": "detected: process group of DDP",
        "planned": None,
        "declared": None,
        "detected": 2,
    }
    assert fields["training.steps"]["source"] == "detected: state.max_steps"
    assert fields["training.global_batch_size"]["value"] == 8
    assert fields["model.layers"]["value"] == 2
    assert fields["training.precision"]["value"] == "bf16"


def test_tokens_are_those_that_the_trainer_counted(trained):
    assert trained["tokens"] == trained["tokens_seen"] > 0
    assert trained["tokens"] != 16 * trained["manifest"].tokens_per_step  # batches differ in length


def test_evaluation_and_checkpoints_are_phases(trained):
    assert {"startup", "train", "evaluation", "checkpoint"} <= trained["phases"]


def test_figures_reach_reporters_before_us_in_the_list_and_the_trainers_history(trained):
    assert "carbon/energy_kwh" in trained["logged"]
    assert {"loss", "carbon/energy_kwh"} <= set(trained["history"])


def test_each_training_is_an_attempt_of_its_own_whether_or_not_an_exception_ended_the_one_before(trained):
    assert "the user's own" in trained["stderr"]
    assert trained["closed"] == [
        "closed",
        "closed",
        "another training began",
        LEFT,
        "closed",
        "exception: RuntimeError",
    ]
    assert trained["reached"] == [16, 16, 18, 18, 18, 18]
    assert trained["verified"]


def test_a_step_that_the_script_states_is_that_at_which_the_trainer_begins(trained):
    assert trained["stated"] == [102, 102]


def test_first_step_is_part_of_the_start_up(trained):
    assert trained["phases_of_steps"] == ["startup"] + 15 * ["train"]


def test_evaluation_outside_of_a_training_has_a_record_of_its_own(trained):
    assert "evaluation" in trained["attempt_phases"][1]
    assert "train" not in trained["attempt_phases"][1]


def test_trainers_own_last_row_has_the_totals(trained):
    assert {"train_runtime", "train_loss"} <= trained["last_row"].keys()
    assert trained["last_row"]["carbon/energy_kwh"] == pytest.approx(trained["first_energy_kwh"])
