"""The equations of what a host draws, against hand-made numbers and what must hold for any."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.meters.host.modelled import (
    cpu_power,
    cpu_tdp,
    dram_power,
    network_power,
    node_base_power,
    overhead_fractions,
)
from carbon_plugin.spec.hardware.cluster import Node
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.numbers.range import Range

TDP = Range(100.0, 100.0, 100.0)
shares = st.floats(0, 1)


def test_a_fully_busy_cpu_draws_its_tdp() -> None:
    assert cpu_power(TDP, 1.0, 1.0).value == pytest.approx(100)


def test_an_idle_cpu_that_is_all_ours_draws_its_idle_share() -> None:
    power = cpu_power(TDP, 0.0, 1.0)
    assert (power.low, power.value, power.high) == pytest.approx((0, 10, 30))


def test_a_half_busy_cpu_lies_between() -> None:
    assert cpu_power(TDP, 0.5, 1.0).value == pytest.approx(10 + 0.5 * 90)


def test_a_container_with_a_few_cores_pays_idle_power_for_those_only() -> None:
    assert cpu_power(TDP, 0.0, 0.25).value == pytest.approx(2.5)


@given(shares, shares, shares)
def test_cpu_power_is_ordered_and_rises_with_load(first: float, second: float, reserved: float) -> None:
    less, more = (cpu_power(TDP, load, reserved) for load in sorted((first, second)))
    assert less.low <= less.value + 1e-9 <= less.high + 2e-9
    assert less.value <= more.value + 1e-9


@given(st.floats(-5, 5))
def test_a_load_outside_its_range_is_taken_as_the_nearest_end(load: float) -> None:
    assert 10 - 1e-9 <= cpu_power(TDP, load, 1.0).value <= 100 + 1e-9


def test_an_unknown_cpu_has_five_watts_a_core_between_two_and_a_half_and_ten() -> None:
    assert cpu_tdp(16) == Range(80.0, 40.0, 160.0)


def test_two_terabytes_of_dram_draw_400_w_and_not_750() -> None:
    power = dram_power(2e12)
    assert (power.low, power.value, power.high) == pytest.approx((200, 400, 750))


def test_a_node_without_counters_has_all_of_its_base_power(make_node: Callable[..., Node]) -> None:
    assert node_base_power(make_node(), cpu_measured=False, dram_measured=False) == Range(2000, 1200, 2600)


def test_what_counters_measure_is_taken_out_of_the_base_power(make_node: Callable[..., Node]) -> None:
    node = make_node(sockets=2, cpu_tdp_w=350.0, dram_bytes=2e12)
    assert node_base_power(node, cpu_measured=True, dram_measured=False).value == pytest.approx(2000 - 350)
    assert node_base_power(node, cpu_measured=True, dram_measured=True).value == pytest.approx(2000 - 350 - 400)


def test_no_base_power_is_left_below_zero(make_node: Callable[..., Node]) -> None:
    node = make_node(base_power_w=Sourced(100.0, "test", "assumed"))
    assert node_base_power(node, cpu_measured=True, dram_measured=True) == Range(0, 0, 0)


def test_eight_h100_at_700_w_make_a_node_of_8_2_kw(make_node: Callable[..., Node]) -> None:
    # 1.10 * 8 * 700 W + 2.0 kW; an HGX H100 was measured at up to 8.4 kW (arXiv 2412.08602).
    node, gpus_w = make_node(), 8 * 700.0
    host_w = node_base_power(node, cpu_measured=False, dram_measured=False).value
    assert gpus_w * (1 + overhead_fractions(node).value) + host_w == pytest.approx(8160)


def test_network_power_goes_with_the_devices(make_node: Callable[..., Node]) -> None:
    assert network_power(make_node(), 8, 1) == Range(480, 200, 960)
    # 8 nodes fill one tier of switches, more need a second one.
    assert network_power(make_node(), 8, 8) == Range(480, 200, 960)
    assert network_power(make_node(), 8, 9).value > 1.5 * 480
