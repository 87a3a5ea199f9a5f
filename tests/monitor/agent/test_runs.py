"""Which runs the agent of a node shows, and what of them, from real ledgers."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.files import ledger_name
from carbon_plugin.meters.host.machine import read_host_info
from carbon_plugin.monitor.agent.runs import NodeRun, run_directories
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings.options import MonitorOptions

HERE = read_host_info().key


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """Write a run of two attempts on this host, both ended."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    for _ in range(2):
        options = MonitorOptions(min_window_s=0.1)
        with CarbonMonitor(
            run_dir=folder, name="small", site="FRA", total_steps=100, window_s=0.2, quiet=True, options=options,
            programme="P", role="sweep",
        ) as monitor:  # fmt: skip
            for _ in range(5):
                time.sleep(0.02)
                monitor.step_end()
    return folder


def polled(run_dir: Path, host_key: str = HERE) -> NodeRun:
    run = NodeRun(run_dir, host_key)
    run.poll()
    return run


def test_row_has_the_totals_of_all_attempts_as_the_audit_has_them(run_dir):
    row = polled(run_dir).row()
    summary = summarise(run_dir)

    assert row is not None
    assert row.metrics["carbon/energy_kwh"] * 3.6e6 == pytest.approx(summary.energy.energy_j)
    assert row.metrics["carbon/operational_kg"] == pytest.approx(summary.footprint.operational_kg.value)
    assert sum(device.energy_j for device in row.devices) == pytest.approx(summary.energy.energy_j)
    assert {device.power_w for device in row.devices} == {0.0}, "the run has ended"
    run = row.run
    assert (run.run_id, run.name, run.programme, run.role) == (summary.run.run_id, "small", "P", "sweep")
    assert run.total_steps == 100


@pytest.mark.parametrize(("ended_s", "shown"), [(174.0, True), (290.0, True), (400.0, False)])
def test_run_is_shown_for_five_minutes_after_its_end_also_by_a_new_agent(run_dir, tmp_path, ended_s, shown):
    shutil.copytree(run_dir, tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (time.time() - ended_s,) * 2)

    assert run_directories([tmp_path]) == ([tmp_path / "a"] if shown else [])


def test_run_that_has_ended_is_not_active(run_dir):
    assert not polled(run_dir).is_active


def test_killed_run_is_active_until_it_has_been_quiet_for_long(run_dir, tmp_path):
    killed = tmp_path / "killed"
    shutil.copytree(run_dir, killed)
    last = killed / ledger_name(0, 1)
    last.write_bytes(b"".join(line for line in last.read_bytes().splitlines(True) if b'"close"' not in line))

    run = polled(killed)

    assert run.is_active
    assert run.quiet_for_s < 120


def test_run_of_other_nodes_is_not_here(run_dir):
    run = polled(run_dir, "another boot")

    assert not run.is_here
    assert run.row() is None


def test_node_without_the_ledger_of_rank_0_shows_its_devices_only(tmp_path):
    ranks = Ranks(rank=3, local_rank=0, world_size=4, local_world_size=1, node=3, nodes=4)
    options = MonitorOptions(min_window_s=0.1)
    with CarbonMonitor(run_dir=tmp_path, window_s=0.2, quiet=True, options=options, ranks=ranks) as monitor:
        monitor.step_end()
    run = polled(tmp_path)
    row = run.row()

    assert run.is_here
    assert not run.is_whole
    assert row is not None
    assert row.metrics == {}
    assert sum(device.energy_j for device in row.devices) == pytest.approx(summarise(tmp_path).energy.energy_j)


def test_directories_are_found_directly_below_and_only_those_that_grew_lately(run_dir, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run_dir, old)
    for path in old.iterdir():
        os.utime(path, (0, time.time() - 3600))

    assert run_directories([run_dir.parent]) == [run_dir]
    assert run_directories([run_dir]) == [run_dir]
    assert run_directories([tmp_path, tmp_path / "absent"]) == []
