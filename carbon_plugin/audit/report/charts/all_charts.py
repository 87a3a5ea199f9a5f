"""List all charts of a report in the order in which the page shows them."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from carbon_plugin.audit.report.charts import of_devices, of_hours, of_parts, over_time, power
from carbon_plugin.audit.report.charts.chart import Chart
from carbon_plugin.audit.report.charts.sources import source_of
from carbon_plugin.audit.result import AuditSummary

MAKERS: dict[str, Callable[[AuditSummary], Chart | None]] = {
    "power": power.power_chart,
    "doing": power.doing_chart,
    "gpus": over_time.gpu_chart,
    "intensity": over_time.intensity_chart,
    "emissions": over_time.cumulative_chart,
    "steps": over_time.step_chart,
    "phases": of_parts.split_chart,
    "forecast": of_parts.forecast_chart,
    "drivers": of_parts.driver_chart,
    "devices": of_devices.device_chart,
    "hours": of_hours.hour_chart,
}
"""The functions that draw the charts, by the name of the chart."""


def charts_of(summary: AuditSummary) -> dict[str, Chart]:
    """Return every chart that the summary has data for, by name."""
    made = ((name, maker(summary)) for name, maker in MAKERS.items())
    return {name: replace(one, source=source_of(name, summary)) for name, one in made if one is not None}
