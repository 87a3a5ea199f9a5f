"""The Lightning example runs and ends with its metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "demo" / "lightning_train.py"


@pytest.mark.exhaustive  # tests/integrations holds what the example shows
def test_the_lightning_example_prints_its_metrics(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--steps=20", f"--run-dir={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
        # Beside other tests, threads that wait for each other on too few cores take five times as long.
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr
    metrics = dict(line.split() for line in done.stdout.splitlines() if line.startswith("carbon/"))
    assert float(metrics["carbon/energy_kwh"]) > 0
    assert float(metrics["carbon/operational_kg"]) > 0
    assert list(tmp_path.glob("node-0.attempt-0.jsonl"))
