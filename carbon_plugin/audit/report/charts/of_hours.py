"""Draw the carbon of a run by the hour of the day at which it might have started."""

from __future__ import annotations

from carbon_plugin.audit.report.charts.chart import Chart, chart, height_of
from carbon_plugin.audit.report.otherwise import at_hours
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.plan.whatif.comparison import Comparison
from carbon_plugin.show import plot, wording
from carbon_plugin.spec.numbers.amounts import fitting_unit
from carbon_plugin.spec.numbers.units import CARBON_UNITS, SECONDS_PER_DAY, SECONDS_PER_HOUR

SAME = 0.01
"""A smaller difference between the best and the worst hour is none."""


def hour_chart(summary: AuditSummary) -> Chart | None:
    """Draw the operational carbon that the same run would have caused for each hour of its start, and mark the real
    hour.
    """
    found = at_hours(summary)
    if not isinstance(found, Comparison):
        return None
    known = [(int(one.changes["hour"]), one) for one in found.alternatives if one.footprint is not None]
    kg = {hour: one.footprint.operational_kg.value for hour, one in known if one.footprint is not None}
    own = int(summary.period.start_unix_s % SECONDS_PER_DAY // SECONDS_PER_HOUR)
    size, unit = fitting_unit(max(kg.values()), CARBON_UNITS)
    top = max(kg.values()) / size

    def against(hour: int) -> str:
        return wording.off_by(kg[hour] / kg[own]) if kg.get(own) else "–"

    def draw(width_px: float) -> str:
        of = plot.frame(width_px, height_of(width_px), (0, 24), (0, 1.06 * top))
        parts = [plot.y_axis(of, plot.labelled(plot.ticks(0, top)), f"operational, {unit}")]
        for hour, value in kg.items():
            left, right, height = of.x.at(hour + 0.12), of.x.at(hour + 0.88), of.y.at(value / size)
            tip = f"start at {hour:02}:00 UTC: {wording.carbon(value)}, {against(hour)}"
            colour = "slate" if hour == own else "gpu"
            parts.append(plot.box(left, height, right - left, of.y.start_px - height, colour, tip))
        marks = [(hour + 0.5, f"{hour:02}") for hour in range(0, 24, 2 if width_px > 500 else 4)]
        parts.append(plot.x_axis(of, marks, "hour of the start, UTC"))
        legend = plot.legend([("gpu", "another hour"), ("slate", "hour of this run")], width_px)
        return plot.drawing(width_px, height_of(width_px), parts, top=legend)

    rows = [
        [f"{hour:02}:00", wording.number(one.g_per_kwh or 0.0), wording.number(kg[hour] / size), against(hour)]
        for hour, one in known
    ]
    best = min(kg, key=lambda hour: (kg[hour], hour))
    said = f" Least at {best:02}:00 UTC" + (f": {against(best)} against {own:02}:00." if own in kg else ".")
    if max(kg.values()) - min(kg.values()) < SAME * max(kg.values()):
        said = " The hour of the start makes no difference: the run is so long that it takes all hours in any case."
    return chart(
        "hours",
        "The same run at another hour",
        f"Operational carbon of the measured energy from each hour on, at {summary.series.grid_by_hour_from}.{said}",
        draw,
        ["start, UTC", "gCO2e/kWh", f"operational, {unit}", "against the hour of this run"],
        rows,
    )
