"""FSDP2 as `accelerate launch` starts it; its plain loop is tested in test_loops.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbon_plugin.ledger.reader import manifest_of
from carbon_plugin.ledger.records import Close
from tests.integrations.jobs.telling import told
from tests.ledgers import ledger_of

FSDP2 = Path(__file__).parent / "jobs" / "accelerate_fsdp2.py"


@pytest.mark.exhaustive
def test_fsdp2_of_accelerate_launch_is_measured_in_both_processes(tmp_path):
    pytest.importorskip("accelerate", reason="not installed: accelerate")
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

    said = told(done.stdout, "LOSSES")
    assert len(said) == 2
    for bare, measured, is_fsdp2 in said:
        assert is_fsdp2
        assert measured == bare
    file = ledger_of(tmp_path / "run")
    effective = manifest_of(file.records).effective
    assert effective["layout.dp_shard"]["value"] == 2
    assert effective["layout.dp_shard"]["source"] == "detected: FSDP2 FSDPMeshInfo of 3 parameter groups"
    assert [(r.reason, r.steps) for r in file.records if isinstance(r, Close)] == [("closed", 8)]
