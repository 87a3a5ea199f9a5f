"""A budget that is exceeded ends real jobs of two processes: both ranks after the same step, with a checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from carbon_plugin.audit.live import live_view
from carbon_plugin.audit.sentences.narrative import opening
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Projection
from carbon_plugin.ledger.verification.verify import verify_run
from tests.ledgers import ledger_of
from tests.monitor.launching import wait_until
from tests.pages import blocks_of

JOB = Path(__file__).parent / "jobs" / "budget.py"
TITAN = ("torchtitan", "spmd_types", "torchdata", "torch_checkpointing", "tokenizers", "datasets")
LOOPS = [
    pytest.param("plain", (), "checkpoint.pt", id="plain"),
    *(
        pytest.param(loop, needs, checkpoint, id=loop, marks=pytest.mark.exhaustive)
        for loop, needs, checkpoint in (
            ("decorated", (), "checkpoint.pt"),
            ("hf", ("transformers",), "out/checkpoint-{step}"),
            ("lightning", ("lightning",), "budget-step={step}.ckpt"),
            ("fabric", ("lightning",), "checkpoint.ckpt"),
            ("accelerate", ("accelerate",), "checkpoint/optimizer.bin"),
            ("deepspeed", ("deepspeed",), "checkpoint/global_step{step}"),
            ("megatron", ("megatron.core",), "checkpoint.pt"),
            ("torchtitan", TITAN, "out/checkpoint/step-{step}"),
            ("jax", ("jax",), "checkpoint.pt"),
        )
    ),
]


@pytest.mark.parametrize(("loop", "needs", "checkpoint"), LOOPS)
def test_both_ranks_stop_after_the_same_step_with_a_checkpoint(
    torchrun: Callable[..., object], tmp_path: Path, loop: str, needs: tuple[str, ...], checkpoint: str
) -> None:
    if missing := [package for package in needs if find_spec(package) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("CARBON")}
    torchrun(
        JOB, loop, tmp_path / "run", processes=2, imported_once=needs, env={**environ, "TMPDIR": str(tmp_path)}
    )  # fmt: skip

    first, second = (int((tmp_path / f"ended-{rank}").read_text()) for rank in range(2))
    assert 0 < first == second < 5000
    assert (tmp_path / checkpoint.format(step=first)).exists()
    file = ledger_of(tmp_path / "run")
    events = {record.kind: record for record in file.records if isinstance(record, Event)}
    assert events["budget_exceeded"].message.startswith("the budget is exceeded at step ")
    assert "energy: " in events["budget_exceeded"].message
    assert events["budget_stop"].data["at_step"] == first
    (close,) = (record for record in file.records if isinstance(record, Close))
    assert close.reason.startswith(f"stopped after step {first:,}: the budget is exceeded: energy")
    assert manifest_of(file.records).budget == {"energy_kwh": 1e-9, "on_exceed": "stop", "on": "central"}
    last = [record for record in file.records if isinstance(record, Projection)][-1]
    assert last.remaining_s == 0
    assert last.energy_j[1] == pytest.approx(last.spent_energy_j)
    assert verify_run(tmp_path / "run").ok
    summary = summarise(tmp_path / "run")
    assert [line.quantity for line in summary.budget] == ["energy_kwh"]
    assert summary.budget[0].share > 1
    assert "It is beyond its budget (energy: " in opening(summary)
    assert "which ended it" in opening(summary)
    assert dict(live_view(tmp_path / "run").rows)["budget"].startswith("energy: ")
    if loop == "plain":
        assert float((tmp_path / "share").read_text()) > 1


def events_of(run_dir: Path) -> list[Event]:
    return [record for record in ledger_of(run_dir).records if isinstance(record, Event)]


def test_ranks_without_a_common_directory_stop_through_the_store_of_their_job(torchrun, tmp_path):
    environ = {key: value for key, value in os.environ.items() if not key.startswith("CARBON")}
    torchrun(JOB, "plain", tmp_path / "run-{rank}", processes=2, imported_once=(), env=environ)

    first, second = (int((tmp_path / f"ended-{rank}").read_text()) for rank in range(2))
    assert 0 < first == second < 5000
    assert [(tmp_path / f"same-{rank}").read_text() for rank in range(2)] == ["True", "True"]
    *tries, agreed = [event for event in events_of(tmp_path / "run-0") if event.kind.startswith("budget_stop")]
    assert "rank 1 had not answered" in tries[0].message  # in the directory that it cannot see
    assert {event.kind for event in tries} == {"budget_stop_failed"}
    assert (agreed.kind, agreed.data["at_step"]) == ("budget_stop", first)
    for rank in range(2):
        (file,) = read_run(tmp_path / f"run-{rank}").files
        (close,) = (record for record in file.records if isinstance(record, Close))
        assert close.reason.startswith(f"stopped after step {first:,}: the budget is exceeded: energy")


@pytest.mark.exhaustive
def test_nobody_stops_for_a_rank_that_never_answers_and_the_record_says_so(launcher, tmp_path):
    environ = {key: value for key, value in os.environ.items() if not key.startswith("CARBON")}
    enough, ledger = tmp_path / "enough", tmp_path / "run-0" / "node-0.attempt-0.jsonl"
    own = {"JOB_UNTIL": str(enough), "JOB_UNMEASURED": "1"}
    job = launcher.start(JOB, "plain", tmp_path / "run-{rank}", processes=2, env=environ | own)
    wait_until(lambda: job.poll() is not None or (ledger.exists() and b"budget_stop" in ledger.read_bytes()))
    enough.touch()
    _, errors = job.communicate()
    assert job.returncode == 0, errors

    first, second = (int((tmp_path / f"ended-{rank}").read_text()) for rank in range(2))
    assert 0 < first == second < 5000
    assert not (tmp_path / "checkpoint.pt").exists()
    assert [(tmp_path / f"same-{rank}").read_text() for rank in range(2)] == ["True", "True"]
    kinds = [event.kind for event in events_of(tmp_path / "run-0")]
    assert "budget_stop_failed" in kinds
    assert "budget_stop" not in kinds
    assert "the ranks could not agree on a step to stop at, because rank 1 had not answered" in errors


@pytest.mark.exhaustive
def test_program_of_the_page_on_budgets_runs(tmp_path):
    """It has no GPU to exceed its budget with, so that it goes to its end."""
    (program,) = (block.code for block in blocks_of("docs/budgets.md", "python"))

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "budget: at most 5 kgCO2e and 40 kWh, else the training stops" in done.stderr
