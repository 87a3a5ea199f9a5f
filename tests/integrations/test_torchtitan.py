"""torchtitan's own Trainer with FSDP2 in two processes: steps, phases, layout, losses, its logger, an exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

JOB = Path(__file__).parent / "jobs" / "torchtitan_trainer.py"
STEPS = 16


@pytest.fixture(scope="module")
def loop(run_loop) -> dict[str, Any]:
    needs = ("torchtitan", "spmd_types", "torchdata", "torch_checkpointing", "tokenizers", "datasets")
    return run_loop("torchtitan", "raise", needs=needs, script=JOB)


@pytest.mark.exhaustive
class TestTrainerOfTorchtitan:
    def test_optimizer_steps_are_counted_and_not_micro_batches(self, loop):
        assert loop["steps"] == STEPS
        assert loop["manifest"].effective["training.micro_batches"]["value"] == 2

    def test_losses_of_both_ranks_are_bit_identical(self, loop):
        assert len(loop["losses"]) == 2
        for bare, measured in loop["losses"]:
            assert len(bare) == STEPS
            assert measured == bare

    def test_nothing_of_ours_is_left_on_the_objects_of_the_script(self, loop):
        assert loop["traces"] == [[], []]

    def test_layout_and_plan_are_read_from_the_trainer(self, loop):
        effective = loop["manifest"].effective

        assert (effective["layout.dp_shard"]["value"], effective["layout.zero_stage"]["value"]) == (2, 3)
        assert effective["layout.dp_shard"]["source"] == "detected: ParallelDims.dp_shard"
        assert effective["training.steps"]["source"] == "detected: config.training.steps"
        assert effective["training.seq_len"]["value"] == 16
        assert effective["training.global_batch_size"]["value"] == 8
        assert effective["model.layers"]["value"] == 2

    def test_validation_is_a_phase(self, loop):
        assert {"train", "evaluation"} <= loop["phases"]

    def test_figures_reach_the_logger_of_the_trainer(self, loop):
        assert "carbon/energy_kwh" in loop["logged"]

    def test_a_trainer_that_loads_a_checkpoint_goes_on_at_its_step(self, loop):
        assert loop["reached"] == [STEPS, STEPS + 2]
        assert loop["step"] == STEPS + 2

    def test_exception_of_the_user_passes_and_closes_the_ledger(self, loop):
        assert "the user's own" in loop["stderr"]
        assert loop["returncode"] != 0
        assert loop["closed"] == ["closed", "exception: RuntimeError"]
        assert loop["verified"]
