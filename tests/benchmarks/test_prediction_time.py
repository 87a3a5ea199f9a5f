"""The benchmark of one prediction times what it says it does; how fast that is is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "prediction.py"


def test_every_spec_is_timed_as_it_is_and_under_plain_pytorch(tmp_path: Path):
    written = tmp_path / "results" / "prediction.json"

    subprocess.run([sys.executable, BENCHMARK, "--calls=2", f"--output={written}"], capture_output=True, check=True)

    measured = json.loads(written.read_text())["predictions"]
    assert {"llama3-8b-h100", "deepseek-v3-h800"} <= measured.keys()
    assert all(times["as_stated_ms"] > 0 and times["plain_pytorch_ms"] > 0 for times in measured.values())
