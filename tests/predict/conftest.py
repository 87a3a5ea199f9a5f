"""An A100-like device with every constant set, so that tests of the equations do not depend on calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.spec.models.model import TransformerModel

A100 = {
    "gemm_flops": 240e12,
    "wide_gemm_flops": 240e12,
    "memory": 1.37e12,
    "streaming": 1.73e12,
    "updates": 1.73e12,
    "aligned_bytes": 0.0,
    "attention_flops": 105e12,
    "attention_unfused": 0.0,
    "attention_eager": 0.0,
    "attention_masked": 0.0,
    "attention_lanes": 0.0,
    "attention_exponentials": 0.0,
    "laid_out": 0.0,
    "attention_length": 0.0,
    "shard_host_ops": 0.0,
    "wrapped_op_time": 0.0,
    "fused": 0.0,
    "scoped_graphs": 0.0,
    "launch_blocking": 0.0,
    "fused_experts": 0.0,
    "deduplicated": 0.0,
    "expert_loop": 0.0,
    "round_robin": 0.0,
    "sorted_loop": 0.0,
    "sliced_weights": 0.0,
    "routed_row_time": 0.0,
    "indexed_biases": 0.0,
    "one_kind_of_token": 0.0,
    "plain_dispatch": 0.0,
    "static_dispatch": 0.0,
    "counts_on_host": 1.0,
    "counts_to_exchange": 0.0,
    "one_hot_dispatch": 0.0,
    "one_hot_batch": 0.0,
    "capacity_factor": 0.0,
    "transfer_wait": 0.0,
    "broadcasts": 0.0,
    "routing_spread": 0.0,
    "cast_bytes": 0.0,
    "kernel_time": 2e-6,
    "host_op_time": 31e-6,
    "scaleup": 231e9,
    "bus": 17e9,
    "scaleup_latency": 20e-6,
    "nic": 11.6e9,
    "nic_across": 11.6e9,
    "nic_latency": 80e-6,
    "nic_hop": 14e-6,
    "island": 8,
    "joined": 8,
    "exchange_peers": 1e9,
    "devices": 64,
    "devices_per_nic": 1.0,
    "in_network": 0.0,
    "contention": 0.7,
    "all_to_all_share": 0.33,
    "dp_overlap": 0.0,
    "gather_overlap": 0.0,
    "gathers_ahead": 1.0,
    "framework_factor": 1.0,
    "host_memory": 41e9,
    "host_link": 25e9,
}


@pytest.fixture
def rates() -> Callable[..., Rates]:
    """Return the rates of the device with some replaced: `rates(nic=25e9)`."""

    def make(**changes: float) -> Rates:
        return Rates(**{field.name: values((A100 | changes)[field.name]) for field in dataclasses.fields(Rates)})

    return make


@pytest.fixture
def gpt() -> TransformerModel:
    """Return the shape of GPT-3 13B, which has the plain multi-head and ungated layers that Korthikanti's formulas
    describe.
    """
    return TransformerModel(
        name="gpt-13b",
        layers=40,
        hidden=5120,
        heads=40,
        kv_heads=40,
        head_dim=128,
        ffn=20480,
        vocab=51200,
        gated=False,
        tied_embeddings=True,
        dropout=0.1,
    )
