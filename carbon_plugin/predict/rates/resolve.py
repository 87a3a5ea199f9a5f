"""Find the rates of a cluster under a software stack, and list what is assumed to get them.

A calibrated device brings its own constants in its profile. For any other device the laws of `predict.rates.laws` and
the priors below are used, and each of them is named among the assumptions.
"""

from __future__ import annotations

import msgspec
import numpy as np

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.power import capped_share
from carbon_plugin.predict.rates.laws import (
    BUS_SHARE,
    LAW_SOURCE,
    NARROW,
    attention_factor,
    attention_rate,
    bus_rate,
    default_attention_kernel,
    exponential_width,
    gemm_share_law,
    host_rates,
    length_scale,
    limited_by_power,
    memory_share_law,
    peak_16bit,
    peak_of,
    vector_share,
    wide_precision,
)
from carbon_plugin.predict.rates.rates import Constants, Datasheet, Rates, combine
from carbon_plugin.spec.hardware.cluster import OWN_ROWS, OWN_ROWS_IN_RANGE, OWN_RUNS, Accelerator, Cluster
from carbon_plugin.spec.hardware.fabric import RADIX, leaf_nodes, narrowing
from carbon_plugin.spec.numbers.figure import Assumption, Sourced
from carbon_plugin.spec.stack import (
    GRAPH_STACK,
    ORDINARY,
    STACKS,
    THROUGH_MEMORY,
    TUNED,
    AttentionKernel,
    Stack,
    factor_of,
    gather_overlap_of,
    host_op_time_of,
    overhead_of,
    routing_spread_of,
)
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

SENT_ONCE = frozenset({"deepep", "hybridep"})
"""Ways to send a token once to each rank that holds some of its experts."""
DEEPEP_PEERS = 8
"""The largest number of devices that DeepEP's kernels for training join by scale-up links (`NUM_MAX_NVL_PEERS`)."""
TORUS_ALL_TO_ALL = (0.33, "bisection of a torus of 4 x 4 x 4 chips, over the six links of each")
"""The share of link bandwidth of an all-to-all, and its reason, on TPUs, whose chips have no switch between them.

Half of a torus of k x k x k chips reaches the other half over 2 k^2 links, and half of all rows cross, so that a chip
sends at 8/k of the rate of one of its six links.
"""

CALIBRATION = "calibration"
"""Source of the constants that the fit to published rows writes into profiles."""
MATRIX_UNIT_SOURCES = frozenset((CALIBRATION, "torch-products"))
"""Sources of the shares of profiles that are about products in 16 bit."""
ALIGNED_BYTES = 16
"""Bytes at whose multiples rows of a matrix begin where NVIDIA's matrix units read them at their rate: 8 values of 16
bit (NVIDIA's guide to matrix multiplication). Vector units, which compute fp32, do not mind."""
TPU_LANES = 128
"""Lanes of a TPU's vector and matrix units. Attention kernels for TPUs compute whole lanes, so that narrower heads are
padded (`NUM_LANES` of jax/experimental/pallas/ops/tpu/splash_attention)."""


FLASH_LANES = 32
"""Width at whose multiples FlashAttention 2 and 3 have kernels, which take narrower heads as if they were as wide
(`HEADDIM_SWITCH` of csrc/flash_attn/src/static_switch.h in Dao-AILab/flash-attention, from 32 to 256)."""


ROUTED_ROW_S = 0.19e-6
"""Seconds of a TPU, beside the bytes, for one routed row in each pass: XLA gathers and scatters rows one by one.

A user of MaxText measured Mixtral without attention on v5p at 50.4 % of peak, and at 28 % with seven times as many
experts a seventh as wide, of which a token takes seven times as many, so that only the number of its rows differs
(issue 1256 of AI-Hypercomputer/maxtext, February 2025). With this time, in three passes of its full recompute, the
second takes 1.8 times as long here too. Without it, it took 1.23 times.
"""
OFFLOADS_ROWS = frozenset({"tpu-v7"})
"""TPUs on which XLA gathers rows on SparseCores (pull request 1650 of sgl-project/sglang-jax)."""


