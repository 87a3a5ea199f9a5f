"""The program of docs/loops.md for Ray Train, on a real local Ray with two workers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from carbon_plugin.ledger.reader import manifest_of
from carbon_plugin.ledger.records import Close
from carbon_plugin.ledger.verification.verify import verify_run
from tests.ledgers import ledger_of
from tests.pages import blocks_of


def program() -> str:
    (found,) = (block.code for block in blocks_of("docs/loops.md", "python") if "TorchTrainer" in block.code)
    return found


@pytest.mark.exhaustive
@pytest.mark.skipif(find_spec("ray") is None, reason="not installed: ray")
def test_workers_of_ray_share_one_ledger_and_train_bit_identically(tmp_path):
    # Where amdsmi is installed without its driver, importing it raises a KeyError, which Ray does not expect.
    (tmp_path / "amdsmi.py").write_text("raise ImportError('no driver')")
    losses = []
    for variables in ({"CARBON_PLUGIN_DISABLED": "1"}, {}):
        (tmp_path / "train.py").write_text(program())
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
        done = subprocess.run(
            [sys.executable, "train.py"],
            env=kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)} | variables,
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        losses.append([path.read_text() for path in sorted((tmp_path / "runs").glob("losses-*.txt"))])

    assert [len(text.split()) for text in losses[0]] == [10, 10]
    assert losses[1] == losses[0]
    file = ledger_of(tmp_path / "runs" / "ray")
    assert manifest_of(file.records).world_size == 2
    assert [(r.reason, r.steps) for r in file.records if isinstance(r, Close)] == [("closed", 10)]
    assert verify_run(tmp_path / "runs" / "ray").ok
