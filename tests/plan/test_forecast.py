"""The forecast: what must add up, what scales, and that a saved one reads back the same."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.forecast import Forecast, load_forecast, make_forecast, save_forecast
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec


def spec_of(**changes: object) -> RunSpec:
    mapping: dict[str, object] = {
        "model": "llama3-8b",
        "cluster": {"accelerator": "h100-sxm", "nodes": 2},
        "layout": {"dp_shard": 16, "zero_stage": 3, "recompute": "operators"},
        "training": {"seq_len": 8192, "global_batch_size": 64, "tokens": 1e10, "overhead_fraction": 0},
        "site": {"zone": "FRA", "pue": 1.2},
        "price_usd_per_device_hour": 2.0,
    }
    return build_run_spec({**mapping, **changes}, origin="test")


def test_time_energy_carbon_and_cost_follow_from_one_another() -> None:
    forecast = make_forecast(spec_of())
    prediction, footprint = forecast.prediction, forecast.footprint
    steps = -(-1e10 // (8192 * 64))
    assert forecast.total_steps == steps
    assert forecast.run_time_s.value == pytest.approx(steps * prediction.step_time_s.value)
    assert forecast.device_hours.value == pytest.approx(16 * forecast.run_time_s.value / 3600)
    assert forecast.cost_usd is not None
    assert forecast.cost_usd.value == pytest.approx(2 * forecast.device_hours.value)
    energy = footprint.energy_j
    assert energy["gpu"].value == pytest.approx(steps * prediction.gpu_energy_per_step_j.value)
    assert energy["it"].value == pytest.approx(energy["gpu"].value + energy["host"].value + energy["network"].value)
    assert energy["facility"].value == pytest.approx(1.2 * energy["it"].value)
    intensity = forecast.factors.intensity.figure.value
    assert footprint.operational_kg.value == pytest.approx(energy["facility"].value / 3.6e6 * intensity / 1000)
    assert footprint.total_kg.value == pytest.approx(footprint.operational_kg.value + footprint.embodied_kg.value)


def test_every_range_holds_its_central_value_and_the_breakdown_adds_up() -> None:
    forecast = make_forecast(spec_of())
    figures = [forecast.run_time_s, forecast.device_hours, *forecast.footprint.energy_j.values()]
    figures += [forecast.footprint.operational_kg, forecast.footprint.embodied_kg, forecast.footprint.total_kg]
    assert all(figure.low < figure.value < figure.high for figure in figures)
    step = forecast.prediction
    assert sum(step.breakdown_s.values()) == pytest.approx(step.step_time_s.value)
    assert sum(step.memory.parts_bytes.values()) == pytest.approx(step.memory.total_bytes)
    assert step.step_time_95_s[0] < step.step_time_s.low < step.step_time_s.high < step.step_time_95_s[1]


def test_twice_the_tokens_are_twice_the_energy_and_carbon() -> None:
    work = {"seq_len": 8192, "global_batch_size": 64, "overhead_fraction": 0.1}
    once = make_forecast(spec_of(training={**work, "steps": 1000}))
    twice = make_forecast(spec_of(training={**work, "steps": 2000}))
    assert twice.footprint.total_kg.value == pytest.approx(2 * once.footprint.total_kg.value)


def test_a_dirtier_grid_changes_operational_carbon_only() -> None:
    clean, dirty = make_forecast(spec_of()), make_forecast(spec_of(site={"zone": "IND", "pue": 1.2}))
    assert dirty.footprint.operational_kg.value > 10 * clean.footprint.operational_kg.value
    assert dirty.footprint.embodied_kg.value == pytest.approx(clean.footprint.embodied_kg.value)
    assert dirty.footprint.energy_j["it"].value == pytest.approx(clean.footprint.energy_j["it"].value)


def test_a_saved_forecast_reads_back_equal(tmp_path) -> None:
    forecast = make_forecast(spec_of())
    save_forecast(forecast, str(tmp_path / "forecast.json"))
    assert load_forecast(tmp_path / "forecast.json") == load_forecast(str(tmp_path / "forecast.json")) == forecast


def test_a_broken_or_foreign_forecast_file_is_named(tmp_path) -> None:
    path = tmp_path / "forecast.json"
    with pytest.raises(SpecError, match=r"forecast\.json: cannot be read"):
        load_forecast(path)
    path.write_text('{"version": 1}')
    with pytest.raises(SpecError, match=r"forecast\.json: not a forecast"):
        load_forecast(path)
    forecast = make_forecast(spec_of())
    save_forecast(msgspec.structs.replace(forecast, version=99), path)
    with pytest.raises(SpecError, match="version is 99, expected 1"):
        load_forecast(path)


def test_a_layout_that_does_not_fit_is_forecast_with_a_warning_that_says_by_how_much() -> None:
    forecast = make_forecast(spec_of(model="llama3-70b", layout={"dp_replicate": 16}))
    assert not forecast.prediction.memory.fits
    assert any("does not fit: needs" in warning and "optimizer" in warning for warning in forecast.warnings)


def test_states_that_do_not_fit_in_the_host_either_are_a_warning() -> None:
    training = {"seq_len": 1024, "global_batch_size": 1, "steps": 10, "optimizer_offload": True}
    home = {"accelerator": "rtx4090", "node": "workstation", "nodes": 1, "devices_per_node": 1}
    small, large = (
        make_forecast(spec_of(model=model, cluster=home, layout={}, training=training)).warnings
        for model in ("gpt2", "llama2-13b")
    )
    assert not any("offloaded" in warning for warning in small)
    # 12 bytes a parameter: fp32 weight and two moments.
    assert any("offloaded optimizer states need 145 GiB of 128 GiB" in warning for warning in large)


def test_a_node_in_part_use_is_charged_by_its_share_of_devices() -> None:
    whole, half = (
        make_forecast(
            spec_of(
                cluster={"accelerator": "h100-sxm", "nodes": 1, "devices_per_node": count},
                layout={"dp_replicate": count, "recompute": "full"},
                training={"seq_len": 2048, "global_batch_size": 64, "steps": 10},
            )
        )
        for count in (8, 4)
    )

    def a_device_second(forecast: Forecast, amount: float) -> float:
        return amount / forecast.device_hours.value

    for scope in ("device", "host", "network"):
        parts = (a_device_second(one, one.footprint.embodied_parts_kg[scope].value) for one in (whole, half))
        assert next(parts) == pytest.approx(next(parts))
    # Fans and supplies follow the power of the devices, which is nearly that of the full node.
    hosts = (a_device_second(one, one.footprint.energy_j["host"].value) for one in (whole, half))
    assert next(hosts) == pytest.approx(next(hosts), rel=0.05)
    assert "4 of 8 of a dgx-h100" in {item.value for item in half.assumptions}
    assert not any("of a dgx-h100" in item.value for item in whole.assumptions)


def test_what_was_assumed_is_said_once_with_a_source() -> None:
    assumptions = make_forecast(spec_of()).assumptions
    assert len(assumptions) == len(set(assumptions))
    assert all(item.source and item.value for item in assumptions)


def test_wasted_energy_has_its_share_of_every_contract_also_of_one_over_a_number_of_kwh() -> None:
    bought = [{"kind": "certificate", "energy_kwh": 100, "g_per_kwh": 0, "source": "hydro"}]
    site = {"zone": "FRA", "instruments": bought, "residual_g_per_kwh": 60}
    training = {"seq_len": 8192, "global_batch_size": 64, "tokens": 1e10}

    forecast = make_forecast(spec_of(site=site, training=training))

    assert forecast.wasted is not None
    whole, wasted = forecast.footprint.market, forecast.wasted.market
    assert whole is not None
    assert wasted is not None
    share = forecast.wasted.energy_j["facility"].value / forecast.footprint.energy_j["facility"].value
    assert 0 < share < 1
    assert wasted.operational_kg.value == pytest.approx(share * whole.operational_kg.value)
    assert [line.energy_kwh for line in wasted.lines] == pytest.approx(
        [share * line.energy_kwh for line in whole.lines]
    )
    assert sum(line.carbon_kg for line in wasted.lines) == pytest.approx(wasted.operational_kg.value)
