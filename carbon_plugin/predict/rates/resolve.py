"""Find the rates of a cluster under a software stack, and list what is assumed to get them.

A calibrated device brings its own constants in its profile. For any other device the laws of `predict.rates.laws` and
the priors below are used, and each of them is named among the assumptions.
"""

from __future__ import annotations

import numpy as np

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.rates.datasheet import datasheet
from carbon_plugin.predict.rates.islands import island_size, joined_devices
from carbon_plugin.predict.rates.laws import (
    BUS_SHARE,
    LAW_SOURCE,
    NARROW,
    attention_factor,
    attention_rate,
    bus_rate,
    default_attention_kernel,
    gemm_share_law,
    memory_share_law,
    peak_16bit,
    peak_of,
    vector_share,
    wide_precision,
)
from carbon_plugin.predict.rates.rates import Constants, Rates, combine
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster
from carbon_plugin.spec.hardware.fabric import RADIX, leaf_nodes
from carbon_plugin.spec.numbers.figure import Assumption, Sourced
from carbon_plugin.spec.stack import ORDINARY, STACKS, THROUGH_MEMORY, TUNED, Stack, host_op_time_of, overhead_of
from carbon_plugin.spec.training import Precision

PRIORS: dict[str, tuple[float, str]] = {
    "kernel_time_s": (2e-6, "launch gap of one kernel on current GPUs"),
    "host_op_time_s": (15e-6, "PyTorch eager on a current server CPU; seen only in small models"),
    "scaleup_share": (0.77, "share of NVLink that NCCL reaches at 1 GB (vTrain's table)"),
    "scaleup_latency_s": (20e-6, "prior of the validation study, weakly known"),
    "scaleout_share": (0.93, "share of NIC bandwidth, fitted on A100 rows"),
    "scaleout_latency_s": (80e-6, "fitted on A100 rows, weakly known"),
    "overlap_contention": (0.65, "share of hidden traffic that compute pays in memory bandwidth and SMs"),
    "all_to_all_share": (
        0.9,
        "of what other collectives reach: DeepEP on H800 and B200 (its README and docs/legacy.md)",
    ),
}
"""Constants that no datasheet gives, and where they come from. A profile's own value takes precedence."""

TORUS_ALL_TO_ALL = (0.33, "bisection of a torus of 4 x 4 x 4 chips, over the six links of each")
"""The share of link bandwidth of an all-to-all, and its reason, on TPUs, whose chips have no switch between them.

Half of a torus of k x k x k chips reaches the other half over 2 k^2 links, and half of all rows cross, so that a chip
sends at 8/k of the rate of one of its six links.
"""

CALIBRATION = "calibration"
"""Source of the constants that the fit to published rows writes into profiles."""
MATRIX_UNIT_SOURCES = frozenset((CALIBRATION, "torch-products"))
"""Sources of the shares of profiles that are about products in 16 bit."""


