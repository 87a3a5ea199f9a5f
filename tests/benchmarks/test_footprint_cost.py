"""The accounting benchmark measures every call that it names; how long they take is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "footprint_cost.py"


def test_every_call_is_measured():
    done = subprocess.run([sys.executable, BENCHMARK, "--calls=3"], capture_output=True, text=True, check=True)

    result = json.loads(done.stdout)
    assert sorted(result) == ["account_2000_draws_ms", "account_400_draws_ms", "drivers_ms"]
    assert min(result.values()) > 0
