"""Make the tables of expected beside actual values: prediction and measurement, forecast and result, and the causes."""

from __future__ import annotations

from carbon_plugin.audit.report.tables.table import Cell, Table, Unit, table, unit_of_carbon, unit_of_energy
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences import phrases
from carbon_plugin.footprint.values import comparable_kg
from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import fitting_unit
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import POWER_UNITS, SECONDS_PER_HOUR, TIME_UNITS


def prediction_table(summary: AuditSummary) -> Table | None:
    """Return each quantity of a step that is both predicted and measured. Every row names its unit."""
    steps = summary.steps
    if steps is None:
        return None
    time = unit_of_time(steps.measured_step_time_s.value)
    error_s = steps.measured_step_time_s.high - steps.measured_step_time_s.value
    predicted, rows = steps.predicted_step_time_s, []
    rows.append(
        [
            Cell(f"step time, {time.name}", f"± {wording.duration(error_s)}: {phrases.steps_basis(steps)}"),
            time.cell(steps.measured_step_time_s.value, "steps.measured_step_time_s.value"),
            time.cell(predicted.value, "steps.predicted_step_time_s.value") if predicted else Cell("–"),
            Cell(time.span(predicted.low, predicted.high) if predicted and predicted.low < predicted.high else ""),
            Cell(_off(steps.measured_step_time_s.value, predicted.value) if predicted else "not predicted"),
        ]
    )
    measured_j, predicted_j = steps.measured_gpu_energy_per_step_j, steps.predicted_gpu_energy_per_step_j
    if measured_j:
        energy = unit_of_energy(measured_j)
        rows.append(
            [
                Cell(f"GPU energy a step, {energy.name}", f"GPUs of node {steps.node}"),
                energy.cell(measured_j, "steps.measured_gpu_energy_per_step_j"),
                energy.cell(predicted_j, "steps.predicted_gpu_energy_per_step_j") if predicted_j else Cell("–"),
                Cell(""),
                Cell(_off(measured_j, predicted_j) if predicted_j else "not predicted"),
            ]
        )
        if predicted_j and predicted:
            watts, expected_w = measured_j / steps.measured_step_time_s.value, predicted_j / predicted.value
            power = Unit(*fitting_unit(watts, POWER_UNITS))
            rows.append(
                [
                    Cell(f"GPU power, {power.name}", f"GPUs of node {steps.node}: energy over time"),
                    Cell(power.number(watts)),
                    Cell(power.number(expected_w)),
                    Cell(""),
                    Cell(_off(watts, expected_w)),
                ]
            )
    return table(["term", "measured", "predicted", "p10 to p90", "difference"], rows, (1, 2, 3, 4))


def forecast_table(summary: AuditSummary) -> Table | None:
    """Return each quantity of the forecast beside the result. Every row names its unit."""
    forecast, footprint = summary.forecast, summary.footprint
    if forecast is None:
        return None
    rows = []
    if summary.steps is not None:
        actual_s = summary.steps.measured_step_time_s.value
        rows.append(_row("step time", forecast.step_time_s, actual_s, unit_of_time(actual_s), "forecast.step_time_s"))
    done, planned = summary.progress.steps, forecast.total_steps
    rows.append(
        [
            Cell("steps"),
            Cell(f"{planned:,}", field="forecast.total_steps", raw=planned),
            Cell(""),
            Cell(f"{done:,}", field="progress.steps", raw=done),
            Cell(_off(done, planned)),
        ]
    )
    active_s = summary.period.active_s
    rows.append(_row("time running", forecast.run_time_s, active_s, unit_of_time(active_s), "forecast.run_time_s"))
    hours = Unit(1.0, "h")
    rows.append(
        _row(
            "device time",
            forecast.device_hours,
            summary.reserved.device_s / SECONDS_PER_HOUR,
            hours,
            "forecast.device_hours",
        )
    )
    it, used_j = forecast.footprint.energy_j["it"], summary.energy.energy_j
    unit = unit_of_energy(max(it.value, used_j))
    rows.append(_row("energy of the machines", it, used_j, unit, "forecast.footprint.energy_j.it"))
    if footprint is not None:
        carbon = unit_of_carbon(max(forecast.footprint.counted_kg.value, footprint.counted_kg.value))
        for name in ("operational", "embodied", "total"):
            before, after = (getattr(one, f"{name}_kg") for one in (forecast.footprint, footprint))
            if before is not None:
                field = f"forecast.footprint.{name}_kg"
                rows.append(_row(f"{name} carbon", before, after.value if after else None, carbon, field))
    return table(["quantity", "forecast", "p10 to p90", "result", "difference"], rows, (1, 2, 3, 4))


def cause_table(summary: AuditSummary) -> Table | None:
    """Return the causes of the forecast's error, with their sum in the last row, or None where the error cannot be
    divided.
    """
    forecast, footprint = summary.forecast, summary.footprint
    if forecast is None or footprint is None or not forecast.parts:
        return None
    counted, planned, actual = comparable_kg(forecast.footprint, footprint)
    unit = unit_of_carbon(max(actual.value, planned.value))

    def change(kilograms: float) -> str:
        return wording.signed(kilograms / unit.size, of=actual.value / unit.size)

    rows = [
        [Cell(part.name), Cell(wording.off_by(part.factor)), Cell(change(part.carbon_kg)), Cell(part.explanation)]
        for part in forecast.parts
    ]
    hours, planned_hours = summary.reserved.device_s / SECONDS_PER_HOUR, forecast.device_hours.value
    reserved = f"devices were reserved for {wording.number(hours)} h, planned {wording.number(planned_hours)} h"
    if forecast.embodied_kg is not None:
        rows.append([Cell("embodied"), Cell(""), Cell(change(forecast.embodied_kg)), Cell(reserved)])
    rows.append([Cell("all"), Cell(""), Cell(change(actual.value - planned.value)), Cell("")])
    name = phrases.CARBON_NAMES[counted]
    return table(["cause", "factor", f"{name}, {unit.name}", "what happened"], rows, (1, 2), summed=True)


def unit_of_time(seconds: float) -> Unit:
    """Return the unit that fits a time."""
    return Unit(*fitting_unit(seconds, TIME_UNITS))


def _row(name: str, planned: Figure, actual: float | None, unit: Unit, field: str) -> list[Cell]:
    return [
        Cell(f"{name}, {unit.name}"),
        unit.cell(planned.value, f"{field}.value"),
        Cell(unit.span(planned.low, planned.high)),
        Cell("unknown" if actual is None else unit.number(actual)),
        Cell("–" if actual is None else _off(actual, planned.value)),
    ]


def _off(actual: float, planned: float) -> str:
    return wording.off_by(actual / planned) if planned > 0 else "–"
