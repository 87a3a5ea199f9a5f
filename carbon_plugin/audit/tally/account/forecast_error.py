"""Explain the error of the forecast. Each cause is one factor, and their product is exactly actual over forecast.

Operational carbon is a chain of factors on both sides,

    C = steps * step_time * (run_time / (steps * step_time)) * (E_common / run_time) * (E_it / E_common)
        * (E_all / E_it) * (C / E_all)

where E_common is the energy of the rungs that both sides know, and E_all is E_it with the energy of devices that were
reserved and waited before the first record, which a forecast has none of. The predicted effect of the effective spec
stands between plan and measurement, so that a changed layout is not booked as a wrong model. In kilograms each cause
gets L * ln(factor), where L is the logarithmic mean of actual and forecast. These add up without a residual (LMDI: Ang,
Energy Policy 32 (2004) 1131).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct

from carbon_plugin.audit.findings.comparison import Cause, ErrorPart, ForecastComparison
from carbon_plugin.audit.tally.documents import ForecastDocument, PredictionDocument
from carbon_plugin.footprint.values import Footprint
from carbon_plugin.spec.numbers.amounts import number, percent, plural, quantity
from carbon_plugin.spec.numbers.units import G_PER_KWH_OF_KG_PER_J, POWER_UNITS, TIME_UNITS


class Actual(Struct, frozen=True, kw_only=True):
    """The actual values that explain the forecast's error.

    `energy_j` is the recorded energy by IT rung, and `waiting_j` that of reserved devices without records.
    `nodes_share` is the share of the job's nodes that the energy covers, 0 to 1. `active_s` is the time in which the
    job ran.
    """

    steps: int
    step_time_s: float | None
    active_s: float
    energy_j: Mapping[str, float]
    nodes_share: float
    world_size: int
    waiting_j: float = 0.0


def logarithmic_mean(a: float, b: float) -> float:
    """Return (a - b) / ln(a / b) for positive numbers, and a where they are equal."""
    ratio = a / b - 1
    # Near 1 the series of ln is used, because the quotient of two small differences loses digits.
    return b * (1 + ratio / 2 - ratio * ratio / 12) if abs(ratio) < 1e-5 else (a - b) / math.log(a / b)


def compare_forecast(
    forecast: ForecastDocument | None,
    prediction: PredictionDocument | None,
    footprint: Footprint | None,
    actual: Actual,
) -> ForecastComparison | None:
    """Return the forecast beside the actual run, or None without a forecast. `footprint` is the actual one, or None
    without carbon.
    """
    if forecast is None:
        return None
    if footprint is None:
        split: list[ErrorPart] | str = "the run has no carbon to compare with"
    else:
        split = split_error(forecast, prediction, actual, footprint.operational_kg.value)
    planned = forecast.footprint
    return ForecastComparison(
        created_unix_s=forecast.created_unix_s,
        plugin_version=forecast.plugin_version,
        run_time_s=forecast.run_time_s,
        total_steps=forecast.total_steps,
        device_hours=forecast.device_hours,
        footprint=planned,
        step_time_s=forecast.prediction.step_time_s,
        parts=[] if isinstance(split, str) else split,
        embodied_kg=_embodied_change_kg(planned, footprint),
        no_parts_reason=split if isinstance(split, str) else None,
    )


def _embodied_change_kg(planned: Footprint, actual: Footprint | None) -> float | None:
    """Return actual minus forecast embodied carbon, kgCO2e, or None where one of them is unknown."""
    if actual is None or actual.embodied_kg is None or planned.embodied_kg is None:
        return None
    return actual.embodied_kg.value - planned.embodied_kg.value


_UNSEPARATED = "; a drift of the spec is in here and in the power, because nothing predicted the spec that ran"


def split_error(
    forecast: ForecastDocument, prediction: PredictionDocument | None, actual: Actual, operational_kg: float
) -> list[ErrorPart] | str:
    """Return the causes of actual minus forecast operational carbon, or a sentence that says why they cannot be
    separated.

    `prediction` is that of the effective spec. Without it, a drift of the spec cannot be separated from the model's
    error, and is no cause of its own.
    """
    planned_kg = forecast.footprint.operational_kg.value
    if operational_kg <= 0 or planned_kg <= 0:
        return "one side has no operational carbon"
    if actual.steps < 1 or actual.active_s <= 0:
        return "no training step was recorded"
    planned_j, actual_j = _comparable(forecast, actual.energy_j)
    rungs = [rung for rung in planned_j if planned_j[rung] > 0 and actual_j.get(rung, 0.0) > 0]
    if not rungs:
        return "the forecast and the ledgers have no rung of energy in common"
    planned_common_j = sum(planned_j[rung] for rung in rungs)
    actual_common_j = sum(actual_j[rung] for rung in rungs) / actual.nodes_share
    planned_it_j, actual_it_j = sum(planned_j.values()), sum(actual_j.values())
    all_j = actual_it_j + actual.waiting_j
    factors = {
        **_of_time_and_power(forecast, prediction, actual, rungs, planned_common_j, actual_common_j),
        "coverage": _Factor(
            (actual_it_j / actual_common_j) / (planned_it_j / planned_common_j),
            _coverage_text(actual, planned_j, actual_j),
        ),
        "grid": _Factor(
            (operational_kg / all_j) / (planned_kg / planned_it_j),
            f"PUE times intensity was {number(operational_kg / all_j * G_PER_KWH_OF_KG_PER_J, 4)} g/kWh, "
            f"planned {number(planned_kg / planned_it_j * G_PER_KWH_OF_KG_PER_J, 4)} g/kWh",
        ),
    }
    if actual.waiting_j > 0:
        why = "devices were reserved while nothing was recorded, and are modelled as idle"
        factors["waiting"] = _Factor(all_j / actual_it_j, why)
    mean_kg = logarithmic_mean(operational_kg, planned_kg)
    return [
        ErrorPart(cause=cause, factor=one.factor, carbon_kg=mean_kg * math.log(one.factor), explanation=one.explanation)
        for cause, one in factors.items()
    ]


class _Factor(Struct, frozen=True):
    """One instance holds actual over forecast of one link of the chain, and what explains it."""

    factor: float
    explanation: str


def _of_time_and_power(
    forecast: ForecastDocument,
    prediction: PredictionDocument | None,
    actual: Actual,
    rungs: list[str],
    planned_j: float,
    actual_j: float,
) -> dict[Cause, _Factor]:
    """Return the factors of the links from the number of steps to the energy of `rungs`, which both sides know.

    `planned_j` and `actual_j` are that energy.
    """
    planned_step_s = forecast.prediction.step_time_s.value
    expected_step_s = prediction.step_time_s.value if prediction else planned_step_s
    actual_step_s = actual.step_time_s or actual.active_s / actual.steps
    expected_power = _power_ratio(forecast, prediction, actual.world_size)
    expected_power_w = planned_j / forecast.run_time_s.value * expected_power
    actual_power_w = actual_j / actual.active_s
    planned_length = forecast.run_time_s.value / planned_step_s
    actual_length = actual.active_s / actual_step_s
    drift: dict[Cause, _Factor] = {
        "spec drift": _Factor(
            expected_step_s / planned_step_s * expected_power,
            f"the spec that ran should take {quantity(expected_step_s, TIME_UNITS, 4)} a step at "
            f"{expected_power:.3g} times the planned power; the plan said {quantity(planned_step_s, TIME_UNITS, 4)}",
        )
    }
    return {
        **(drift if prediction else {}),
        "step time": _Factor(
            actual_step_s / expected_step_s,
            f"a step took {quantity(actual_step_s, TIME_UNITS, 4)}, "
            f"predicted {quantity(expected_step_s, TIME_UNITS, 4)}{'' if prediction else _UNSEPARATED}",
        ),
        "power": _Factor(
            actual_power_w / expected_power_w,
            f"mean power of {' and '.join(rungs)} was {quantity(actual_power_w, POWER_UNITS, 4)}, "
            f"predicted {quantity(expected_power_w, POWER_UNITS, 4)}",
        ),
        "run length": _Factor(
            actual_length / planned_length,
            f"{plural(actual.steps, 'step')} and all other time took as long as {actual_length:,.1f} steps; "
            f"planned {plural(forecast.total_steps, 'step')}, {planned_length:,.1f} with all other time",
        ),
    }


def _comparable(forecast: ForecastDocument, actual_j: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the energy by rung on both sides, J. Where no accelerator has a meter of its own (a CPU run), its energy
    is in the host's.
    """
    planned = {
        rung: figure.value for rung, figure in forecast.footprint.energy_j.items() if rung not in ("it", "facility")
    }
    actual = dict(actual_j)
    if actual.get("gpu", 0.0) == 0:
        planned["host"] = planned.get("host", 0.0) + planned.pop("gpu", 0.0)
    return planned, actual


def _power_ratio(forecast: ForecastDocument, prediction: PredictionDocument | None, world_size: int) -> float:
    """Return the predicted power of the effective spec over that of the plan, each the sum over all devices."""
    planned_w = forecast.prediction.gpu_power_w.value * forecast.devices
    expected_w = prediction.gpu_power_w.value * world_size if prediction else planned_w
    return expected_w / planned_w if planned_w > 0 and expected_w > 0 else 1.0


def _coverage_text(actual: Actual, planned_j: Mapping[str, float], actual_j: Mapping[str, float]) -> str:
    missing = [rung for rung, energy_j in planned_j.items() if energy_j > 0 and not actual_j.get(rung)]
    added = [rung for rung, energy_j in actual_j.items() if energy_j > 0 and not planned_j.get(rung)]
    parts = []
    if missing:
        parts.append(f"forecast but not metered: {', '.join(missing)}")
    if added:
        parts.append(f"metered but not forecast: {', '.join(added)}")
    if actual.nodes_share < 1:
        parts.append(f"ledgers cover {percent(actual.nodes_share, 0)} of the nodes")
    return "; ".join(parts) or "the same rungs and all nodes on both sides"
