"""An exception in any of our entry points: the training is bit-identical, and there is one warning and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.safety.jobs.faults import BESIDE

JOB = Path(__file__).parent / "jobs" / "faults.py"

QUIET = {
    "carbon_plugin.detect.live:detect_model",
    "carbon_plugin.detect.live:computing_gpus",
    "carbon_plugin.detect.batch:BatchWatch._see",
    "carbon_plugin.monitor.context:predict_step",
}
"""What may fail without switching anything off: it is a remark in the ledger at most."""


@pytest.fixture(scope="module")
def rows(launcher, nvml_simulator, tmp_path_factory) -> list[dict[str, Any]]:
    import os

    folder = tmp_path_factory.mktemp("faults")
    environ = {**os.environ, "LD_LIBRARY_PATH": str(nvml_simulator), "NVML_SIM": "gpus=2;power=300,400"}
    done = launcher.run(JOB, folder, env={**environ, "TMPDIR": str(folder)})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_losses_are_bit_identical_with_and_without_us_under_every_fault(rows):
    bare = rows[0]["losses"]

    different = [row["fault"] for row in rows[1:] if row["losses"] != bare]

    assert len(rows) > 35
    assert different == []


def test_every_fault_is_one_warning(rows):
    warned = {row["fault"]: row["warnings"] for row in rows[2:]}

    assert {fault for fault, lines in warned.items() if not lines} == QUIET
    assert {fault: lines for fault, lines in warned.items() if len(lines) > 1} == {}
    assert all("training goes on" in line for lines in warned.values() for line in lines)


def test_without_a_fault_nothing_is_said(rows):
    assert rows[1]["warnings"] == []
    assert rows[1]["faults"] == []


def test_every_ledger_is_whole_and_closed_at_most_once(rows):
    assert all(row["intact"] and len(row["closes"]) <= 1 for row in rows[1:])


@pytest.mark.parametrize("part", BESIDE)
def test_energy_is_recorded_on_when_something_beside_it_fails(rows, part):
    (row,) = [row for row in rows[1:] if row["fault"].endswith(f":{part}")]

    assert row["windows"] > 2
    assert row["closes"] == ["closed"]
    assert len(row["faults"]) == 1
