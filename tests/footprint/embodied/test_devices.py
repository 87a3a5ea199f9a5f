"""Embodied factors from profiles, lifetime, and the rate a device-hour."""

from __future__ import annotations

import pytest

from carbon_plugin.footprint.embodied.devices import embodied_factors, lifetime, per_device_hour_g
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.site import Site


def test_factors_carry_the_profiles_ranges_and_the_text_of_its_source(h100_cluster: Cluster) -> None:
    factors = embodied_factors(h100_cluster)

    assert list(factors) == ["device", "host", "network"]
    device = factors["device"]
    assert (device.value, device.low, device.high, device.unit) == (164, 125, 275, "kgCO2e")
    assert device.source == "h100-sxm: NVIDIA HGX H100 PCF, July 2025 (read2)"


def test_an_h100_device_hour_with_host_and_network_is_12_8_g_at_five_years(h100_cluster: Cluster) -> None:
    # Whole node per GPU: 563 to 589 kg; 563 kg over 5 y of 8766 h is 12.8 g. Here 164 + 3200/8 + 25 = 589 kg.
    factors = resolve_factors(Site(zone="FRA"), h100_cluster)

    rate = per_device_hour_g(factors, devices_per_node=8)

    assert rate.value == pytest.approx(589e3 / (5 * 8766))
    assert rate.value * 563 / 589 == pytest.approx(12.8, abs=0.05)
    assert 5.5 <= rate.low <= rate.value <= rate.high <= 35  # published range of scenarios, g per GPU-hour


def test_lifetime_is_five_years_unless_the_user_says_otherwise() -> None:
    assumed, declared = lifetime(Site(zone="FRA")), lifetime(Site(zone="FRA", lifetime_years=4))

    assert (assumed.low, assumed.value, assumed.high, assumed.kind) == (3, 5, 6, "assumed")
    assert (declared.low, declared.value, declared.high, declared.kind) == (4, 4, 4, "declared")
