"""Running a meter in a process of its own under the simulated driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from carbon_plugin.spec.hardware.cluster import Host, Network, Node
from carbon_plugin.spec.numbers.figure import Sourced
from tests.meters.scripts import runner

PRELUDE = """
# Curves begin when the meter is ready to open, not when this process was started; faults with a time begin with `arm`.
os.environ["NVML_SIM"] = os.environ.get("NVML_SIM", "") + f"{follow};armed={os.environ['ARMED']}"

def open_nvml_meter(*arguments, **settings):
    meter = open_gpu_meters(*arguments, **settings)
    return meter if meter.answers else meter.shown
"""


@pytest.fixture
def metering(metering_module: Callable[..., Any]) -> Callable[..., Any]:
    """Run a script with `watch`, `arm` and `show` under a simulator spec; what it shows last is the answer.

    The times of faults count from the first reading of `watch` on, or from `arm`.
    """
    return metering_module


@pytest.fixture(scope="session")
def metering_module(
    simulated_nvml: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Return the same as `metering`, for a job that the tests of a module share."""
    return runner(PRELUDE, simulated_nvml, tmp_path_factory.mktemp("armed"))


@pytest.fixture
def make_node() -> Callable[..., Node]:
    """Return a node like an 8-GPU HGX with the reference values of the host model. Keyword arguments replace fields of
    the host.
    """

    def known(value: float, low: float | None = None, high: float | None = None) -> Sourced:
        return Sourced(value, "test", "assumed", low, high)

    def make(*, accelerators: int = 8, network_power_w: float = 60.0, **host: Any) -> Node:
        fields: dict[str, Any] = {
            "cpu": "2 x test",
            "sockets": 2,
            "cpu_tdp_w": 350.0,
            "dram_bytes": 2e12,
            "ssd_bytes": 30e12,
            "base_power_w": known(2000.0, 1200.0, 2600.0),
            "overhead_fraction": known(0.10),
            "embodied_kg": 3000.0,
            "nics": 8,
        } | host
        numbers = {"cpu_tdp_w", "dram_bytes", "ssd_bytes", "embodied_kg"}
        sourced = {name: known(value) if name in numbers else value for name, value in fields.items()}
        low_w, high_w = network_power_w * 25 / 60, network_power_w * 2
        return Node(
            name="test-node",
            full_name="A node for tests",
            accelerator="h100-sxm",
            accelerators=accelerators,
            host=Host(**sourced),
            network=Network(
                technology="test",
                bandwidth_bytes_per_s=known(50e9),
                power_w_per_device=known(network_power_w, low_w, high_w),
                embodied_kg_per_device=known(30.0),
            ),
            sources={"test": "made for tests"},
        )

    return make
