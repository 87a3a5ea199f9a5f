"""What the charts of a report draw: peaks that a mean would hide, and the run at other hours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from carbon_plugin.audit.measured import measured_run
from carbon_plugin.audit.report.charts.all_charts import charts_of
from carbon_plugin.audit.report.otherwise import at_hours
from carbon_plugin.audit.report.page import render_html
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.footprint.values import Factors
from carbon_plugin.plan.whatif.measured_run import compare_run
from tests.ledger.builder import Attempt, Job

DAY_S = 86400.0
PEAK = 2.5


@pytest.fixture(scope="module")
def job(factors: Factors) -> Job:
    """Return a run of 90 days on one node with windows of 10 minutes, one of which has a high power on the
    tenth day.
    """
    return Job(
        factors=msgspec.to_builtins(factors),
        intensity_g_per_kwh=41.4,
        pue=1.2,
        nodes=1,
        window_s=600.0,
        attempts=[Attempt(0, 10_640)],
        peak=(0, 1100, PEAK),
        series=lambda unix_s: 40.0 if unix_s % DAY_S < 43200 else 60.0,
    )


@pytest.fixture(scope="module")
def ninety_days(job: Job, tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    directory = tmp_path_factory.mktemp("ninety") / "run"
    job.write(directory)
    return summarise(directory)


def test_peak_of_ten_minutes_in_ninety_days_is_drawn_and_in_the_table(ninety_days: AuditSummary) -> None:
    assert ninety_days.period.wall_s > 90 * DAY_S
    energies_j = map(sum, zip(*ninety_days.series.rung_energy_j.values(), strict=True))
    means_w = [j / ninety_days.series.width_s for j in energies_j]
    peak_w = max(ninety_days.series.power_high_w)
    assert peak_w == pytest.approx(2 * PEAK * 400.0 + 150.0, rel=0.1)
    assert max(means_w) < 0.6 * peak_w

    power = charts_of(ninety_days)["power"]
    assert power.live is not None
    total = next(one for one in power.live["series"] if one["name"] == "all machines")
    assert max(total["highs"]) == pytest.approx(peak_w / 1e3, rel=1e-5)
    assert "lowest, highest" in power.wide
    assert max(float(row[-1]) for row in power.rows) == pytest.approx(peak_w / 1e3, rel=1e-3)


def test_peak_of_one_gpu_and_range_of_the_grid_within_a_bin_are_drawn(ninety_days: AuditSummary) -> None:
    charts = charts_of(ninety_days)
    gpu = charts["gpus"].live
    assert gpu is not None
    assert max(gpu["series"][0]["highs"]) == pytest.approx(PEAK * 400.0, rel=0.1)

    # 90 days are in bins of 4.6 hours, of which some hold a change of the grid.
    grid = charts["intensity"].live
    assert grid is not None
    lows, highs = (grid["series"][0][name] for name in ("lows", "highs"))
    assert (min(lows), max(highs)) == (40.0, 60.0)
    assert any(low < high for low, high in zip(lows, highs, strict=True))


def test_run_whose_bins_hide_nothing_draws_no_extremes(job: Job, tmp_path: Path) -> None:
    replace(job, window_s=10.0, attempts=[Attempt(0, 24)], peak=(0, 3, PEAK)).write(tmp_path)
    power = charts_of(summarise(tmp_path))["power"]
    assert power.live is not None
    assert [one["name"] for one in power.live["series"]] == ["GPUs", "hosts"]


def test_hours_are_those_of_the_whatif_command(ninety_days: AuditSummary) -> None:
    found = at_hours(ninety_days)
    assert not isinstance(found, str)
    assert found is not None
    again = compare_run(measured_run(ninety_days), {"hour": ("3",)}).alternatives[0]
    three = next(one for one in found.alternatives if one.changes["hour"] == "3")
    assert again.footprint is not None
    assert three.footprint == again.footprint

    rows = {row[0]: row for row in charts_of(ninety_days)["hours"].rows}
    assert len(rows) == 24
    assert float(rows["03:00"][2]) == pytest.approx(again.footprint.operational_kg.value, rel=1e-2)
    assert rows["08:00"][3] == "0 %"


@pytest.mark.parametrize(
    ("windows", "changes", "said"),
    [(12, False, "the same at every hour"), (12, True, "in 2 hours of the day only")],
)
def test_run_that_does_not_know_other_hours_says_why(
    job: Job, tmp_path: Path, windows: int, changes: bool, said: str
) -> None:
    series = (lambda unix_s: 40.0 + unix_s % 3600 / 100) if changes else None
    replace(job, attempts=[Attempt(0, windows // 2)], series=series, peak=None).write(tmp_path)
    summary = summarise(tmp_path)

    assert "hours" not in charts_of(summary)
    assert said in render_html(summary)


def test_prediction_and_its_range_hold_from_start_to_end_where_measurements_stand_apart(tmp_path, prediction_document):
    apart = [Attempt(0, 3), Attempt(60, 3, 4000.0), Attempt(120, 3, 4000.0)]
    Job(nodes=1, attempts=apart, prediction=prediction_document).write(tmp_path / "run")
    chart = charts_of(summarise(tmp_path / "run"))["steps"]
    assert chart.live is not None
    series = {one["name"]: one["values"] for one in chart.live["series"]}

    assert None in series["measured"]
    for name in ("predicted", "predicted, p10", "predicted, p90"):
        assert None not in series[name]
    assert chart.live["x"][0] == 0
    assert chart.live["x"] == sorted(set(chart.live["x"]))
    assert series["predicted, p10"][0] < series["predicted"][0] < series["predicted, p90"][0]
    assert "predicted, p10 to p90" in str(chart)


def test_a_prediction_without_a_range_has_none_in_the_legend(tmp_path):
    Job(nodes=1, attempts=[Attempt(0, 6)], prediction=None).write(tmp_path / "run")
    chart = charts_of(summarise(tmp_path / "run"))["steps"]
    assert chart.live is not None

    assert "p10" not in str(chart)
    assert [one["name"] for one in chart.live["series"]] == ["measured", "predicted"]