class _Resolver:
    """Picks a profile value or a default for each constant, and remembers what was assumed."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.assumptions: list[Assumption] = []

    def pick(self, field: str, default: float, why: str) -> float:
        sourced: Sourced | None = getattr(self.accelerator.efficiency, field)
        if sourced is not None:
            return sourced.value
        self.assume(f"{self.accelerator.name}.{field}", f"{default:.4g}", why)
        return default

    def prior(self, field: str) -> float:
        torus = field == "all_to_all_share" and self.accelerator.kind == "tpu"
        return self.pick(field, *(TORUS_ALL_TO_ALL if torus else PRIORS[field]))

    def assume(self, field: str, value: str, why: str) -> None:
        self.assumptions.append(Assumption(field, value, why))


def is_ported(stack: Stack, device: Accelerator) -> bool:
    """Return whether tuned software runs on GPUs of another maker than those for which people tuned it.

    Devices that compile whole graphs run kernels of their maker's compiler, whatever software hands them the graphs.
    """
    elsewhere = stack.tuned_for not in (None, device.vendor)
    return stack.population == TUNED and elsewhere and device.kind == "gpu" and not device.compiles_graphs


def _overhead(resolver: _Resolver, stack: Stack) -> float:
    """Return the divisor of the rates of memory and links: that of the stack, or that of ordinary software where nobody
    tuned the stack for this device."""
    if stack.overhead_factor is not None or not is_ported(stack, resolver.accelerator):
        return overhead_of(stack)
    found = overhead_of(STACKS[ORDINARY])
    why = (
        f"this software was tuned for devices of {stack.tuned_for}, so that it moves bytes here as ordinary software "
        "does; stack.tuned_for or stack.overhead_factor says otherwise"
    )
    resolver.assume("stack.overhead_factor", f"{found:.4g}", why)
    return found


def resolve_rates(cluster: Cluster, stack: Stack, precision: Precision) -> tuple[Rates, tuple[Assumption, ...]]:
    """Return the rates of a cluster under a software stack, and what is assumed to get them."""
    constants, assumptions = resolve_constants(cluster.accelerator, stack, precision)
    if joined_devices(cluster) == 1 < island_size(cluster):  # no link carries anything
        assumptions = tuple(one for one in assumptions if one.field != f"{cluster.accelerator.name}.scaleup_share")
    found = (*assumptions, *_bus(cluster), *_rails(cluster))
    return combine(datasheet(cluster, stack, precision), constants), found


def _bus(cluster: Cluster) -> tuple[Assumption, ...]:
    """Return the assumption on the way between devices of a node that no link joins, where there are any."""
    device = cluster.accelerator
    if joined_devices(cluster) >= island_size(cluster):
        return ()
    why = (
        f"{BUS_SHARE:.2g} of the lanes to the host, as on eight RTX 5090 (issue 1639 of NVIDIA/nccl); a scaleup_share "
        "in the profile of a card without a bridge takes its place"
    )
    return (Assumption(f"{device.name}.bus", f"{bus_rate(device) / 1e9:.3g} GB/s", why),)


def _rails(cluster: Cluster) -> tuple[Assumption, ...]:
    """Return the assumptions about the way between nodes, where the network narrows above its leaf switches."""
    network = cluster.node.network
    if network.oversubscription == 1 or cluster.nodes == 1:
        return ()
    if network.rails is None:
        why = "nobody states cluster.rails, so that all traffic between nodes is taken to pass the narrower tier"
        return (Assumption("network.rails", "unknown", why),)
    reach = leaf_nodes(cluster.node, network.rails)
    why = f"leaf switches of {RADIX} ports, and a job that fills one before the next"
    return (Assumption("network.leaf_nodes", str(reach), why),)


def prior_constants() -> dict[str, float]:
    """Return the value of every prior by its name."""
    return {name: value for name, (value, _) in PRIORS.items()}


def resolve_constants(
    device: Accelerator, stack: Stack, precision: Precision
) -> tuple[Constants, tuple[Assumption, ...]]:
    """Return the constants of a device: those of its profile where it has them, else the law's or a stated prior's."""
    resolver = _Resolver(device)
    peak_wide = peak_of(device, wide_precision(precision))[1].value
    narrow, host = precision in NARROW, host_op_time_of(stack)
    law = gemm_share_law(device.tdp_w.value, peak_wide, device.architecture)
    numbers = {
        "gemm_share": _gemm_share(resolver, precision, law),
        "fp8_gemm_share": resolver.pick("fp8_gemm_share", 1.0, "same share of peak as in 16 bit") if narrow else 1.0,
        "memory_share": resolver.pick(
            "memory_share", memory_share_law(device.memory_bandwidth_bytes_per_s.value), LAW_SOURCE
        ),
        "attention_flops": _attention(resolver, stack) * attention_factor(precision, device),
        "fp8_cast_bytes": resolver.pick("fp8_cast_bytes", 1.1, "fitted on torchtitan fp8 rows") if narrow else 0.0,
        "host_op_time_s": resolver.prior("host_op_time_s") if host is None else host,
        "overhead": _overhead(resolver, stack),
        **{name: resolver.prior(name) for name in PRIORS if name != "host_op_time_s"},
    }
    constants = Constants(**{name: values(number) for name, number in numbers.items()})
    return constants, tuple(resolver.assumptions)


def _gemm_share(resolver: _Resolver, precision: Precision, law: float) -> float:
    """Return the share of peak of matrix products.

    Products in fp32 run on vector units, and the share that a profile ships with is that of matrix units. They sustain
    what users measured on the architecture, else what the law gives for the vector units' own peak.
    """
    device = resolver.accelerator
    share, measured = device.efficiency.gemm_share, vector_share(device.architecture)
    of_matrix_units = share is None or share.source in MATRIX_UNIT_SOURCES
    if precision != "fp32" or not of_matrix_units or (share is None and measured is None):
        return resolver.pick("gemm_share", law, LAW_SOURCE)
    found = law if measured is None else measured
    resolver.assume(f"{device.name}.gemm_share", f"{found:.4g}", "vector units run at their own share")
    return found


def _attention(resolver: _Resolver, stack: Stack) -> float:
    """Return the causal-counted FLOP/s of the attention core in 16 bit.

    They are infinite where the core is unfused, because its products are counted then.
    """
    device = resolver.accelerator
    kernel = stack.attention_kernel
    if kernel is None:
        kernel = default_attention_kernel(device)
        if device.kind == "tpu":  # FlashAttention is CUDA code: XLA and Pallas have kernels of their own
            resolver.assume("stack.attention_kernel", f"fused, priced as {kernel}", "no class of TPU kernels is known")
        else:
            resolver.assume("stack.attention_kernel", kernel, f"usual on {device.architecture}")
    elif kernel == "flash" and default_attention_kernel(device) != "flash":
        why = "flash states no release; write flash2, flash3 (Hopper) or flash4 (Blackwell) for a later one"
        resolver.assume("stack.attention_kernel", "flash (FlashAttention 1 of 2022)", why)
    if kernel in THROUGH_MEMORY:
        return np.inf
    if kernel == "cudnn_fp8":
        peak_of(device, "fp8")  # refuses a device without such units
    known = device.efficiency.attention_flops.get(kernel)
    if known is not None:
        return known.value
    rate = attention_rate(kernel, device, peak_16bit(device))
    resolver.assume(f"{device.name}.attention_flops.{kernel}", f"{rate:.3g}", "share of peak of this kernel class")
    return rate