def attention_lanes(kernel: AttentionKernel, device: Accelerator) -> int:
    """Return the width at whose multiples a kernel computes heads, or 0 where it takes every width as it is."""
    if device.kind == "tpu":
        return TPU_LANES
    return FLASH_LANES if device.vendor == "nvidia" and kernel in ("flash2", "flash3") else 0


def reads_aligned(device: Accelerator, precision: Precision) -> bool:
    """Return whether products run on NVIDIA's matrix units, which want aligned rows.

    Those of a GeForce are no faster in tf32 than its vector units, which libraries take for rows that are not aligned.
    """
    tf32, fp32 = (device.peak_flops.get(key) for key in ("tf32", "fp32"))
    as_fast = tf32 is not None and fp32 is not None and tf32.value <= fp32.value
    return device.vendor == "nvidia" and precision != "fp32" and not (precision == "tf32" and as_fast)


def routed_row_time(device: Accelerator) -> float:
    """Return the seconds, beside its bytes, that a pass needs to sort one routed row and to add it up again."""
    return ROUTED_ROW_S if device.kind == "tpu" and device.architecture not in OFFLOADS_ROWS else 0.0


def is_calibrated(accelerator: Accelerator) -> bool:
    """Return whether the matrix-product share of exactly this device was fitted or measured, and not carried over."""
    share = accelerator.efficiency.gemm_share
    return share is not None and share.confidence in ("fitted", "measured")


def own_rows(accelerator: Accelerator, stack: Stack) -> int:
    """Return how many of the user's measured step times the constants of device or software were fitted to, or 0.

    A device that nobody calibrated returns 0, because a few step times do not determine its constants.
    """
    if OWN_RUNS not in accelerator.sources or not is_calibrated(accelerator):
        return 0
    named = {**msgspec.structs.asdict(accelerator.efficiency), **accelerator.efficiency.attention_flops}
    told = any(
        isinstance(value, Sourced) and value.source == OWN_RUNS
        for name, value in named.items()
        if name != "sustained_power_w"
    )
    if not told and stack in (Stack(), GRAPH_STACK, *STACKS.values()):
        return 0
    count = accelerator.sources.get(OWN_ROWS, "1")
    return max(1, int(count)) if count.isdecimal() else 1


def narrowing_rows(accelerator: Accelerator, stack: Stack) -> int:
    """Return how many of the user's measured step times narrow the range of a prediction.

    Those that lay outside the 95 % range of their prediction do not: they say that this cluster differs from its class
    by more than its spreads tell, so that the next run may lie anywhere in them.
    """
    count = accelerator.sources.get(OWN_ROWS_IN_RANGE, "")
    own = own_rows(accelerator, stack)
    return min(own, int(count)) if count.isdecimal() else own


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


