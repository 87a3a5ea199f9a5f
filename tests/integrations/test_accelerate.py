"""A real loop of accelerate in two processes: steps, phases, layout, figures in its logger, an exception."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close

FSDP2 = Path(__file__).parent / "jobs" / "accelerate_fsdp2.py"


@pytest.fixture(scope="module")
def loop(run_loop) -> dict[str, Any]:
    return run_loop("accelerate", "raise", needs=("accelerate",))


def test_optimizer_steps_are_counted_and_not_micro_batches(loop):
    assert loop["step"] == 16
    assert loop["steps"] == 16


def test_losses_of_both_ranks_are_bit_identical(loop):
    assert len(loop["losses"]) == 2
    for bare, measured in loop["losses"]:
        assert len(bare) == 32
        assert measured == bare


def test_layout_is_read_from_the_framework(loop):
    axis = loop["manifest"].effective["layout.dp_replicate"]

    assert axis["value"] == 2
    assert axis["source"] == "detected: process group of DDP"
    assert loop["manifest"].effective["training.micro_batches"]["value"] == 2


def test_mixed_precision_is_that_of_the_forward_pass_and_not_of_the_stored_weights(loop):
    assert loop["manifest"].effective["training.precision"]["value"] == "bf16"


def test_phases_are_marked(loop):
    assert {"train", "checkpoint"} <= loop["phases"]


def test_figures_are_in_rows_of_the_script_on_its_axis(loop):
    with_figures = [step for step, row in loop["rows"] if "loss" in row and "carbon/energy_kwh" in row]

    assert len(with_figures) >= 2
    steps = [step for step, _ in loop["rows"]]
    assert steps == sorted(steps), "a tracker with one axis drops rows that are behind the one before"


def test_last_row_has_the_totals(loop):
    _, last = loop["rows"][-1]

    assert last["carbon/energy_kwh"] == pytest.approx(loop["energy_kwh"])


def test_exception_of_the_user_passes_and_closes_the_ledger(loop):
    assert "the user's own" in loop["stderr"]
    assert loop["returncode"] != 0
    assert loop["closed"] == ["exception: RuntimeError"]
    assert loop["verified"]


@pytest.mark.exhaustive
@pytest.mark.skipif(find_spec("accelerate") is None, reason="not installed: accelerate")
def test_fsdp2_of_accelerate_launch_is_measured_in_both_processes(tmp_path):
    options = ["--use_fsdp", "--fsdp_version=2", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
    options += ["--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP", "--fsdp_transformer_layer_cls_to_wrap=Block"]
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options]
    launch += ["--dynamo_backend=no", "--main_process_port=0"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
    env = kept | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*launch, str(FSDP2), str(tmp_path / "run")], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    said = [json.loads(line.removeprefix("LOSSES ")) for line in done.stdout.splitlines() if line.startswith("LOSSES")]
    assert len(said) == 2
    for bare, measured, is_fsdp2 in said:
        assert is_fsdp2
        assert measured == bare
    (file,) = read_run(tmp_path / "run").files
    effective = manifest_of(file.records).effective
    assert effective["layout.dp_shard"]["value"] == 2
    assert effective["layout.dp_shard"]["source"] == "detected: FSDP2 FSDPMeshInfo of 3 parameter groups"
    assert [(r.reason, r.steps) for r in file.records if isinstance(r, Close)] == [("closed", 8)]
