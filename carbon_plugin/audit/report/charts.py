"""All charts of a report, in the order in which the page shows them."""

from __future__ import annotations

from carbon_plugin.audit.report import bar_charts, device_chart, time_charts
from carbon_plugin.audit.report.chart import Chart
from carbon_plugin.audit.result import AuditSummary

MAKERS = (
    time_charts.power_chart,
    time_charts.gpu_chart,
    time_charts.intensity_chart,
    time_charts.cumulative_chart,
    time_charts.step_chart,
    bar_charts.split_chart,
    bar_charts.forecast_chart,
    bar_charts.driver_chart,
    device_chart.device_chart,
)


def charts_of(summary: AuditSummary) -> dict[str, Chart]:
    """Return every chart that the summary has data for, by name."""
    made = (maker(summary) for maker in MAKERS)
    return {one.name: one for one in made if one is not None}
