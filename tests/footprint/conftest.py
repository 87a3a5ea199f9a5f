"""A cluster of eight H100 nodes with the embodied numbers of published footprints, and plain factors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from carbon_plugin.footprint.account import Factors, Intensity
from carbon_plugin.spec.figure import Figure, Sourced
from carbon_plugin.spec.hardware import Accelerator, Cluster, Host, Network, Node, ScaleUp


def _sourced(value: float, low: float | None = None, high: float | None = None) -> Sourced:
    return Sourced(value=value, low=low, high=high, source="sheet", confidence="read")


@pytest.fixture
def h100_cluster() -> Cluster:
    accelerator = Accelerator(
        name="h100-sxm",
        full_name="NVIDIA H100 SXM5 80 GB",
        vendor="nvidia",
        architecture="hopper",
        peak_flops={"bf16": _sourced(989.4e12)},
        memory_bytes=_sourced(80e9),
        memory_bandwidth_bytes_per_s=_sourced(3.35e12),
        tdp_w=_sourced(700),
        idle_power_w=_sourced(70),
        scaleup=ScaleUp(technology="nvlink4", bandwidth_bytes_per_s=_sourced(450e9), domain=8),
        scaleout_bandwidth_bytes_per_s=_sourced(50e9),
        embodied_kg=Sourced(value=164, low=125, high=275, source="pcf", confidence="read2"),
        sources={"sheet": "datasheet", "pcf": "NVIDIA HGX H100 PCF, July 2025"},
    )
    node = Node(
        name="dgx-h100",
        full_name="NVIDIA DGX H100",
        accelerator="h100-sxm",
        accelerators=8,
        host=Host(
            cpu="2x 56 cores",
            sockets=2,
            cpu_tdp_w=_sourced(350),
            dram_bytes=_sourced(2e12),
            ssd_bytes=_sourced(34.6e12),
            nics=10,
            base_power_w=_sourced(2000),
            overhead_fraction=_sourced(0.1),
            embodied_kg=Sourced(value=3200, low=1000, high=6000, source="model", confidence="derived"),
        ),
        network=Network(
            technology="infiniband",
            bandwidth_bytes_per_s=_sourced(50e9),
            power_w_per_device=_sourced(60),
            embodied_kg_per_device=_sourced(25, 10, 60),
        ),
        sources={"model": "bottom-up by DRAM, SSD, CPU", "sheet": "datasheet"},
    )
    return Cluster(accelerator=accelerator, node=node, nodes=8, devices_per_node=8)


@pytest.fixture(scope="session")
def make_factors() -> Callable[..., Factors]:
    """Factors from (value, low, high) triples; a bare number has no range."""

    def make(
        intensity: object = 400.0, pue: object = 1.2, lifetime: object = 5.0, embodied: dict[str, object] | None = None
    ) -> Factors:
        return Factors(
            intensity=Intensity(
                zone="TST",
                zone_name="Testland",
                figure=_figure(intensity, "gCO2e/kWh"),
                year=2025,
                basis=None,
                licence="none",
                attribution="none",
            ),
            pue=_figure(pue, "kWh/kWh"),
            lifetime_years=_figure(lifetime, "year"),
            embodied_kg={scope: _figure(kg, "kgCO2e") for scope, kg in (embodied or {}).items()},
        )

    return make


def _figure(value: object, unit: str) -> Figure:
    central, low, high = value if isinstance(value, tuple) else (value, value, value)
    return Figure(central, low, high, unit, "assumed", "test")
