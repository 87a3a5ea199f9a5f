"""Relations that forecasts of random valid runs keep, and that equal specs in other words have equal forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.plan.forecast import Forecast, make_forecast
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec
from tests.predict.random_runs import runs

replace = msgspec.structs.replace
RUN: dict[str, Any] = {
    "model": "llama3-70b",
    "cluster": {
        "accelerator": "h100-sxm",
        "nodes": 4,
        "network": "8x 400 Gb/s",
        "scaleup": "450 GB/s",
        "oversubscription": 2,
        "power_cap_w": 500,
    },
    "layout": {"tp": 8, "dp_shard": 4, "zero_stage": 3, "recompute": "full", "micro_batch_size": 1},
    "training": {"seq_len": 8192, "global_batch_size": 64, "tokens": 1e12},
    "site": {"zone": "FRA", "pue": 1.2},
    "stack": {"preset": "torchtitan", "dp_overlap": 0.5},
}


def figures(forecast: Forecast) -> dict[str, float]:
    """Return the central values of a forecast, by name."""
    footprint = forecast.footprint
    found = {name: energy.value for name, energy in footprint.energy_j.items()}
    found |= {"hours": forecast.device_hours.value, "operational": footprint.operational_kg.value}
    assert footprint.embodied_kg is not None
    return found | {"embodied": footprint.embodied_kg.value}


@settings(max_examples=20)
@given(spec=runs(), factor=st.floats(0.01, 5))
def test_operational_carbon_is_linear_in_the_intensity_and_nothing_else_follows_it(
    spec: RunSpec, factor: float
) -> None:
    scaled = replace(spec.site, intensity_g_per_kwh=(spec.site.intensity_g_per_kwh or 0) * factor)
    once, other = figures(make_forecast(spec)), figures(make_forecast(replace(spec, site=scaled)))

    assert other.pop("operational") == pytest.approx(factor * once.pop("operational"))
    assert other == once


@settings(max_examples=20)
@given(spec=runs())
def test_a_forecast_has_ordered_ranges_and_energy_between_idle_and_the_limit(spec: RunSpec) -> None:
    forecast = make_forecast(spec)
    footprint, cluster = forecast.footprint, spec.cluster
    every = [forecast.run_time_s, forecast.device_hours, *footprint.energy_j.values()]
    every += [footprint.operational_kg, *footprint.embodied_parts_kg.values(), *footprint.water_l.values()]
    for figure in every:
        assert 0 <= figure.low <= figure.value <= figure.high

    mean_w = footprint.energy_j["gpu"].value / (forecast.device_hours.value * 3600)
    assert cluster.accelerator.idle_with_context_w * (1 - 1e-9) <= mean_w <= cluster.power_limit_w * (1 + 1e-9)


def turned(value: Any) -> Any:
    """Return mappings with their keys in the opposite order."""
    if not isinstance(value, Mapping):
        return value
    return {key: turned(value[key]) for key in reversed(list(value))}


@pytest.mark.parametrize(
    "words",
    [
        {"cluster": {"network": "400 Gb/s per GPU"}},
        {"cluster": {"network": "3.2 Tb/s per node"}},
        {"cluster": {"network": "8x 50 GB/s"}},
        {"cluster": {"network": "8x NDR400"}},
        {"cluster": {"scaleup": "3.6 Tb/s"}},
        {"cluster": {"scaleup": "NVLink4 (18 links)"}},
        {"training": {"tokens": 1_000_000_000_000}},
        {"site": {"zone": "France"}},
        {"site": {"zone": "FR"}},
        {"model": "meta-llama/Meta-Llama-3-70B"},
    ],
    ids=str,
)
def test_equal_specs_in_other_words_have_equal_forecasts(words: Mapping[str, Any]) -> None:
    other = {key: {**RUN[key], **said} if isinstance(said, dict) else said for key, said in words.items()}
    one, two = (make_forecast(build_run_spec(said, origin="test")) for said in (RUN, {**RUN, **other}))

    assert figures(two) == pytest.approx(figures(one), rel=1e-12)


def test_the_order_of_fields_says_nothing() -> None:
    one, two = (make_forecast(build_run_spec(said, origin="test")) for said in (RUN, turned(RUN)))

    assert figures(two) == figures(one)
