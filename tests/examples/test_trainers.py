"""The examples for trainers of frameworks run and end with their metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.exhaustive  # tests/integrations holds what the examples show
@pytest.mark.parametrize(
    ("example", "needs"),
    [("demo/lightning_train.py", ("lightning",)), ("transformers/train.py", ("accelerate", "transformers"))],
    ids=["Lightning", "Hugging Face Trainer"],
)
def test_the_example_prints_its_metrics(tmp_path, example, needs):
    missing = [name for name in needs if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {missing}; `make test` installs them")
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, "--steps=20", f"--run-dir={tmp_path}"],
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
