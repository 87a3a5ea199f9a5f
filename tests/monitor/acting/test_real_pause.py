"""Two real ranks in step pause at the same checkpoint while the grid is dirty, and only where that saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.records import Event, Window
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.spec.loading import build_run_spec
from tests.ledgers import assert_drawn, energy_of, ledger_of, sum_of
from tests.monitor.conftest import started

PLAN = {
    "name": "llama",
    "model": "llama3.2-1b",
    "cluster": {"accelerator": "h100-sxm", "nodes": 1, "devices_per_node": 2},
    "layout": {"micro_batch_size": 1, "recompute": "full"},
    "training": {"seq_len": 2048, "global_batch_size": 2, "steps": 1000, "precision": "bf16"},
    "site": {"zone": "FRA"},
}


@pytest.fixture(scope="module")
def folder(simulated_nvml, monitor_launcher, tmp_path_factory) -> Path:
    """Return the folder of a job that has paused once."""
    folder = tmp_path_factory.mktemp("paused")
    (folder / "forecast.json").write_bytes(msgspec.json.encode(make_forecast(build_run_spec(PLAN))))
    common = {"spec": "gpus=2;power=600", "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "TMPDIR": folder}
    with started(simulated_nvml, monitor_launcher, folder) as start:
        ranks = [start("paused.py", folder / "run", folder, **common, RANK=n, LOCAL_RANK=n) for n in range(2)]
        for rank in ranks:
            _, errors = rank.communicate(timeout=240)
            assert rank.returncode == 0, errors
    return folder


def records(folder: Path, kind: type) -> list[Any]:
    return [record for record in ledger_of(folder / "run").records if isinstance(record, kind)]


def test_both_ranks_pause_at_one_checkpoint_until_one_moment_and_go_on(folder):
    (first,), (second,) = (json.loads((folder / f"paused-{rank}.json").read_text()) for rank in range(2))

    assert first["step"] == second["step"]
    assert first["known"] >= 3  # the two checkpoints before it were above the threshold, too, and a pause had cost more
    # One before it may have been over when a rank that was held up had heard of it.
    *_, event = (event for event in records(folder, Event) if event.kind == "paused")
    assert "above 300 g/kWh: the rest of the run emits" in event.message
    last = max(window.last_step for window in records(folder, Window))
    assert last == first["step"] + 40


def test_the_energy_of_a_pause_is_that_of_the_phase_idle_and_the_audit_shows_it(folder):
    idle = [window for window in records(folder, Window) if window.phase == "idle" and window.steps == 0]
    paused_s = sum(window.duration_s for window in idle)
    gpus = {e.key: energy_of(idle, e.key) for window in idle for e in window.energies if e.key.startswith("GPU")}
    summary = summarise(folder / "run")

    assert paused_s > 0
    assert len(gpus) == 2
    for energy in gpus.values():  # the counter stands still for 0.1 s at a time, at both ends of the pause
        assert_drawn(energy, 600, 0.95 * paused_s - 0.2, 1.05 * paused_s + 0.2)
    assert summary.by_phase["idle"].energy_j >= sum_of(gpus.values()).value
    assert any(event.kind == "paused" for event in summary.events)
