"""The benchmark of a fleet measures every step that it names; how long they take is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "fleet.py"


@pytest.mark.exhaustive
def test_ingest_and_query_are_measured_beside_audits_and_pandas(tmp_path: Path):
    pytest.importorskip("duckdb")
    written = tmp_path / "fleet.json"
    page = tmp_path / "fleet.md"
    page.write_text("before\n<!-- written by benchmarks/fleet.py -->\nold\n<!-- end -->\nafter\n")
    options = ["--runs=12", "--rows=40000", "--pandas-rows=40000", f"--output={written}", f"--page={page}"]
    subprocess.run([sys.executable, BENCHMARK, *options], capture_output=True, text=True, check=True)

    result = json.loads(written.read_text())
    ingest, beside = result["ingest"], result["query"]["beside"]
    assert ingest["in_one_process"]["count"] == 12
    assert ingest["first"]["count"] == ingest["again_unchanged"]["count"] == ingest["as_audits"]["count"] == 12
    assert beside["duckdb"]["count"] == beside["pandas"]["count"] == result["query"]["duckdb"]["count"] > 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert sum(line.startswith("| ") for line in lines) == 10  # headings, rule, eight measurements
