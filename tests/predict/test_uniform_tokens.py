"""Batches whose tokens are all alike: their products draw less power and run faster, where power limits them."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.predict.rates.laws import MOST_GEMM_SHARE
from carbon_plugin.predict.rates.rates import UNIFORM_GAIN
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.stack import STACKS


def product_rate(device: str, *, uniform: bool) -> float:
    accelerator = load_accelerator(device)
    cluster = Cluster(accelerator=accelerator, node=default_node_for(accelerator), nodes=1, devices_per_node=1)
    stack = msgspec.structs.replace(STACKS["torchtitan"], uniform_tokens=uniform)
    rates, _ = resolve_rates(cluster, stack, "bf16" if "bf16" in accelerator.peak_flops else "fp16")
    return float(rates.gemm_flops)


@pytest.mark.parametrize("device", ["a100-sxm-80gb", "h100-sxm", "b200-sxm"])
def test_products_of_tokens_that_are_alike_run_faster_and_stay_below_what_any_training_reaches(device: str) -> None:
    usual, alike = (product_rate(device, uniform=flag) for flag in (False, True))
    peak = load_accelerator(device).peak_flops["bf16"].value

    assert usual < alike <= UNIFORM_GAIN * usual * (1 + 1e-9)
    assert alike <= MOST_GEMM_SHARE * peak


@pytest.mark.parametrize("device", ["v100-sxm2-32gb", "tpu-v5p"])
def test_what_waits_for_operands_and_not_for_power_gains_nothing(device: str) -> None:
    assert product_rate(device, uniform=True) == product_rate(device, uniform=False)
