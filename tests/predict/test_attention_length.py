"""Attention by the length that a layer sees and the architecture that it runs on; clocks and hosts by device."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.rates.datasheet import datasheet
from carbon_plugin.predict.rates.laws import (
    HEAD_REFERENCE,
    LAW_GEMM_SHARE,
    LENGTH_REFERENCE,
    MOST_GEMM_SHARE,
    WITHIN_EXPONENT,
    attention_rate,
    attention_share,
    exponential_width,
    gemm_share_law,
    host_rates,
    length_scale,
    peak_16bit,
)
from carbon_plugin.predict.rates.resolve import resolve_constants, resolve_rates
from carbon_plugin.predict.time.operators import FLASH_BACKWARD, attention_core
from carbon_plugin.spec.hardware.cluster import OWN_RUNS, Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, list_accelerators, load_accelerator
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.stack import AttentionKernel, Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=4096, global_batch_size=8, steps=1)
KERNELS: tuple[AttentionKernel, ...] = ("cudnn", "flash2")
LAYOUT = layout_of(ParallelLayout(dp_shard=8, zero_stage=1))


def core(model, rates, **changes: float) -> float:
    cost = attention_core(shape_of(model), LAYOUT, work_of(PLAN, Stack()), rates(kernel_time=0.0, **changes))
    return float(cost.forward)


def test_a_window_on_half_of_the_layers_leaves_the_rate_of_the_others(gpt, rates) -> None:
    def windowed(layers: int | None) -> float:
        model = msgspec.structs.replace(gpt, sliding_window=128, sliding_window_layers=layers)
        return core(model, rates, attention_length=2048.0)

    plain = core(gpt, rates, attention_length=2048.0)
    assert windowed(gpt.layers // 2) == pytest.approx((plain + windowed(None)) / 2)


def test_a_short_window_fills_a_kernel_less_than_a_long_one(gpt, rates) -> None:
    model = msgspec.structs.replace(gpt, sliding_window=128)
    assert core(model, rates, attention_length=2048.0) > core(model, rates)


def per_flop(model, rates, head: int, width: float) -> float:
    """Return the time of a core with heads of this width, divided by that of its products alone."""
    heads = msgspec.structs.replace(model, head_dim=head)
    return core(heads, rates, attention_exponentials=width) / core(heads, rates)


@given(head=st.integers(1, 512), width=st.floats(1, 512))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_narrow_heads_wait_longer_for_exponentials_and_the_usual_head_keeps_its_rate(gpt, rates, head, width) -> None:
    assert per_flop(gpt, rates, HEAD_REFERENCE, width) == pytest.approx(1)
    assert (per_flop(gpt, rates, head, width) - 1) * (HEAD_REFERENCE - head) >= -1e-9


def test_a_head_of_64_whose_exponentials_take_as_long_as_products_of_128_waits_for_them(gpt, rates) -> None:
    expected = math.sqrt(1 + 2**2) / math.sqrt(1 + 1)

    assert per_flop(gpt, rates, 64, 128) == pytest.approx(expected)
    plan = msgspec.structs.replace(PLAN, input_len=1024)
    shape = replace(shape_of(gpt), heads=np.float64(0), cross_heads=np.float64(8), cross_dim=np.float64(64))
    crossing = [
        float(attention_core(shape, LAYOUT, work_of(plan, Stack()), rates(kernel_time=0.0, **changes)).forward)
        for changes in ({"attention_exponentials": 128.0}, {})
    ]
    assert crossing[0] / crossing[1] == pytest.approx(expected)


@given(heads=st.integers(1, 64), head=st.integers(8, 256), eager=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_attention_to_another_input_costs_what_attention_to_as_many_own_tokens_does(gpt, rates, heads, head, eager):
    """Where scores go through memory no mask spares any, so that both are the same products and passes."""
    plan = msgspec.structs.replace(PLAN, input_len=PLAN.seq_len)
    given_rates = rates(attention_unfused=1.0, attention_eager=float(eager))
    one = replace(shape_of(gpt), qk_dim=np.float64(head), v_dim=np.float64(head), heads=np.float64(heads))
    other = replace(one, heads=np.float64(0), cross_heads=np.float64(heads), cross_dim=np.float64(head))
    own, cross = (attention_core(shape, LAYOUT, work_of(plan, Stack()), given_rates) for shape in (one, other))
    both = replace(one, cross_heads=np.float64(heads), cross_dim=np.float64(head))

    assert float(cross.forward) == pytest.approx(float(own.forward))
    summed = attention_core(both, LAYOUT, work_of(plan, Stack()), given_rates)
    assert float(summed.backward) == pytest.approx(2 * float(own.backward))


def test_a_kernel_that_is_handed_a_mask_computes_the_whole_square_whatever_the_mask_leaves_of_it(gpt, rates) -> None:
    windowed = msgspec.structs.replace(gpt, sliding_window=128)
    both_ways = msgspec.structs.replace(gpt, causal=False)
    whole = [core(model, rates, attention_masked=1.0) for model in (gpt, windowed, both_ways)]
    assert whole == pytest.approx([2 * core(gpt, rates)] * 3)
    assert core(both_ways, rates) == pytest.approx(whole[0])


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "h100-sxm", "mi300x"])
def test_a_mask_slows_attention_of_pytorch_by_more_than_the_half_that_it_leaves_out(gpt, name) -> None:
    device = load_accelerator(name)
    cluster = Cluster(accelerator=device, node=default_node_for(device), nodes=1, devices_per_node=8)
    case = (shape_of(gpt), LAYOUT, work_of(PLAN, Stack()))

    def core_time_s(kernel: AttentionKernel) -> float:
        return float(attention_core(*case, resolve_rates(cluster, Stack(attention_kernel=kernel), "bf16")[0]).forward)

    assert core_time_s("masked") > 2.5 * core_time_s("flash2")


def test_exponentials_slow_attention_on_blackwell_and_half_as_wide_a_head_on_blackwell_ultra() -> None:
    names = ("h100-sxm", "b200-sxm", "gb300-nvl72", "rtx5090", "mi300x")
    widths = [exponential_width("cudnn", load_accelerator(name).architecture) for name in names]
    assert widths == [0, HEAD_REFERENCE, HEAD_REFERENCE / 2, 0, 0]
    blackwell = load_accelerator("b200-sxm").architecture
    # Products in fp8 are twice as fast, kernels for Ampere wait for their products, and scores in memory for these.
    assert exponential_width("cudnn_fp8", blackwell) == 2 * HEAD_REFERENCE
    assert exponential_width("flash2", blackwell) == exponential_width("eager", blackwell) == 0


@pytest.mark.parametrize("kernel", ["cudnn", "cudnn_fp8", "flash2"])
def test_narrow_heads_lose_on_blackwell_what_blackwell_ultra_saves_of_the_time_of_exponentials(kernel) -> None:
    def time_per_flop(architecture: str, head: int) -> float:
        width = exponential_width(kernel, architecture)
        return (
            math.hypot(1, width / head) / math.hypot(1, width / HEAD_REFERENCE) / attention_share(kernel, architecture)
        )

    # Doubled exponential units do for a head what a head twice as wide does, whatever the rate at the reference is.
    assert time_per_flop("blackwell-ultra", 64) == pytest.approx(time_per_flop("blackwell", 128))
    assert attention_share("cudnn", "blackwell-gb202") == attention_share("flash2", "blackwell-gb202")


def filled(kernel, device, keys: int) -> float:
    """Return the rate on sequences of `keys` tokens over that on long ones."""
    return 1 / (1 + length_scale(kernel, device) / keys)


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "h100-sxm"])
def test_cudnn_needs_longer_sequences_only_where_loads_are_asynchronous(name) -> None:
    device = load_accelerator(name)
    cluster = Cluster(accelerator=device, node=default_node_for(device), nodes=1, devices_per_node=8)
    scales = [datasheet(cluster, Stack(attention_kernel=kernel), "bf16").attention_length for kernel in KERNELS]
    later = device.architecture.startswith("hopper")
    assert bool(scales[0] > scales[1]) is later
    assert bool(scales[0] == scales[1]) is not later
    same = attention_share("cudnn", device.architecture) == attention_share("flash2", device.architecture)
    assert same is not later


def test_flash_attention_2_fills_with_length_as_its_table_says() -> None:
    # TFLOP/s on an H100, forward, causal, heads of 128 (arXiv 2407.08608, figure 5)
    table = {512: 191, 1024: 260, 2048: 298, 4096: 319, 8192: 333, 16384: 335}
    device = load_accelerator("h100-sxm")
    for keys, rate in table.items():
        relative = filled("flash2", device, keys) / filled("flash2", device, 16384)
        assert relative == pytest.approx(rate / table[16384], abs=0.06)


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("a100-sxm-80gb", None, None),
        ("h100-sxm", 319e12, 310e12),  # arXiv 2407.08608, figures 5 and 6: 4,096 tokens, heads of 128
        ("h100-sxm", 284e12, 287e12),  # pull request 1791 of Dao-AILab/flash-attention: 8,192 tokens, causal
        ("b200-sxm", 307e12, 315e12),  # its issue 1589: 4,096 tokens, heads of 64
    ],
)
def test_flash_attention_2_has_the_rate_of_its_published_tables(name, forward, backward) -> None:
    device = load_accelerator(name)
    rate = attention_rate("flash2", device, peak_16bit(device))
    # Both passes together, counted as the kernels' authors do: 2 products forward and 5 backward.
    both = 3.5 / (1 + FLASH_BACKWARD) * rate
    # The A100's: 0.52 of its peak for both passes of version 2 on 2,048 to 4,096 tokens, as we remember figure 4 of
    # arXiv 2307.08691, which is not stored where we could read it.
    published = 0.52 * peak_16bit(device) if forward is None else 3.5 / (1 / forward + 2.5 / backward)
    assert both == pytest.approx(published, rel=0.1)


def test_kernels_for_ampere_keep_less_of_their_share_on_every_later_architecture() -> None:
    shares = [attention_share("flash2", kind) for kind in ("ampere-ga100", "hopper", "cdna2", "blackwell")]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 1.7 * shares[1]


@pytest.mark.parametrize("name", ["rtx5090", "rtx-pro-6000"])
def test_cards_of_blackwell_have_the_attention_of_ampere(name) -> None:
    card, center = (load_accelerator(one).architecture for one in (name, "b200-sxm"))

    assert {attention_share(kernel, card) for kernel in KERNELS} == {attention_share("flash2", "ampere-ga100")}
    assert attention_share("flash2", center) < 0.5 * attention_share("flash2", card)
    assert len({length_scale(kernel, load_accelerator(name)) for kernel in KERNELS}) == 1


def test_attention_slows_with_the_clock_of_a_device_with_less_power() -> None:
    usual, capped = (load_accelerator(name) for name in ("h100-sxm", "h100-sxm-96gb-hbm2e-500w"))
    rates = [attention_rate("flash2", device, peak_16bit(device)) for device in (usual, capped)]
    assert rates[1] / rates[0] == pytest.approx((500 / 700) ** 0.65)


def test_a_layer_without_a_causal_mask_fills_like_a_causal_one_of_twice_the_length(gpt, rates) -> None:
    encoder = msgspec.structs.replace(gpt, causal=False)
    slowed = core(encoder, rates, attention_length=2048.0) / core(encoder, rates)
    keys = 2 * PLAN.seq_len
    assert slowed == pytest.approx((1 + 2048 / keys) / (1 + 2048 / LENGTH_REFERENCE))


def test_the_rate_on_a_cpu_has_no_length() -> None:
    device = msgspec.structs.replace(load_accelerator("h100-sxm"), kind="cpu", architecture="x86_64")
    assert length_scale("flash", device) == 0


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
    assert MOST_GEMM_SHARE > float(vector) > float(tensor)
    share = Sourced(value=0.5, source=OWN_RUNS, confidence="fitted")
    own = msgspec.structs.replace(device, efficiency=msgspec.structs.replace(device.efficiency, gemm_share=share))
    assert float(resolve_constants(own, Stack(), "fp32")[0].gemm_share) == 0.5


@pytest.mark.parametrize(
    ("name", "measured_tflops"),
    [("a100-sxm-80gb", 19.18), ("rtx3090", 24.79), ("rtx4090", 54.7), ("h100-sxm", 52.11), ("h200-sxm", 51.34)],
)
def test_products_in_fp32_sustain_a_tenth_less_than_users_measured_alone(name: str, measured_tflops: float) -> None:
    device = load_accelerator(name)
    share = float(resolve_constants(device, Stack(), "fp32")[0].gemm_share)
    assert share * device.peak_flops["fp32"].value == pytest.approx(0.91 * measured_tflops * 1e12, rel=0.02)


@pytest.mark.parametrize("name", ["v100-sxm2-32gb", "mi300x"])
def test_products_in_fp32_follow_the_law_where_nobody_measured_them(name: str) -> None:
    device = load_accelerator(name)
    share = float(resolve_constants(device, Stack(), "fp32")[0].gemm_share)
    own = device.efficiency.gemm_share
    law = gemm_share_law(device.tdp_w.value, device.peak_flops["fp32"].value, device.architecture)
    assert share == (law if own is None or own.source == "calibration" else own.value)


def test_newer_hosts_give_a_device_more_memory_and_a_faster_link() -> None:
    old, new = (host_rates(load_accelerator(name)) for name in ("a100-sxm-80gb", "h100-sxm"))
    assert old[0] < new[0]
    assert old[1] < new[1]


def test_power_is_judged_by_the_die_of_a_part_and_not_by_the_name_of_its_family() -> None:
    def share(name: str) -> float:
        device = load_accelerator(name)
        return gemm_share_law(device.tdp_w.value, peak_16bit(device), device.architecture)

    # An A10 has the die of an A40 (Samsung's 8 nm) and half of its watts; an A100's is another (TSMC's 7 nm).
    at_a100s = gemm_share_law(150, 125e12, "ampere")
    assert share("a10") == pytest.approx(share("a40") * (150 / 125 / (300 / 149.7)) ** WITHIN_EXPONENT)
    assert share("a10") < at_a100s < share("a40")
