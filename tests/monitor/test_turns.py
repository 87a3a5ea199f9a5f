"""The monitor thread never works for long without letting the training run: no piece of its work has many
instructions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from carbon_plugin.footprint import uncertainty
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.run.follower import LedgerFollower
from tests.monitor.conftest import started
from tests.monitor.test_nodes import manifest, window
from tests.threads.pieces import MOST_INSTRUCTIONS, pieces_of

WINDOWS = 6
NODES = 40
COLLECTIONS = """
import gc, sys
from carbon_plugin import CarbonMonitor
gc.set_threshold(10**9)  # nothing is collected but what somebody asks for
if sys.argv[2] == "off":
    gc.disable()
monitor = CarbonMonitor(site="FRA", run_dir=sys.argv[1], quiet=True)
before = gc.get_stats()[1]["collections"]
monitor.start()
print(gc.get_stats()[1]["collections"] - before)
monitor.close()
"""


def test_windows_of_eight_gpus_are_recorded_and_projected_in_short_pieces(simulated_nvml, monitor_launcher, tmp_path):
    with started(simulated_nvml, monitor_launcher, tmp_path) as start:
        process = start("pieces.py", tmp_path / "run", WINDOWS, spec="gpus=8;power=300", interpreter=True)
        output, errors = process.communicate(timeout=240)

    found = json.loads(output.splitlines()[-1])
    monitor, driver = found["carbon-plugin"], found["carbon-plugin-driver"]
    assert found["windows"] >= WINDOWS, errors
    assert monitor["pieces"] > 50 * WINDOWS
    assert driver["pieces"] >= 8 * (WINDOWS - 2)
    for thread in (monitor, driver):
        instructions, functions = thread["longest"]
        assert instructions <= MOST_INSTRUCTIONS, functions


@pytest.mark.parametrize(("collector", "collections"), [("on", 1), ("off", 0)])
def test_the_garbage_of_the_start_is_collected_before_the_thread_runs(collector: str, collections: int, tmp_path: Path):
    command = [sys.executable, "-c", COLLECTIONS, str(tmp_path / "run"), collector]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert int(done.stdout) == collections, done.stderr


def test_ledgers_of_many_nodes_are_read_in_short_pieces(tmp_path: Path):
    for node in range(NODES):
        with_history(tmp_path, node, windows=5)
    with_history(tmp_path, NODES, windows=500)
    follower = LedgerFollower(tmp_path, None, budget_s=600.0)

    counted = pieces_of(follower.poll)

    assert sum(file.windows for file in follower.files.values()) == 5 * NODES + 500
    assert counted.longest[0] <= MOST_INSTRUCTIONS, counted.longest


@pytest.mark.parametrize("draws", [400, 2000])
def test_samples_are_drawn_for_the_first_time_in_short_pieces(draws: int):
    np.random.default_rng(0)  # its modules are loaded before a training, by `USED_BY_THE_THREAD`
    uncertainty.scores.cache_clear()
    uncertainty.score_table.cache_clear()
    uncertainty._strata.cache_clear()

    counted = pieces_of(lambda: uncertainty.score_table(("intensity", "pue", "embodied gpu"), draws, 0))

    assert sum(instructions for instructions, _ in counted.pieces) > 10 * draws
    assert counted.longest[0] <= MOST_INSTRUCTIONS, counted.longest


def with_history(run_dir: Path, node: int, windows: int) -> None:
    """Write the ledger of a node."""
    writer = LedgerWriter(run_dir, run_id="run", node=node)
    writer.write(manifest(node))
    for index in range(windows):
        writer.write(window(node, index))
    writer.close()
