"""State what is known of a cluster and its software without calibration: peaks, bandwidths, counts and flags."""

from __future__ import annotations

from carbon_plugin.predict.arrays import values
from carbon_plugin.predict.power import capped_share
from carbon_plugin.predict.rates.islands import exchange_peers, island_size, joined_devices
from carbon_plugin.predict.rates.laws import (
    NARROW,
    bus_rate,
    default_attention_kernel,
    exponential_width,
    host_rates,
    length_scale,
    limited_by_power,
    peak_of,
    wide_precision,
)
from carbon_plugin.predict.rates.rates import Datasheet
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster
from carbon_plugin.spec.hardware.fabric import narrowing
from carbon_plugin.spec.stack import (
    THROUGH_MEMORY,
    AttentionKernel,
    Stack,
    factor_of,
    gather_overlap_of,
    issues_on_dtensors,
    routing_spread_of,
)
from carbon_plugin.spec.training import Precision

SENT_ONCE = frozenset({"deepep", "hybridep"})
"""Ways to send a token once to each rank that holds some of its experts."""
ALIGNED_BYTES = 16
"""Bytes at whose multiples rows of a matrix begin where NVIDIA's matrix units read them at their rate: 8 values of 16
bit (NVIDIA's guide to matrix multiplication). Vector units, which compute fp32, do not mind."""
TPU_LANES = 128
"""Lanes of a TPU's vector and matrix units. Attention kernels for TPUs compute whole lanes, so that narrower heads are
padded (`NUM_LANES` of jax/experimental/pallas/ops/tpu/splash_attention)."""
WRAPPED_OP_S = 25e-6
"""Seconds by which the host takes longer for an operation on DTensors, as which PyTorch splits weights over
tensor-parallel ranks, and torchtitan and NeMo AutoModel with it: for the cheapest operation 24 to 26 µs since November
2025, and 36 to 40 before (pytorch/pytorch pull request 166371)."""
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


def datasheet(cluster: Cluster, stack: Stack, precision: Precision) -> Datasheet:
    """Return the peaks, bandwidths, counts and flags of a cluster under a software stack."""
    device = cluster.accelerator
    known = {
        "capped_share": capped_share(cluster),
        **_of_device(device, stack, precision),
        **_of_links(cluster, stack),
        **_of_attention(device, stack),
        **_of_host(device, stack),
        **_of_experts(device, stack),
    }
    return Datasheet(**{name: values(number) for name, number in known.items()})


def _of_device(device: Accelerator, stack: Stack, precision: Precision) -> dict[str, float]:
    """Return what products and memory reach at most, and what they ask of shapes and values."""
    return {
        "peak": peak_of(device, precision)[1].value,
        "wide_peak": peak_of(device, wide_precision(precision))[1].value,
        "memory": device.memory_bandwidth_bytes_per_s.value,
        "narrow": precision in NARROW,
        "rowwise": precision == "fp8" and stack.fp8_recipe == "rowwise",
        "aligned_bytes": ALIGNED_BYTES if reads_aligned(device, precision) else 0,
        "laid_out": device.kind == "tpu",
        "fused": stack.fused,
        "framework_factor": factor_of(stack),
        "uniform_tokens": stack.uniform_tokens and limited_by_power(device.architecture),
        "one_kind_of_token": stack.uniform_tokens,
    }


def _of_links(cluster: Cluster, stack: Stack) -> dict[str, float]:
    """Return what lies between devices, and how data-parallel traffic uses it."""
    device, network = cluster.accelerator, cluster.node.network
    along, across = narrowing(cluster.node, cluster.nodes)
    return {
        "scaleup": device.scaleup.bandwidth_bytes_per_s.value,
        "bus": bus_rate(device),
        "nic": network.bandwidth_bytes_per_s.value / along,
        "nic_across": network.bandwidth_bytes_per_s.value / across,
        "in_network": network.in_network_reduction,
        "devices": cluster.devices,
        "island": island_size(cluster),
        "joined": joined_devices(cluster),
        "devices_per_nic": network.devices_per_nic,
        "exchange_peers": exchange_peers(cluster, stack),
        "dp_overlap": stack.dp_overlap,
        "gather_overlap": gather_overlap_of(stack),
        "gathers_ahead": stack.gathers_ahead or cluster.accelerator.kind != "gpu",
        "broadcasts": stack.broadcasts_parameters,
    }


def _of_attention(device: Accelerator, stack: Stack) -> dict[str, float]:
    """Return how the kernel of the attention core computes its scores."""
    kernel = stack.attention_kernel or default_attention_kernel(device)
    return {
        "attention_unfused": kernel in THROUGH_MEMORY,
        "attention_eager": kernel == "eager",
        "attention_masked": kernel == "masked",
        "attention_lanes": attention_lanes(kernel, device),
        "attention_length": length_scale(kernel, device),
        "attention_exponentials": exponential_width(kernel, device.architecture),
    }


def _of_host(device: Accelerator, stack: Stack) -> dict[str, float]:
    """Return what the host does for each device, and its share of the host's memory and of the lanes to it."""
    memory, link = host_rates(device)
    return {
        "host_memory": memory,
        "host_link": link,
        "transfer_wait": stack.transfer_wait_s,
        "launch_blocking": stack.launch_blocking,
        "shard_host_ops": stack.shard_host_ops,
        "wrapped_op_time": wrapped_op_time(stack),
        "scoped_graphs": stack.cuda_graphs == "scoped",
        "iteration_graphs": stack.cuda_graphs == "iteration",
    }


def _of_experts(device: Accelerator, stack: Stack) -> dict[str, float]:
    """Return how tokens are routed to experts and how these are computed."""
    return {
        "fused_experts": stack.fused_experts,
        "expert_loop": bool(stack.expert_loop),
        "sorted_loop": bool(stack.expert_loop) and stack.sorted_loop,
        "sliced_weights": stack.sliced_weights,
        "routed_row_time": routed_row_time(device),
        "deduplicated": stack.expert_dispatch in SENT_ONCE,
        "round_robin": stack.round_robin,
        "plain_dispatch": stack.plain_dispatch,
        "static_dispatch": stack.static_dispatch,
        "one_hot_dispatch": stack.one_hot_dispatch,
        "one_hot_batch": stack.one_hot_batch,
        "counts_on_host": stack.token_counts == "host",
        "counts_to_exchange": stack.token_counts == "exchange",
        "indexed_biases": stack.indexed_biases,
        "capacity_factor": stack.capacity_factor or 0.0,
        "routing_spread": routing_spread_of(stack),
    }


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


def wrapped_op_time(stack: Stack) -> float:
    """Return the seconds by which the host takes longer for an operation where tensor parallelism splits weights.

    A replayed graph of the whole iteration issues none.
    """
    return WRAPPED_OP_S if issues_on_dtensors(stack) and stack.cuda_graphs != "iteration" else 0.0


def routed_row_time(device: Accelerator) -> float:
    """Return the seconds, beside its bytes, that a pass needs to sort one routed row and to add it up again."""
    return ROUTED_ROW_S if device.kind == "tpu" and device.architecture not in OFFLOADS_ROWS else 0.0
