"""Write the figures of a window as one line for a person."""

from __future__ import annotations

import math

from carbon_plugin.show import wording
from carbon_plugin.sinks.row import PREFIX, Row
from carbon_plugin.spec.numbers.amounts import quantity_range
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import CARBON_UNITS, JOULES_PER_KWH, SECONDS_PER_HOUR


def line_of(row: Row) -> str:
    """Return the line: the step, its time beside the predicted one, power, spent amounts, and the projection with its
    range, each with what it is known by. Unknown values are left out.
    """
    figures = {name.removeprefix(PREFIX): value for name, value in row.metrics.items()}
    of = f" of {row.run.total_steps:,}" if row.run.total_steps else ""
    parts = [f"step {row.step:,}{of}", *_step_time(figures)]
    if "power_w" in figures:
        parts.append(wording.power(figures["power_w"]))
    if "energy_kwh" in figures:
        parts.append(f"spent {_energy(figures['energy_kwh'])}{_known_by(figures)}{_and_carbon(figures, '')}")
    parts += _projected(figures)
    if "remaining_h" in figures:
        parts.append(f"{wording.duration(figures['remaining_h'] * SECONDS_PER_HOUR)} to go")
    return ", ".join([*parts, "ended"] if row.ended else parts)


def _step_time(figures: dict[str, float]) -> list[str]:
    if "step_time_s" not in figures:
        return []
    beside = ""
    if "predicted_step_time_s" in figures and "step_time_ratio" in figures:
        off = wording.off_by(figures["step_time_ratio"])
        beside = f" ({off} against the predicted {wording.duration(figures['predicted_step_time_s'])})"
    return [f"measured {wording.duration(figures['step_time_s'])} a step{beside}"]


def _known_by(figures: dict[str, float]) -> str:
    """Return how much of the energy, and of the power, was measured; nothing where a row does not say so."""
    share = figures.get("measured_share")
    if share is None:
        return ""
    if share in (0.0, 1.0):
        return " (measured)" if share else " (modelled)"
    return f" ({wording.percent(share)} measured, the rest modelled)"


def _projected(figures: dict[str, float]) -> list[str]:
    low, value, high = (figures.get(f"projected_energy_kwh{end}") for end in ("_low", "", "_high"))
    if low is None or value is None or high is None:
        return []
    joules = Range(value, low, high).scaled(JOULES_PER_KWH)
    carbon = _and_carbon(figures, "projected_")
    basis = {0.0: "as predicted, ", 1.0: "by measured rates "}.get(figures.get("projected_by_rates", math.nan), "")
    return [f"projected {basis}{_energy(value)} ({wording.energy_range(joules)}){carbon}"]


def _and_carbon(figures: dict[str, float], prefix: str) -> str:
    """Return the carbon beside an energy: the total, or the operational carbon where the total is not known."""
    for name, said in (("total_kg", ""), ("operational_kg", " in operation")):
        value = figures.get(prefix + name)
        if value is not None:
            low, high = (figures.get(f"{prefix}{name}{end}") for end in ("_low", "_high"))
            between = (
                ""
                if low is None or high is None
                else f" ({quantity_range(low, high, value, CARBON_UNITS, padded=True)})"
            )
            return f" and {wording.carbon(value)}{between}{said}"
    return ""


def _energy(kwh: float) -> str:
    return wording.energy(kwh * JOULES_PER_KWH)
