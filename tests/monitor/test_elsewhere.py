"""A training on a system that is not Unix: it is metered as far as that system tells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close, Window

JOB = Path(__file__).parent / "jobs" / "without_unix.py"


def test_without_what_only_unix_has_a_training_is_recorded_with_a_modelled_host(tmp_path: Path) -> None:
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, JOB, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert "switched off" not in done.stderr
    (file,) = read_run(tmp_path / "run").files
    manifest = manifest_of(file.records)
    assert manifest is not None
    assert {device.name: device.energy_kind for device in manifest.devices} == {"cpu": "modelled", "dram": "modelled"}
    windows = [record for record in file.records if isinstance(record, Window)]
    joules = {
        name: sum(e.energy_j or 0.0 for w in windows for e in w.energies if e.key.endswith(name))
        for name in ("cpu", "dram")
    }
    assert min(joules.values()) > 0
    assert [record.reason for record in file.records if isinstance(record, Close)] == ["closed"]
