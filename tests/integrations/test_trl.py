"""Trainers of TRL: tokens, losses, generation as a phase, adapters. `make test-lowest` goes without TRL."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close, Window
from tests.integrations.jobs.telling import told

JOB = Path(__file__).parent / "jobs" / "sft.py"
TRAINERS = Path(__file__).parent / "jobs" / "trainers_of_trl.py"


@pytest.mark.exhaustive
@pytest.mark.skipif(find_spec("trl") is None, reason="not installed: trl")
def test_tokens_are_those_that_trl_counts_without_padding(launcher, tmp_path):
    done = launcher.run(JOB, tmp_path, env={**os.environ, "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr

    progress = summarise(tmp_path / "run").progress

    (tokens,) = told(done.stdout, "TOKENS")
    assert progress.tokens == int(tokens) > 0
    assert progress.tokens_source == "counted step by step; num_tokens of the trainer"


@pytest.fixture(scope="module")
def trained(launcher, tmp_path_factory) -> tuple[Path, dict[str, list[list[str]]]]:
    """Return the folder of the runs of TRL's trainers, and their losses without us and with us."""
    for name in ("trl", "peft"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("trl")
    env = {**os.environ, "TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    done = launcher.run(TRAINERS, folder, "sft_lora", "dpo", "grpo", env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, {way: losses for way, *losses in told(done.stdout, "LOSSES")}


def records(folder: Path, kind: type) -> list[Any]:
    (file,) = read_run(folder).files
    return [record for record in file.records if isinstance(record, kind)]


@pytest.mark.exhaustive
class TestTrainersOfTrl:
    @pytest.mark.parametrize("way", ["sft_lora", "dpo", "grpo"])
    def test_losses_are_bit_identical_and_steps_are_those_of_the_trainer(self, trained, way):
        folder, losses = trained

        bare, measured = losses[way]
        assert len(bare) == 4
        assert measured == bare
        assert [(close.reason, close.steps) for close in records(folder / way, Close)] == [("closed", 4)]

    def test_generation_of_grpo_is_a_phase_of_its_own_and_no_step_time(self, trained):
        folder, _ = trained
        windows = records(folder / "grpo", Window)

        assert sum(window.duration_s for window in windows if window.phase == "generation") >= 3 * 0.3
        assert "generation" not in {window.phase for window in records(folder / "dpo", Window)}
        assert summarise(folder / "grpo").by_phase["generation"].energy_j > 0

    def test_the_frozen_base_and_the_adapter_of_a_lora_are_told_apart(self, trained):
        folder, _ = trained
        (file,) = read_run(folder / "sft_lora").files
        effective = manifest_of(file.records).effective

        adapter = 2 * 2 * (16 * 4 + 4 * 16)  # layers, matrices, A and B of rank 4
        trained_part = effective["model.trainable_fraction"]["value"]
        assert round(trained_part * effective["model.parameters"]["value"]) == adapter
        assert effective["model.layers"]["value"] == 2
