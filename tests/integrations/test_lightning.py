"""Real fits with Lightning: metrics in the logger's file, phases, two ranks, resumption, an exception."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import LedgerFile, manifest_of
from carbon_plugin.ledger.records import Close, Manifest, Window
from carbon_plugin.ledger.verification.verify import verify_run
from tests.integrations.jobs.telling import told
from tests.ledgers import ledger_of, ledgers_of

JOB = Path(__file__).parent / "jobs" / "lightning_fit.py"


def environment(folder: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
    return ours | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}


@pytest.fixture(scope="session")
def fit(launcher) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the job in one process, or in ranks: `fit(folder)`, `fit(folder, processes=2)`."""

    def run(
        folder: Path, *arguments: str, processes: int | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = launcher.run(
            JOB, "--root", folder, *arguments,
            processes=processes, modules=("lightning",), env=environment(folder), cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


def logged(folder: Path, version: int = 0) -> list[dict[str, str]]:
    with (folder / "lightning_logs" / f"version_{version}" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    (outcome,) = told(done.stdout, "RESULT")
    return outcome


def windows(file: LedgerFile) -> list[Window]:
    return [record for record in file.records if isinstance(record, Window)]


@pytest.fixture(scope="module", params=["by torchrun", pytest.param("by the trainer", marks=pytest.mark.exhaustive)])
def ddp(request, fit, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Run a fit of two ranks that torchrun starts, or whose trainer starts the second by the command of the first."""
    folder = tmp_path_factory.mktemp("ddp")
    if request.param == "by torchrun":
        return folder, result(fit(folder, "--devices", "2", "--validate-into", str(folder / "alone"), processes=2))
    command = [sys.executable, str(JOB), "--root", str(folder), "--devices", "2"]
    done = subprocess.run(
        command, env=environment(folder), cwd=folder, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return folder, result(done)


@pytest.fixture(scope="module")
def resumed(fit, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("resumed")
    return folder, fit(folder, "--run-dir", str(folder / "run"), "--resume-and-raise", check=False)


def test_metrics_arrive_in_the_loggers_file_on_its_own_axis(ddp):
    folder, _ = ddp
    rows = [row for row in logged(folder) if row["carbon/energy_kwh"]]

    assert len(rows) >= 3
    energies = [float(row["carbon/energy_kwh"]) for row in rows]
    assert energies == sorted(energies)
    assert all(len(row["carbon/ledger_head"]) == 32 for row in rows)
    assert {int(row["step"]) for row in rows} <= {int(row["step"]) for row in logged(folder) if row["loss"]}


def test_ranks_share_one_run_and_one_ledger_whoever_starts_them(ddp):
    _, outcome = ddp
    file = ledger_of(outcome["run_dir"])
    manifest = manifest_of(file.records)

    assert Path(outcome["run_dir"]).parent.name == "runs"
    assert manifest.world_size == 2
    assert manifest.effective["layout.dp_replicate"]["source"] == "detected: process group of DDP"
    assert manifest.effective["training.steps"]["source"] == "detected: trainer.max_epochs and its batches"
    assert manifest.effective["training.global_batch_size"]["value"] == 16
    assert manifest.effective["model.layers"]["value"] == 2
    assert {"lightning", "torch"} <= manifest.versions.keys()


def test_accumulated_batches_are_one_step_and_validation_is_a_phase(ddp):
    _, outcome = ddp
    file = ledger_of(outcome["run_dir"])
    (close,) = [record for record in file.records if isinstance(record, Close)]

    assert (close.reason, close.steps) == ("closed", 16)
    assert outcome["state"]["step"] == 16
    phases = {window.phase for window in windows(file)}
    assert {"startup", "train", "evaluation", "checkpoint"} <= phases
    evaluation = sum(window.duration_s for window in windows(file) if window.phase == "evaluation")
    assert evaluation >= 0.4


@pytest.mark.exhaustive
def test_second_fit_goes_on_as_another_attempt_from_the_checkpoints_step(resumed):
    folder, done = resumed
    first, second = ledgers_of(folder / "run")

    assert "the user's own" in done.stderr
    assert first.path.name.endswith("attempt-0.jsonl")
    assert windows(first)[-1].last_step == 16
    stepped = [window for window in windows(second) if window.steps]
    assert stepped[0].last_step - stepped[0].steps == 15
    assert verify_run(folder / "run").ok


@pytest.mark.exhaustive
def test_exception_closes_the_ledger_with_its_name(resumed):
    folder, done = resumed
    _, second = ledgers_of(folder / "run")

    closes = [record.reason for record in second.records if isinstance(record, Close)]
    assert closes == ["exception: RuntimeError"]
    assert done.returncode == 1


@pytest.mark.exhaustive
def test_checkpoint_holds_plain_scalars_under_a_constant_key(resumed):
    folder, _ = resumed
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)

    state = checkpoint["callbacks"]["carbon_plugin"]
    assert state["step"] == 20
    assert {type(value) for value in state.values()} <= {int, float, str}


def test_last_row_has_the_totals_of_the_run(ddp):
    folder, outcome = ddp
    rows = [row for row in logged(folder) if row["carbon/energy_kwh"]]

    energy_j = summarise(outcome["run_dir"]).energy.energy_j
    assert float(rows[-1]["carbon/energy_kwh"]) == pytest.approx(energy_j / 3.6e6)


@pytest.mark.parametrize("ddp", ["by torchrun"], indirect=True)
def test_validation_alone_leaves_a_record_of_an_evaluation(ddp):
    run_dir = ddp[0] / "alone" / "run"

    file = ledger_of(run_dir)
    assert [record.reason for record in file.records if isinstance(record, Close)] == ["closed"]
    evaluation = [window for window in windows(file) if window.phase == "evaluation"]
    assert sum(window.duration_s for window in evaluation) >= 0.2
    assert sum(window.steps for window in windows(file)) == 0
    summary = summarise(run_dir)
    assert summary.by_phase["evaluation"].energy_j > 0
    assert verify_run(run_dir).ok


def test_tokens_are_those_of_the_batches_that_were_trained_on_whatever_their_sizes(launcher, tmp_path):
    job = JOB.with_name("lightning_batches.py")
    done = launcher.run(job, tmp_path, modules=("lightning",), env=environment(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    by_hand = {name: (tokens, steps) for name, _, tokens, steps in told(done.stdout, "FIT")}
    progress = {name: summarise(run_dir).progress for name, run_dir, _, _ in told(done.stdout, "FIT")}

    assert len(by_hand) == 5
    assert {name: (one.tokens, one.steps) for name, one in progress.items()} == by_hand
    assert all("step by step" in one.tokens_source for one in progress.values())


@pytest.fixture(scope="module")
def again(launcher, tmp_path_factory) -> Callable[[str], list[tuple[int, int, int | None]]]:
    """Return by the name of a run of `lightning_again.py` the first and last step of each fit, and the length of the
    run that was known in it."""
    folder = tmp_path_factory.mktemp("again")
    job = JOB.with_name("lightning_again.py")
    done = launcher.run(job, folder, modules=("lightning",), env=environment(folder), cwd=folder)
    assert done.returncode == 0, done.stderr

    def fits(name: str) -> list[tuple[int, int, int | None]]:
        found = []
        for file in ledgers_of(folder / name):
            last = windows(file)[-1].last_step
            total = [record.total_steps for record in file.records if isinstance(record, Manifest)][-1]
            found.append((last - sum(window.steps for window in windows(file)), last, total))
        return found

    return fits


def test_length_of_a_run_follows_the_accumulation_of_each_epoch_and_goes_on_in_a_second_fit(again):
    assert again("schedule") == [(0, 17, 17), (17, 21, 21)]


def test_a_second_fit_goes_on_at_the_step_of_the_run_whatever_optimizers_step_in_an_iteration(again):
    assert again("gan") == [(0, 10, 10), (10, 20, 20), (10, 20, 20)]
    assert again("stated") == [(100, 110, 110), (110, 120, 120), (110, 120, 120)]


def test_steps_of_all_optimizers_use_up_the_steps_of_a_trainer(again):
    assert again("max_steps") == [(0, 10, 12)]  # one step of an optimizer in the first iteration
