from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import EnergyItem, Factors, Reservation
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.site import Site


@pytest.fixture(scope="session")
def factors() -> Factors:
    """Return the factors of a run in France with a stated PUE and round embodied numbers."""
    found = resolve_factors(Site(zone="FRA", pue=1.2), None)
    embodied = {
        "device": Figure(160.0, 120.0, 250.0, "kgCO2e", "assumed", "test"),
        "host": Figure(3000.0, 2000.0, 4500.0, "kgCO2e", "assumed", "test"),
        "network": Figure(25.0, 10.0, 60.0, "kgCO2e", "assumed", "test"),
    }
    return msgspec.structs.replace(found, embodied_kg=embodied)


@pytest.fixture(scope="session")
def forecast_document(factors: Factors) -> dict[str, object]:
    """Return a forecast as plain data: 1,000 steps of 0.4 s on 2 nodes, each with 2 GPUs of 380 W and a host
    of 140 W.
    """
    run_s, devices = 1000 * 0.4 * 1.1, 4

    def item(rung: str, watts: float) -> EnergyItem:
        energy_j = watts * run_s
        energy = {"value": energy_j, "low": energy_j * 0.8, "high": energy_j * 1.3}
        return msgspec.convert({"rung": rung, "scope": rung, "energy": energy}, type=EnergyItem)

    footprint = account(
        [item("gpu", 380.0 * devices), item("host", 140.0 * 2), item("network", 60.0 * devices)],
        [Reservation(scope="device", units=devices, time_s=run_s), Reservation(scope="host", units=0.5, time_s=run_s)],
        factors,
    )
    document = {
        "version": 1,
        "created_unix_s": 1_759_990_000.0,
        "plugin_version": "0.1.0",
        "spec": {"name": "simulated", "cluster": {"nodes": 2, "devices_per_node": 2}},
        "prediction": prediction(0.4, 380.0),
        "total_steps": 1000,
        "run_time_s": Figure(run_s, run_s * 0.9, run_s * 1.2, "s", "modelled", "test"),
        "device_hours": Figure(run_s * devices / 3600, 0.4, 0.6, "h", "modelled", "test"),
        "footprint": footprint,
    }
    plain: dict[str, object] = msgspec.to_builtins(document)
    return plain


@pytest.fixture(scope="session")
def prediction_document() -> dict[str, object]:
    """Return a prediction for the spec that really ran, which takes more time and power than the planned one."""
    return prediction(0.45, 390.0)


def prediction(step_time_s: float, gpu_power_w: float) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(
        {
            "step_time_s": Figure(step_time_s, 0.85 * step_time_s, 1.2 * step_time_s, "s", "modelled", "test"),
            "gpu_power_w": Figure(gpu_power_w, 0.9 * gpu_power_w, 1.1 * gpu_power_w, "W", "modelled", "test"),
        }
    )
    return plain
