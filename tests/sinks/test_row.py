"""What is left of the figures of a run that has ended."""

from __future__ import annotations

import csv
import time

from msgspec.structs import replace

from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.sinks.line import line_of
from carbon_plugin.sinks.metrics.exposition import Exposition, as_text
from carbon_plugin.sinks.row import PREFIX, at_rest, without_outlook
from carbon_plugin.spec.options import SpanRule


def test_a_run_that_ended_early_projects_nothing_and_draws_no_power(rows):
    (row,) = rows(1)

    ended = at_rest(row)

    assert not [name for name in ended.metrics if "projected" in name or "remaining" in name or "budget" in name]
    assert ended.metrics[f"{PREFIX}power_w"] == 0.0
    assert {device.power_w for device in ended.devices} == {0.0}
    assert ended.metrics[f"{PREFIX}energy_kwh"] == row.metrics[f"{PREFIX}energy_kwh"]
    said = line_of(ended)
    assert said.endswith("ended")
    assert "to go" not in said
    assert "projected" not in said


def test_a_run_that_reached_its_last_step_keeps_its_figures(rows):
    (row,) = rows(1)
    metrics = {**row.metrics, f"{PREFIX}remaining_h": 0.0}

    assert without_outlook(metrics) == metrics
    assert line_of(replace(row, metrics=metrics, ended=True)).endswith("ended")


def test_the_endpoint_of_rank_0_and_that_of_the_agent_show_an_ended_run_alike(rows):
    (row,) = rows(1)
    of_rank_0, of_agent = Exposition({}), Exposition({})

    of_rank_0.show_run(row)
    of_rank_0.end_run(row.run.run_id)
    of_agent.show_run(row, active=False)

    assert as_text(of_rank_0) == as_text(of_agent)
    powers = [line for line in as_text(of_agent).splitlines() if "power_watts{" in line]
    assert len(powers) >= 3
    assert all(line.endswith(" 0.0") for line in powers)
    assert "projected" not in as_text(of_agent)


def test_the_last_row_of_a_run_that_ends_early_says_so_and_looks_no_further(tmp_path):
    (tmp_path / "run").mkdir()
    options = MonitorOptions(min_window_s=0.1, span_rule=SpanRule(min_s=0.01, min_steps=2, warmup_steps=0))
    file = tmp_path / "run" / "metrics.csv"
    with CarbonMonitor(
        run_dir=tmp_path / "run", site="FRA", total_steps=1000, window_s=0.2, quiet=True, log="csv", options=options
    ) as monitor:
        for _ in range(10):
            time.sleep(0.05)
            monitor.step_end()

    last = list(csv.DictReader(file.read_text().splitlines()))[-1]
    assert last["step"] == "10"
    assert float(last["carbon/energy_kwh"]) > 0
    assert not [name for name, value in last.items() if value and ("projected" in name or "remaining" in name)]
    assert "carbon/remaining_h" not in monitor.metrics()
