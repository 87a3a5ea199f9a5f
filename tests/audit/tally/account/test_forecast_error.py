"""The forecast's error, split so that the parts add up to the whole."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.audit.findings.comparison import ErrorPart
from carbon_plugin.audit.tally.account.forecast_error import Actual, compare_forecast, logarithmic_mean, split_error
from carbon_plugin.audit.tally.documents import ForecastDocument, read_forecast, read_prediction


@pytest.fixture(scope="session")
def forecast(forecast_document: dict[str, Any]) -> ForecastDocument:
    read = read_forecast(forecast_document)
    assert read is not None
    return read


def as_planned(forecast: ForecastDocument, **changes: Any) -> Actual:
    energy_j = {rung: forecast.footprint.energy_j[rung].value for rung in ("gpu", "host", "network")}
    fields: dict[str, Any] = {
        "steps": forecast.total_steps,
        "step_time_s": forecast.prediction.step_time_s.value,
        "active_s": forecast.run_time_s.value,
        "energy_j": energy_j,
        "nodes_share": 1.0,
        "world_size": forecast.devices,
    }
    return Actual(**(fields | changes))


def split(
    forecast: ForecastDocument, actual: Actual, factor: float = 1.0, prediction: Any = None
) -> dict[str, ErrorPart]:
    parts = split_error(forecast, prediction, actual, forecast.footprint.operational_kg.value * factor)
    assert not isinstance(parts, str)
    return {part.cause: part for part in parts}


def off(parts: dict[str, ErrorPart]) -> dict[str, float]:
    """Return the causes that moved the result, each with its factor."""
    return {cause: part.factor for cause, part in parts.items() if not math.isclose(part.factor, 1, rel_tol=1e-9)}


def test_run_that_went_as_planned_has_no_error_of_any_cause(forecast: ForecastDocument) -> None:
    parts = split(forecast, as_planned(forecast))
    assert off(parts) == {}
    assert all(part.carbon_kg == pytest.approx(0, abs=1e-12) for part in parts.values())


def test_dirtier_grid_is_booked_on_the_grid_alone(forecast: ForecastDocument) -> None:
    assert off(split(forecast, as_planned(forecast), factor=1.5)) == {"grid": pytest.approx(1.5)}


def test_hotter_gpus_are_booked_on_power_alone(forecast: ForecastDocument) -> None:
    energy_j = {rung: 1.2 * energy for rung, energy in as_planned(forecast).energy_j.items()}
    assert off(split(forecast, as_planned(forecast, energy_j=energy_j), factor=1.2)) == {"power": pytest.approx(1.2)}


def test_slower_steps_are_booked_on_step_time_alone(forecast: ForecastDocument) -> None:
    energy_j = {rung: 1.3 * energy for rung, energy in as_planned(forecast).energy_j.items()}
    actual = as_planned(
        forecast,
        step_time_s=1.3 * forecast.prediction.step_time_s.value,
        active_s=1.3 * forecast.run_time_s.value,
        energy_j=energy_j,
    )
    assert off(split(forecast, actual, factor=1.3)) == {"step time": pytest.approx(1.3)}


def test_run_that_stopped_half_way_is_booked_on_its_length_alone(forecast: ForecastDocument) -> None:
    energy_j = {rung: 0.5 * energy for rung, energy in as_planned(forecast).energy_j.items()}
    actual = as_planned(forecast, steps=500, active_s=0.5 * forecast.run_time_s.value, energy_j=energy_j)
    assert off(split(forecast, actual, factor=0.5)) == {"run length": pytest.approx(0.5)}


def test_rung_that_nobody_metered_is_booked_on_coverage_alone(forecast: ForecastDocument) -> None:
    energy_j = {rung: energy for rung, energy in as_planned(forecast).energy_j.items() if rung != "network"}
    share = sum(energy_j.values()) / forecast.footprint.energy_j["it"].value
    parts = split(forecast, as_planned(forecast, energy_j=energy_j), factor=share)
    assert off(parts) == {"coverage": pytest.approx(share)}
    assert parts["coverage"].explanation == "forecast but not metered: network"


def test_node_without_a_ledger_is_booked_on_coverage_alone(forecast: ForecastDocument) -> None:
    energy_j = {rung: 0.5 * energy for rung, energy in as_planned(forecast).energy_j.items()}
    parts = split(forecast, as_planned(forecast, energy_j=energy_j, nodes_share=0.5), factor=0.5)
    assert off(parts) == {"coverage": pytest.approx(0.5)}
    assert parts["coverage"].explanation == "ledgers cover 50 % of the nodes"


def test_changed_spec_that_runs_as_predicted_is_booked_on_the_spec_alone(
    forecast: ForecastDocument, prediction_document: dict[str, Any]
) -> None:
    prediction = read_prediction(prediction_document)
    assert prediction is not None
    slower, hotter = 0.45 / 0.4, 390.0 / 380.0
    energy_j = {rung: slower * hotter * energy for rung, energy in as_planned(forecast).energy_j.items()}
    actual = as_planned(forecast, step_time_s=0.45, active_s=slower * forecast.run_time_s.value, energy_j=energy_j)
    parts = split(forecast, actual, factor=slower * hotter, prediction=prediction)
    assert off(parts) == {"spec drift": pytest.approx(slower * hotter)}


def test_cpu_run_counts_the_accelerator_of_the_plan_as_part_of_the_host(forecast: ForecastDocument) -> None:
    energy = as_planned(forecast).energy_j
    energy_j = {"host": energy["gpu"] + energy["host"], "network": energy["network"]}
    assert off(split(forecast, as_planned(forecast, energy_j=energy_j))) == {}


positive = st.floats(0.1, 10.0)


@given(st.integers(1, 10**6), positive, positive, positive, positive, positive, st.floats(0.1, 1.0), st.integers(1, 64))
def test_parts_multiply_to_the_ratio_and_add_up_to_the_difference(
    forecast: ForecastDocument,
    steps: int,
    step_time_s: float,
    active_s: float,
    gpu_j: float,
    host_j: float,
    carbon: float,
    nodes_share: float,
    world_size: int,
) -> None:
    actual = Actual(
        steps=steps,
        step_time_s=step_time_s,
        active_s=active_s * 100,
        energy_j={"gpu": gpu_j * 1e5, "host": host_j * 1e4},
        nodes_share=nodes_share,
        world_size=world_size,
    )
    planned_kg = forecast.footprint.operational_kg.value
    parts = split(forecast, actual, factor=carbon).values()
    assert math.prod(part.factor for part in parts) == pytest.approx(carbon, rel=1e-9)
    difference_kg = planned_kg * carbon - planned_kg
    assert sum(part.carbon_kg for part in parts) == pytest.approx(difference_kg, rel=1e-9, abs=1e-12)


@given(positive, positive)
def test_logarithmic_mean_lies_between_and_is_symmetric(a: float, b: float) -> None:
    mean = logarithmic_mean(a, b)
    assert min(a, b) * (1 - 1e-9) <= mean <= max(a, b) * (1 + 1e-9)
    assert mean == pytest.approx(logarithmic_mean(b, a))


@pytest.mark.parametrize(
    ("changes", "factor", "reason"),
    [
        ({"steps": 0}, 1.0, "no training step was recorded"),
        ({"energy_j": {"gpu": 0.0}}, 1.0, "no rung of energy in common"),
        ({}, 0.0, "one side has no operational carbon"),
    ],
)
def test_split_that_is_not_possible_says_why(
    forecast: ForecastDocument, changes: dict[str, Any], factor: float, reason: str
) -> None:
    outcome = split_error(
        forecast, None, as_planned(forecast, **changes), factor * forecast.footprint.operational_kg.value
    )
    assert isinstance(outcome, str)
    assert reason in outcome


def test_run_without_carbon_still_shows_its_forecast(forecast: ForecastDocument) -> None:
    comparison = compare_forecast(forecast, None, None, as_planned(forecast))
    assert comparison is not None
    assert comparison.parts == []
    assert comparison.no_parts_reason == "the run has no carbon to compare with"
