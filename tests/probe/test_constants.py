"""A rate that the probe measures gives back, in the predictor's own equations, the time that was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.predict.time import network
from carbon_plugin.probe import counts as probe_counts
from carbon_plugin.probe.collectives import KINDS, all_reduce_bandwidth, fit_link
from carbon_plugin.probe.measure import CPU_SIZES, GPU_SIZES
from carbon_plugin.probe.result import CollectiveTime
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.stack import Stack


def times_on(bandwidth: float, latency: float, ranks: int, noise: float = 0.0) -> list[CollectiveTime]:
    """Return the times of all collectives by the equations of `predict.time.network`, on an island with this link."""
    cluster = Cluster(
        accelerator=load_accelerator("h100-sxm"), node=load_node("dgx-h100"), nodes=1, devices_per_node=ranks
    )
    rates, _ = resolve_rates(cluster, Stack(), "bf16")
    rates = replace(rates, scaleup=np.float64(bandwidth), scaleup_latency=np.float64(latency))
    group = network.group_of(np.float64(ranks), np.float64(1), rates)
    found = []
    for kind in KINDS:
        time_of = group.all_reduce_time if kind == "all_reduce" else group.gather_time
        for index, size in enumerate((1 << 14, 1 << 20, 1 << 23)):
            time_s = float(time_of(np.float64(size))) * (1 + noise * (-1) ** index)
            found.append(CollectiveTime(kind=kind, size_bytes=size, time_s=time_s))
    return found


@given(
    bandwidth=st.floats(1e8, 1e12),
    latency=st.floats(1e-6, 1e-3),
    ranks=st.sampled_from([2, 4, 8]),
)
@settings(max_examples=50, deadline=None)
def test_link_fitted_to_the_equations_is_the_link_they_were_made_with(bandwidth, latency, ranks):
    link = fit_link(times_on(bandwidth, latency, ranks), ranks)

    assert link.latency_s == pytest.approx(latency, rel=1e-3)
    wire_time = 1.5 * (1 << 23) / bandwidth
    if wire_time > 0.01 * latency:
        assert link.bandwidth_bytes_per_s == pytest.approx(bandwidth, rel=1e-2)


@given(bandwidth=st.floats(1e8, 1e12), latency=st.floats(0, 1e-3), noise=st.floats(-0.5, 0.5))
@settings(max_examples=50, deadline=None)
def test_link_constants_stay_positive_under_noise(bandwidth, latency, noise):
    link = fit_link(times_on(bandwidth, latency, 2, noise), 2)

    assert link.bandwidth_bytes_per_s > 0
    assert link.latency_s > 0


def test_bandwidth_of_all_reduces_is_told_beside_it():
    assert all_reduce_bandwidth(times_on(1e9, 0.0, 2), 2) == pytest.approx(1e9)


@pytest.mark.parametrize("sizes", [CPU_SIZES, GPU_SIZES], ids=["cpu", "gpu"])
def test_counts_grow_with_the_work(sizes):
    bytes_of_one = probe_counts.elementwise_bytes(sizes.model, 1, 256, "fp32")

    assert probe_counts.elementwise_bytes(sizes.model, 8, 256, "fp32") == pytest.approx(8 * bytes_of_one)
    assert probe_counts.elementwise_bytes(sizes.model, 1, 256, "bf16") == pytest.approx(bytes_of_one / 2)
    assert probe_counts.attention_flops(sizes.model, 1, 512, "fp32") == pytest.approx(
        4 * probe_counts.attention_flops(sizes.model, 1, 256, "fp32")
    )


def test_a_layer_has_tens_of_kernels_whatever_its_width():
    kernels = probe_counts.layer_kernels(CPU_SIZES.tiny)

    assert 20 < kernels < 100
    assert kernels == probe_counts.layer_kernels(GPU_SIZES.model)
