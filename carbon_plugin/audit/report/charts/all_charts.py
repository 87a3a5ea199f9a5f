"""List all charts of a report in the order in which the page shows them."""

from __future__ import annotations

from carbon_plugin.audit.report.charts import of_devices, of_parts, over_time, power
from carbon_plugin.audit.report.charts.chart import Chart
from carbon_plugin.audit.result import AuditSummary

MAKERS = (
    power.power_chart,
    power.doing_chart,
    over_time.gpu_chart,
    over_time.intensity_chart,
    over_time.cumulative_chart,
    over_time.step_chart,
    of_parts.split_chart,
    of_parts.forecast_chart,
    of_parts.driver_chart,
    of_devices.device_chart,
)


def charts_of(summary: AuditSummary) -> dict[str, Chart]:
    """Return every chart that the summary has data for, by name."""
    made = (maker(summary) for maker in MAKERS)
    return {one.name: one for one in made if one is not None}
