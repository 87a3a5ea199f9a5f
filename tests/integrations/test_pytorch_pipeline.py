"""A pipeline of two real processes: the ledger has the whole model, although no rank does and none asked another."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.ledger.reader import manifest_of
from tests.integrations.jobs.telling import told
from tests.ledgers import ledger_of

JOB = Path(__file__).parent / "jobs" / "pipeline.py"
BLOCK = 4 * 32 * 32 + 2 * 32 * 128 + 128 + 32


@pytest.fixture(scope="module")
def job(torchrun, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    done = torchrun(JOB, folder, processes=2, imported_once=("torch.distributed.pipelining",))
    file = ledger_of(folder)
    losses = {rank: (bare, measured) for rank, bare, measured in told(done.stdout, "LOSSES")}
    return manifest_of(file.records).effective, losses


def test_losses_of_the_pipeline_are_bit_identical(job):
    _, losses = job
    bare, measured = losses[1]

    assert len(bare) == 12 * 4
    assert measured == bare


def test_schedule_that_was_handed_over_gives_the_layout(job):
    fields, _ = job
    seen = {name: fields[f"layout.{name}"]["value"] for name in ("pp", "pipeline_schedule", "micro_batch_size")}

    assert seen == {"pp": 2, "pipeline_schedule": "1f1b", "micro_batch_size": 2}
    assert fields["layout.pp"]["source"] == "detected: Schedule1F1B over 2 stages"
    assert fields["training.global_batch_size"]["value"] == 8


def test_stages_of_all_ranks_are_added_up(job):
    fields, _ = job

    assert fields["model.parameters"]["value"] == 2 * 64 * 32 + 5 * BLOCK
    assert fields["model.layers"]["value"] == 5
    assert fields["model.tied_embeddings"]["value"] is False
    assert fields["model.layers"]["source"].endswith("with 2 stages of all ranks")
