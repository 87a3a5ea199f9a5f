"""Tokens of a step that the script declares count in every adapter alike, also where the trainer counts others."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Event
from tests.integrations.jobs.telling import told
from tests.integrations.test_lightning import environment

JOB = Path(__file__).parent / "jobs" / "declared_tokens.py"
DECLARED = 1000
RUNS = ("lightning", "trainer False", "trainer True")


@pytest.fixture(scope="module")
def trained(launcher, tmp_path_factory) -> tuple[Path, int, str]:
    folder = tmp_path_factory.mktemp("declared")
    modules = ("lightning", "transformers")
    done = launcher.run(JOB, folder, str(DECLARED), modules=modules, env=environment(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    (steps,) = told(done.stdout, "STEPS")
    return folder, steps, done.stderr


@pytest.mark.parametrize("run", RUNS)
def test_declared_tokens_count_and_the_report_says_so(trained, run):
    folder, steps, _ = trained

    progress = summarise(folder / run).progress

    assert (progress.steps, progress.tokens) == (steps, DECLARED * steps)
    assert progress.tokens_source.startswith("steps times 1,000 (declared")


@pytest.mark.parametrize("run", RUNS)
def test_one_warning_says_what_was_counted(trained, run):
    folder, _, printed = trained
    events = [record for file in read_run(folder / run).files for record in file.records if isinstance(record, Event)]

    (said,) = [event.message for event in events if "tokens_per_step" in event.message]

    assert "declared counts" in said
    assert said in printed
