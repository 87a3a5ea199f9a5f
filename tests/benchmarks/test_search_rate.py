"""The search benchmark compares what it says with what the search finds; how fast that is is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "search.py"


def test_a_search_and_its_layouts_one_at_a_time_agree_and_are_timed(tmp_path: Path):
    written = tmp_path / "results" / "search.json"
    options = ["--specs", "llama3-70b-h100-hsdp", "--rounds=1", "--sampled=30", f"--output={written}"]
    subprocess.run([sys.executable, BENCHMARK, *options], capture_output=True, text=True, check=True)

    measured = json.loads(written.read_text())["searches"]["llama3-70b-h100-hsdp"]
    assert measured["considered"] > measured["fully_evaluated"] > 0
    assert measured["compared_layouts"] >= 30
    assert measured["times_faster"] > 0
