"""The overhead benchmark measures what it says, on a simulated driver; how much it measures is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "hook_overhead.py"


@pytest.mark.exhaustive
def test_both_sides_are_measured_and_compared_in_pairs(tmp_path):
    output = tmp_path / "results" / "overhead.json"
    command = [sys.executable, BENCHMARK, "--pairs=1", "--block-seconds=1", "--gpus=2", f"--output={output}"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == result
    assert result["pairs"] == 1
    assert min(result["steps"].values()) > 0  # a machine that is busy may do one step in the second of a block
    assert result["throughput_ratio"]["low"] == result["throughput_ratio"]["high"] > 0
    assert 0 <= result["call_us"]["p50"] <= result["call_us"]["p99"] <= result["call_us"]["max"]
    assert result["background_core_share"] >= 0
