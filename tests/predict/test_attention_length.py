"""Attention by the length that a layer sees and the architecture that it runs on; clocks and hosts by device."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.rates.laws import (
    LAW_GEMM_SHARE,
    MOST_GEMM_SHARE,
    attention_share,
    gemm_share_law,
    host_rates,
    peak_16bit,
)
from carbon_plugin.predict.rates.resolve import datasheet, resolve_constants
from carbon_plugin.predict.time.operators import attention_core
from carbon_plugin.spec.hardware.cluster import OWN_RUNS, Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, list_accelerators, load_accelerator
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=4096, global_batch_size=8, steps=1)
LAYOUT = layout_of(ParallelLayout(dp_shard=8, zero_stage=1))


def core(model, rates, **changes: float) -> float:
    cost = attention_core(shape_of(model), LAYOUT, work_of(PLAN, Stack()), rates(kernel_time=0.0, **changes))
    return float(cost.forward)


def test_a_window_on_half_of_the_layers_leaves_the_rate_of_the_others(gpt, rates) -> None:
    def windowed(layers: int | None) -> float:
        model = msgspec.structs.replace(gpt, sliding_window=128, sliding_window_layers=layers)
        return core(model, rates, attention_length=1.0)

    plain = core(gpt, rates, attention_length=1.0)
    assert windowed(gpt.layers // 2) == pytest.approx((plain + windowed(None)) / 2)


def test_a_short_window_fills_a_kernel_less_than_a_long_one(gpt, rates) -> None:
    model = msgspec.structs.replace(gpt, sliding_window=128)
    assert core(model, rates, attention_length=1.0) > core(model, rates)


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "h100-sxm"])
def test_cudnn_fills_with_length_only_where_loads_are_asynchronous(name) -> None:
    device = load_accelerator(name)
    cluster = Cluster(accelerator=device, node=default_node_for(device), nodes=1, devices_per_node=8)
    later = device.architecture.startswith("hopper")
    assert bool(datasheet(cluster, Stack(attention_kernel="cudnn"), "bf16").attention_length) is later
    same = attention_share("cudnn", device.architecture) == attention_share("flash2", device.architecture)
    assert same is not later


def test_kernels_for_ampere_keep_less_of_their_share_on_every_later_architecture() -> None:
    shares = [attention_share("flash2", kind) for kind in ("ampere-ga100", "hopper", "cdna3", "blackwell")]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 2 * shares[1]


def test_one_chip_sustains_less_at_a_lower_power_limit() -> None:
    shares = [
        gemm_share_law(device.tdp_w.value, peak_16bit(device), device.architecture)
        for device in map(load_accelerator, ("v100-sxm2-32gb", "v100-sxm3-32gb"))
    ]
    assert shares[0] / shares[1] == pytest.approx((300 / 350) ** 0.65)


@pytest.mark.parametrize("device", list_accelerators(), ids=lambda device: device.name)
def test_no_device_sustains_more_of_its_peak_than_products_do_without_a_power_limit(device) -> None:
    if {"bf16", "fp16", "fp32"} & set(device.peak_flops):
        share = gemm_share_law(device.tdp_w.value, peak_16bit(device), device.architecture)
        assert 0 < share <= MOST_GEMM_SHARE


def test_more_power_per_flop_sustains_a_larger_share_up_to_a_bound() -> None:
    watts = (100, 200, 400, 500, 600, 1000, 2000)
    shares = [gemm_share_law(tdp_w, 312e12, "new") for tdp_w in watts]
    assert shares == sorted(shares)
    assert shares[2] == pytest.approx(LAW_GEMM_SHARE)
    assert shares[-1] == MOST_GEMM_SHARE
    assert gemm_share_law(2000, 312e12, "volta") == LAW_GEMM_SHARE


def test_products_in_fp32_have_the_share_of_vector_units_and_a_share_of_ones_own_runs_stays() -> None:
    device = load_accelerator("a100-sxm-80gb")
    tensor, vector = (resolve_constants(device, Stack(), precision)[0].gemm_share for precision in ("bf16", "fp32"))
    assert float(vector) == MOST_GEMM_SHARE > float(tensor)
    share = Sourced(value=0.5, source=OWN_RUNS, confidence="fitted")
    own = msgspec.structs.replace(device, efficiency=msgspec.structs.replace(device.efficiency, gemm_share=share))
    assert float(resolve_constants(own, Stack(), "fp32")[0].gemm_share) == 0.5


def test_newer_hosts_give_a_device_more_memory_and_a_faster_link() -> None:
    old, new = (host_rates(load_accelerator(name)) for name in ("a100-sxm-80gb", "h100-sxm"))
    assert old[0] < new[0]
    assert old[1] < new[1]
