"""The programs of docs/loops.md run, leave the record that the page promises, and train as they do without us."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import LedgerFile, manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Projection, Window
from carbon_plugin.ledger.verification.verify import verify_run
from tests.integrations.jobs.telling import told
from tests.pages import blocks_of

JOB = Path(__file__).parent / "jobs" / "page.py"
STEPS = {
    "decorated": 10, "gan": 6, "scaled": 9, "teacher": 9, "student": 3, "images": 10, "diffusion": 10, "graph": 10,
    "policy": 10,
}  # fmt: skip
"""The steps of each run of the page that needs nothing but torch."""


def programs() -> dict[str, str]:
    """Return the programs of the page by the name of their (last) run directory."""
    codes = [block.code for block in blocks_of("docs/loops.md", "python")]
    return {re.findall(r'run_dir=.*"(?:runs)?/(\w+)"', code)[-1]: code for code in codes}


@pytest.fixture(scope="module")
def page(launcher, tmp_path_factory) -> tuple[Path, dict[str, list[Any]]]:
    """Return the folder of the runs, and the losses of each program without us and with us."""
    folder = tmp_path_factory.mktemp("page")
    files = []
    for name, program in programs().items():
        if name in STEPS:
            files.append(folder / f"{name}.py")
            files[-1].write_text(program)
    losses: dict[str, list[Any]] = {}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
    for variables in ({"CARBON_PLUGIN_DISABLED": "1"}, {}):
        done = launcher.run(JOB, *files, env=kept | {"TMPDIR": str(folder)} | variables, cwd=folder)
        assert done.returncode == 0, done.stderr
        for name, values in told(done.stdout, "LOSSES"):
            losses.setdefault(name, []).append(values)
    return folder / "runs", losses


def file_of(page: tuple[Path, Any], run: str) -> LedgerFile:
    (file,) = read_run(page[0] / run).files
    return file


def test_losses_are_bit_identical_with_and_without_us(page):
    assert len(page[1]) == len(set(STEPS) & set(programs()))
    for bare, measured in page[1].values():
        assert bare
        assert measured == bare


@pytest.mark.parametrize("run", STEPS)
def test_steps_energy_and_carbon_of_each_program_are_in_its_record(page, run):
    closes = [record for record in file_of(page, run).records if isinstance(record, Close)]
    summary = summarise(page[0] / run)

    assert [(close.reason, close.steps) for close in closes] == [("closed", STEPS[run])]
    assert summary.energy.energy_j > 0
    assert verify_run(page[0] / run).ok


@pytest.mark.parametrize(
    ("run", "phase"), [("decorated", "evaluation"), ("diffusion", "sampling"), ("policy", "rollout")]
)
def test_what_is_no_training_is_a_phase(page, run, phase):
    assert phase in {record.phase for record in file_of(page, run).records if isinstance(record, Window)}


@pytest.mark.parametrize("run", ["images", "diffusion", "graph", "policy"])
def test_a_run_that_is_no_language_model_is_projected_to_its_end(page, run):
    projection = [record for record in file_of(page, run).records if isinstance(record, Projection)][-1]

    assert (projection.step, projection.total_steps) == (10, 50)
    assert projection.carbon_kg[1] > projection.spent_carbon_kg


@pytest.mark.parametrize("run", ["images", "diffusion", "policy"])
def test_a_network_without_tokens_is_counted_predicted_and_compared(page, run):
    manifest = manifest_of(file_of(page, run).records)

    assert manifest.effective["model.forward_flops_per_sample"]["source"].startswith("counted in one forward pass")
    assert manifest.effective["training.seq_len"]["source"] == "the model was counted with samples that have no tokens"
    assert manifest.prediction["step_time_s"]["value"] > 0
    assert manifest.tokens_per_step is None
    assert summarise(page[0] / run).progress.tokens_source == "not recorded"


def test_a_network_that_cannot_be_counted_has_no_prediction_and_one_short_reason(page):
    file = file_of(page, "graph")

    assert manifest_of(file.records).prediction is None
    (reason,) = [r.message for r in file.records if isinstance(r, Event) and r.message.startswith("model: ")]
    assert "not counted" in reason
    assert reason.endswith("without a model_spec nothing is predicted")
    assert len(reason) < 400