def datasheet(cluster: Cluster, stack: Stack, precision: Precision) -> Datasheet:
    """Return the peaks, bandwidths and flags of a cluster under a software stack."""
    device, network = cluster.accelerator, cluster.node.network
    kernel = stack.attention_kernel or default_attention_kernel(device)
    along, across = narrowing(cluster.node, cluster.nodes)
    numbers = {
        "aligned_bytes": ALIGNED_BYTES if reads_aligned(device, precision) else 0,
        "peak": peak_of(device, precision)[1].value,
        "wide_peak": peak_of(device, wide_precision(precision))[1].value,
        "memory": device.memory_bandwidth_bytes_per_s.value,
        "scaleup": device.scaleup.bandwidth_bytes_per_s.value,
        "nic": network.bandwidth_bytes_per_s.value / along,
        "nic_across": network.bandwidth_bytes_per_s.value / across,
        "bus": bus_rate(device),
        "island": island_size(cluster),
        "joined": joined_devices(cluster),
        "devices": cluster.devices,
        "in_network": network.in_network_reduction,
        "capped_share": capped_share(cluster),
        "uniform_tokens": stack.uniform_tokens and limited_by_power(device.architecture),
        "narrow": precision in NARROW,
        "rowwise": precision == "fp8" and stack.fp8_recipe == "rowwise",
        "attention_unfused": kernel in THROUGH_MEMORY,
        "attention_eager": kernel == "eager",
        "attention_masked": kernel == "masked",
        "attention_lanes": attention_lanes(kernel, device),
        "laid_out": float(device.kind == "tpu"),
        "attention_length": length_scale(kernel, device),
        "attention_exponentials": exponential_width(kernel, device.architecture),
        "shard_host_ops": stack.shard_host_ops,
        "fused": stack.fused,
        "scoped_graphs": stack.cuda_graphs == "scoped",
        "iteration_graphs": stack.cuda_graphs == "iteration",
        "launch_blocking": stack.launch_blocking,
        "fused_experts": stack.fused_experts,
        "deduplicated": stack.expert_dispatch in SENT_ONCE,
        "exchange_peers": exchange_peers(cluster, stack),
        "round_robin": stack.round_robin,
        "expert_loop": bool(stack.expert_loop),
        "sorted_loop": bool(stack.expert_loop) and stack.sorted_loop,
        "sliced_weights": stack.sliced_weights,
        "routed_row_time": routed_row_time(device),
        "plain_dispatch": stack.plain_dispatch,
        "static_dispatch": stack.static_dispatch,
        "counts_on_host": stack.token_counts == "host",
        "counts_to_exchange": stack.token_counts == "exchange",
        "indexed_biases": stack.indexed_biases,
        "one_kind_of_token": stack.uniform_tokens,
        "one_hot_dispatch": stack.one_hot_dispatch,
        "one_hot_batch": stack.one_hot_batch,
        "capacity_factor": stack.capacity_factor or 0.0,
        "transfer_wait": stack.transfer_wait_s,
        "broadcasts": stack.broadcasts_parameters,
        "routing_spread": routing_spread_of(stack),
        "dp_overlap": stack.dp_overlap,
        "gather_overlap": gather_overlap_of(stack),
        "gathers_ahead": stack.gathers_ahead,
        "framework_factor": factor_of(stack),
        "host_memory": host_rates(device)[0],
        "host_link": host_rates(device)[1],
    }
    return Datasheet(**{name: values(number) for name, number in numbers.items()})


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


def island_size(cluster: Cluster) -> int:
    """Return the number of devices of the job that reach one another without a network.

    A rack-scale domain (NVL72) spans nodes, and a job on several of them has as many whole nodes in each, which is how
    schedulers place it in blocks (128 devices are 64 in each of two racks). Otherwise the island is the node, within
    which devices that no link joins talk over the bus of the host.
    """
    domain, devices, node = cluster.accelerator.scaleup.domain, cluster.devices, cluster.devices_per_node
    if domain > cluster.node.accelerators:
        most = min(domain, devices) // node * node
        alike = next(size for size in range(most, 0, -node) if devices % size == 0)
        return alike if 2 * alike > domain or alike == devices else domain
    return node


def exchange_peers(cluster: Cluster, stack: Stack) -> int:
    """Return the largest number of devices between which tokens reach experts over scale-up links.

    DeepEP's kernels for training know links between the devices of a node, eight at most, and go over the network
    beyond, also in a rack whose links join all nodes (its maintainers in issues 50 and 392 of deepseek-ai/DeepEP, and a
    review of pull request 218). HybridEP and plain collectives use all links that there are (pull request 420).
    """
    island = island_size(cluster)
    return min(DEEPEP_PEERS, cluster.devices_per_node, island) if stack.expert_dispatch == "deepep" else island


def joined_devices(cluster: Cluster) -> int:
    """Return how many devices of an island scale-up links join: none to another for cards without a bridge, pairs for
    cards with one, else all of the node or the rack.

    Where somebody measured what a card without a bridge sustains, its lanes count as links. The ranks of a CPU share
    its memory.
    """
    device, island = cluster.accelerator, island_size(cluster)
    domain = device.scaleup.domain
    measured = domain == 1 and device.efficiency.scaleup_share is not None
    if device.kind == "cpu" or measured or domain > cluster.node.accelerators:
        return island
    return min(domain, island)
