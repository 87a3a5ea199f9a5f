"""What one device and its links sustain, and what the software costs: the constants of the step-time equations.

A calibrated device brings its own constants in its profile; for any other the sustained law of the validation
study stands in: power per FLOP bounds the clock of matrix products, and memory faster than an A100's is filled
less well by elementwise kernels. Attention kernels are software: their rate is a share of peak by kernel class.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import msgspec
import numpy as np

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.case import Values, values
from carbon_plugin.predict.power import capped_share
from carbon_plugin.spec.figure import Assumption, Sourced
from carbon_plugin.spec.hardware.cluster import OWN_ROWS, OWN_RUNS, Accelerator, Cluster
from carbon_plugin.spec.stack import STACKS, AttentionKernel, Stack, factor_of, gather_overlap_of, host_op_time_of
from carbon_plugin.spec.training import Precision

# Reference device of the sustained law: A100-SXM, 400 W for 312 TFLOP/s and 2.04 TB/s.
LAW_SOURCE = "sustained law fitted on published A100, H100 and B200 rows"
LAW_GEMM_SHARE = 0.771
LAW_GEMM_EXPONENT = 0.35
WITHIN_EXPONENT = 0.65
"""Exponent of power within one architecture. The H100 that is capped at 500 W says 0.65 to 1.0; single devices under a
falling cap (Zeus, NSDI 2023: V100, A40, RTX 6000) 0.35 near their limit and 0.9 far below it."""
USUAL_W_PER_FLOPS = {
    "volta": 350 / 125e12,
    "ampere": 400 / 312e12,
    "hopper": 700 / 989.4e12,
    "blackwell": 1000 / 2250e12,
    "cdna3": 750 / 1307e12,
    "cdna4": 1400 / 2516e12,
}
"""W a FLOP/s in 16 bit of the part of each architecture that its constants are fitted on."""
LAW_MEMORY_SHARE = 0.674
LAW_MEMORY_EXPONENT = 0.68
REFERENCE_W_PER_FLOPS = 400 / 312e12
REFERENCE_BANDWIDTH = 2.039e12

ATTENTION_SHARE: dict[AttentionKernel, float] = {
    "flash": 0.34,
    "flash2": 0.58,
    "flash3": 0.45,
    "cudnn": 0.40,
    "cudnn_fp8": 0.52,
}
"""Causal-counted FLOP/s of the attention core over the bf16 peak, when the device has no measured value; of the kernels
of `LENGTH_KERNELS` at `LENGTH_REFERENCE` tokens. FlashAttention 2 reaches 0.58 on an A100 where version 1 reaches 0.34
(arXiv 2307.08691, forward and backward, causal). Of the fp8
kernel only the products are twice as fast, not the softmax: 1.3 times the 16-bit one is a guess that rows correct."""
AMPERE_KERNELS: frozenset[AttentionKernel] = frozenset(("flash", "flash2"))
SYNCHRONOUS = frozenset(("volta", "turing", "ampere", "ada"))
"""Architectures without asynchronous products and loads: there cuDNN's kernel is built as FlashAttention 2 is, and is
priced as it is, at every length."""
LENGTH_KERNELS: frozenset[AttentionKernel] = frozenset(("flash3", "cudnn", "cudnn_fp8"))
LENGTH_REFERENCE, LENGTH_SCALE = 4096, 2048
"""Kernels that pipeline loads under products fill only with length: rate(s) = rate(4096) (1 + s0/4096) / (1 + s0/s)
with s0 of 2,048 tokens (rows from 2k to 1M tokens; leave one source out 10.0 -> 9.1 % in the study)."""
PCIE4_ARCHITECTURES = frozenset(("volta", "turing", "ampere", "ada", "cdna2", "gaudi2"))
PCIE4_HOST, PCIE5_HOST = (41e9, 25e9), (61e9, 50e9)
"""Bytes/s of host memory and link that one device of eight gets: 80 % of two sockets of eight channels (DDR4-3200,
DDR5-4800) and of 16 lanes of PCIe 4 and 5. Faster links (NVLink-C2C) and older ones (PCIe 3) are taken as these."""
ULTRA_ATTENTION = 1.5
"""Blackwell Ultra doubles the exponential units, which bound the softmax of an attention core."""
LATER_SHARES: dict[str, float] = {"hopper": 0.45, "blackwell": 0.2, "cdna3": 0.34, "cdna4": 0.34}
"""What FlashAttention 1 and 2, written for Ampere, keep of their share where products have new instructions that they
do not use: 35 % of peak on H100 against 73 % on A100 (arXiv 2407.08608 section 1, arXiv 2307.08691 section 4); on
Blackwell they run at about the speed of an H100, whose peak is 0.44 of its own, and so they do on a MI300X, whose peak
is 1.3 times its (SemiAnalysis, MI300X vs H100 vs H200, December 2024, from memory)."""

PRIORS: dict[str, tuple[float, str]] = {
    "kernel_time_s": (2e-6, "launch gap of one kernel on current GPUs"),
    "host_op_time_s": (15e-6, "PyTorch eager on a current server CPU; seen only in small models"),
    "scaleup_share": (0.77, "share of NVLink that NCCL reaches at 1 GB (vTrain's table)"),
    "scaleup_latency_s": (20e-6, "prior of the validation study, weakly known"),
    "scaleout_share": (0.93, "share of NIC bandwidth, fitted on A100 rows"),
    "scaleout_latency_s": (80e-6, "fitted on A100 rows, weakly known"),
    "overlap_contention": (0.65, "share of hidden traffic that compute pays in memory bandwidth and SMs"),
    "all_to_all_share": (0.33, "prior, fitted on B200 expert-parallel rows"),
}
"""Constants that no datasheet gives, with where they come from; a profile's own value goes first."""

PEAK_KEYS: dict[Precision, tuple[str, ...]] = {
    "bf16": ("bf16", "fp16"),
    "fp16": ("fp16",),
    "tf32": ("tf32",),
    "fp32": ("fp32",),
    "fp8": ("fp8",),
    "mxfp8": ("fp8",),
    "nvfp4": ("fp4",),
}


ROWWISE_SHARE = 0.5
"""Rate of row-wise scaled fp8 products over tensor-wise ones: that of 16 bit. torchtitan's rows on H100 gain nothing
from them over bf16 (70B: 27.3 s against 27.4 s)."""

NARROW: frozenset[Precision] = frozenset(("fp8", "mxfp8", "nvfp4"))
"""Precisions below 16 bit: matrix products of the layers run in them, attention and the head do not."""


@dataclass(frozen=True, slots=True)
class Datasheet:
    """What is known without calibration, SI units, each broadcastable. Flags are 0 or 1.

    `island` is the number of devices reachable at `scaleup` bandwidth; `narrow` is 1 where matrix products run
    below 16 bit, `rowwise` where they scale every row; `capped_share` is what a power cap leaves of their rate.
    """

    peak: Values
    wide_peak: Values
    memory: Values
    scaleup: Values
    nic: Values
    island: Values
    devices: Values
    in_network: Values
    capped_share: Values
    narrow: Values
    rowwise: Values
    attention_unfused: Values
    attention_length: Values
    fused: Values
    scoped_graphs: Values
    iteration_graphs: Values
    fused_experts: Values
    deduplicated: Values
    expert_loop: Values
    shard_host_ops: Values
    dp_overlap: Values
    gather_overlap: Values
    framework_factor: Values
    host_memory: Values
    host_link: Values


@dataclass(frozen=True, slots=True)
class Constants:
    """What calibration fits: shares of the datasheet's rates and fixed costs (`spec.hardware.cluster.Efficiency`)."""

    gemm_share: Values
    fp8_gemm_share: Values
    memory_share: Values
    attention_flops: Values
    fp8_cast_bytes: Values
    kernel_time_s: Values
    host_op_time_s: Values
    scaleup_share: Values
    scaleup_latency_s: Values
    scaleout_share: Values
    scaleout_latency_s: Values
    overlap_contention: Values
    all_to_all_share: Values


@dataclass(frozen=True, slots=True)
class Rates:
    """Sustained rates and fixed costs, SI units, each broadcastable: a datasheet under constants.

    `gemm_flops` of the layers' matrix products at the training precision, `wide_gemm_flops` of those that stay in
    16 bit (head, attention), `attention_flops` causal-counted, `attention_unfused` 1 where the scores go through
    memory; `cast_bytes` moved an element for a low-precision cast (0 in 16 bit). `scoped_graphs` and `fused_experts`
    are the flags of `spec.stack`; graphs of whole iterations make `host_op_time` 0. `deduplicated` is 1 where a token
    goes once to each rank, `expert_loop` where experts run one by one. `host_memory` and `host_link` are a device's.
    """

    gemm_flops: Values
    wide_gemm_flops: Values
    memory: Values
    attention_flops: Values
    attention_unfused: Values
    attention_length: Values
    fused: Values
    scoped_graphs: Values
    fused_experts: Values
    deduplicated: Values
    expert_loop: Values
    shard_host_ops: Values
    cast_bytes: Values
    kernel_time: Values
    host_op_time: Values
    scaleup: Values
    scaleup_latency: Values
    nic: Values
    nic_latency: Values
    island: Values
    devices: Values
    in_network: Values
    contention: Values
    all_to_all_share: Values
    dp_overlap: Values
    gather_overlap: Values
    framework_factor: Values
    host_memory: Values
    host_link: Values


def combine(sheet: Datasheet, constants: Constants) -> Rates:
    """Rates that a datasheet sustains under constants."""
    narrow_share = np.where(sheet.narrow > 0, constants.fp8_gemm_share, 1.0)
    narrow_share = np.where(sheet.rowwise > 0, ROWWISE_SHARE * narrow_share, narrow_share)
    return Rates(
        gemm_flops=sheet.peak * constants.gemm_share * narrow_share * sheet.capped_share,
        wide_gemm_flops=sheet.wide_peak * constants.gemm_share * sheet.capped_share,
        memory=sheet.memory * constants.memory_share,
        attention_flops=constants.attention_flops * sheet.capped_share,
        attention_unfused=sheet.attention_unfused,
        attention_length=sheet.attention_length,
        shard_host_ops=sheet.shard_host_ops,
        fused=sheet.fused,
        scoped_graphs=sheet.scoped_graphs,
        fused_experts=sheet.fused_experts,
        deduplicated=sheet.deduplicated,
        expert_loop=sheet.expert_loop,
        cast_bytes=constants.fp8_cast_bytes * sheet.narrow,
        kernel_time=constants.kernel_time_s,
        host_op_time=np.where(sheet.iteration_graphs > 0, 0.0, constants.host_op_time_s),
        scaleup=sheet.scaleup * constants.scaleup_share,
        scaleup_latency=constants.scaleup_latency_s,
        nic=sheet.nic * constants.scaleout_share,
        nic_latency=constants.scaleout_latency_s,
        island=sheet.island,
        devices=sheet.devices,
        in_network=sheet.in_network,
        contention=constants.overlap_contention,
        all_to_all_share=constants.all_to_all_share,
        dp_overlap=sheet.dp_overlap,
        gather_overlap=sheet.gather_overlap,
        framework_factor=sheet.framework_factor,
        host_memory=sheet.host_memory,
        host_link=sheet.host_link,
    )


def peak_of(accelerator: Accelerator, precision: Precision) -> tuple[str, Sourced]:
    """Dense peak for a precision: its dtype and value. Raises `SpecError` when the device has no such units."""
    # Units that scale blocks (OCP MX) came with those for 4 bit, in Blackwell and CDNA 4.
    missing = precision == "mxfp8" and "fp4" not in accelerator.peak_flops
    for key in () if missing else PEAK_KEYS[precision]:
        if key in accelerator.peak_flops:
            return key, accelerator.peak_flops[key]
    raise SpecError(
        f"training: precision {precision} is not supported by {accelerator.name}; it has "
        f"{', '.join(sorted(accelerator.peak_flops))}"
    )


def is_calibrated(accelerator: Accelerator) -> bool:
    """Whether the matrix-product share of this very device was fitted or measured, not carried over."""
    share = accelerator.efficiency.gemm_share
    return share is not None and share.confidence in ("fitted", "measured")


def own_rows(accelerator: Accelerator, stack: Stack) -> int:
    """How many measured step times of the user's the constants of device or software were fitted to; 0 where they were
    not. A device that nobody calibrated is not known from a few of them."""
    if OWN_RUNS not in accelerator.sources or not is_calibrated(accelerator):
        return 0
    named = {**msgspec.structs.asdict(accelerator.efficiency), **accelerator.efficiency.attention_flops}
    told = any(
        isinstance(value, Sourced) and value.source == OWN_RUNS
        for name, value in named.items()
        if name != "sustained_power_w"
    )
    if not told and stack in (Stack(), *STACKS.values()):
        return 0
    count = accelerator.sources.get(OWN_ROWS, "1")
    return max(1, int(count)) if count.isdecimal() else 1


def gemm_share_law(tdp_w: float, peak_16bit_flops: float, architecture: str = "") -> float:
    """Share of peak that large matrix products sustain: the power limit bounds the clock under load.

    From one architecture to the next power per FLOP enters with the exponent of the study. Parts of one architecture
    are the same silicon at another limit: below its reference part's power the clock follows power more closely."""
    relative = (tdp_w / peak_16bit_flops) / REFERENCE_W_PER_FLOPS
    usual = USUAL_W_PER_FLOPS.get(architecture.split("-", maxsplit=1)[0].split("+", maxsplit=1)[0])
    below = 1.0 if usual is None else min(1.0, tdp_w / peak_16bit_flops / usual)
    across = min(1.0, relative / below)
    return LAW_GEMM_SHARE * math.pow(across, LAW_GEMM_EXPONENT) * math.pow(min(1.0, below), WITHIN_EXPONENT)


def peak_16bit(accelerator: Accelerator) -> float:
    """Dense FLOP/s of the widest format that the device's matrix units are made for, bf16 where it has it."""
    for key in ("bf16", "fp16", "fp32"):
        if key in accelerator.peak_flops:
            return accelerator.peak_flops[key].value
    raise SpecError(f"{accelerator.name}: peak_flops has none of bf16, fp16, fp32")


def memory_share_law(bandwidth_bytes_per_s: float) -> float:
    """Share of memory bandwidth that elementwise kernels sustain."""
    return LAW_MEMORY_SHARE * math.pow(max(1.0, bandwidth_bytes_per_s / REFERENCE_BANDWIDTH), -LAW_MEMORY_EXPONENT)


def attention_share(kernel: AttentionKernel, architecture: str) -> float:
    """Prior share of the bf16 peak that an attention kernel reaches on an architecture."""
    if not _fills_with_length(kernel, architecture) and kernel == "cudnn":
        kernel = "flash2"
    later = LATER_SHARES.get(re.split(r"[-+]", architecture)[0], 1.0) if kernel in AMPERE_KERNELS else 1.0
    ultra = ULTRA_ATTENTION if architecture == "blackwell-ultra" else 1.0
    return ATTENTION_SHARE[kernel] * ultra * later


def _fills_with_length(kernel: AttentionKernel, architecture: str) -> bool:
    return kernel in LENGTH_KERNELS and re.split(r"[-+]", architecture)[0] not in SYNCHRONOUS


def default_attention_kernel(accelerator: Accelerator) -> AttentionKernel:
    """The kernel class that current frameworks use on this architecture."""
    if accelerator.kind == "cpu" or accelerator.architecture in ("volta", "turing"):
        return "flash"
    if accelerator.architecture.startswith("blackwell"):
        return "cudnn"
    return "flash2"


class _Resolver:
    """Picks a profile value or a default, and remembers what was assumed."""

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
        return self.pick(field, *PRIORS[field])

    def assume(self, field: str, value: str, why: str) -> None:
        self.assumptions.append(Assumption(field, value, why))


def resolve_rates(cluster: Cluster, stack: Stack, precision: Precision) -> tuple[Rates, tuple[Assumption, ...]]:
    """Rates of a cluster under a software stack, and what had to be assumed to get them."""
    constants, assumptions = resolve_constants(cluster.accelerator, stack, precision)
    return combine(datasheet(cluster, stack, precision), constants), assumptions


def datasheet(cluster: Cluster, stack: Stack, precision: Precision) -> Datasheet:
    """Peaks, bandwidths and flags of a cluster under a software stack."""
    device, network = cluster.accelerator, cluster.node.network
    kernel = stack.attention_kernel or default_attention_kernel(device)
    numbers = {
        "peak": peak_of(device, precision)[1].value,
        "wide_peak": peak_of(device, wide_precision(precision))[1].value,
        "memory": device.memory_bandwidth_bytes_per_s.value,
        "scaleup": device.scaleup.bandwidth_bytes_per_s.value,
        "nic": network.bandwidth_bytes_per_s.value / network.oversubscription,
        "island": island_size(cluster),
        "devices": cluster.devices,
        "in_network": network.in_network_reduction,
        "capped_share": capped_share(cluster),
        "narrow": precision in NARROW,
        "rowwise": precision == "fp8" and stack.fp8_recipe == "rowwise",
        "attention_unfused": kernel == "unfused",
        "attention_length": _fills_with_length(kernel, device.architecture),
        "shard_host_ops": stack.shard_host_ops,
        "fused": stack.fused,
        "scoped_graphs": stack.cuda_graphs == "scoped",
        "iteration_graphs": stack.cuda_graphs == "iteration",
        "fused_experts": stack.fused_experts,
        "deduplicated": stack.expert_dispatch == "deepep",
        "expert_loop": stack.expert_loop,
        "dp_overlap": stack.dp_overlap,
        "gather_overlap": gather_overlap_of(stack),
        "framework_factor": factor_of(stack),
        "host_memory": host_rates(device)[0],
        "host_link": host_rates(device)[1],
    }
    return Datasheet(**{name: values(number) for name, number in numbers.items()})


def host_rates(device: Accelerator) -> tuple[float, float]:
    """Bytes/s of host memory that one device of eight gets, and of its link to the host."""
    pcie4 = re.split(r"[-+]", device.architecture)[0] in PCIE4_ARCHITECTURES
    return PCIE4_HOST if pcie4 else PCIE5_HOST


def wide_precision(precision: Precision) -> Precision:
    """What attention and the output head run in when the layers run in `precision`."""
    return "bf16" if precision in NARROW else precision


def prior_constants() -> dict[str, float]:
    """Value of every prior by name."""
    return {name: value for name, (value, _) in PRIORS.items()}


def resolve_constants(
    device: Accelerator, stack: Stack, precision: Precision
) -> tuple[Constants, tuple[Assumption, ...]]:
    """Constants of a device: its profile's where it has them, else the law or a stated prior."""
    resolver = _Resolver(device)
    peak_16bit = peak_of(device, wide_precision(precision))[1].value
    narrow, host = precision in NARROW, host_op_time_of(stack)
    numbers = {
        "gemm_share": resolver.pick(
            "gemm_share", gemm_share_law(device.tdp_w.value, peak_16bit, device.architecture), LAW_SOURCE
        ),
        "fp8_gemm_share": resolver.pick("fp8_gemm_share", 1.0, "same share of peak as in 16 bit") if narrow else 1.0,
        "memory_share": resolver.pick(
            "memory_share", memory_share_law(device.memory_bandwidth_bytes_per_s.value), LAW_SOURCE
        ),
        "attention_flops": _attention(resolver, stack, peak_16bit),
        "fp8_cast_bytes": resolver.pick("fp8_cast_bytes", 1.1, "fitted on torchtitan fp8 rows") if narrow else 0.0,
        "host_op_time_s": resolver.prior("host_op_time_s") if host is None else host,
        **{name: resolver.prior(name) for name in PRIORS if name != "host_op_time_s"},
    }
    constants = Constants(**{name: values(number) for name, number in numbers.items()})
    return constants, tuple(resolver.assumptions)


def _attention(resolver: _Resolver, stack: Stack, peak_16bit_flops: float) -> float:
    """Causal-counted FLOP/s of the attention core; infinite where it is unfused and counted by its products."""
    device = resolver.accelerator
    kernel = stack.attention_kernel
    if kernel is None:
        kernel = default_attention_kernel(device)
        if device.kind == "tpu":  # FlashAttention is CUDA code: XLA and Pallas have kernels of their own
            resolver.assume("stack.attention_kernel", f"fused, priced as {kernel}", "no class of TPU kernels is known")
        else:
            resolver.assume("stack.attention_kernel", kernel, f"usual on {device.architecture}")
    if kernel == "unfused":
        return np.inf
    if kernel == "cudnn_fp8":
        peak_of(device, "fp8")  # refuses a device without such units
    known = device.efficiency.attention_flops.get(kernel)
    if known is not None:
        return known.value
    rate = attention_share(kernel, device.architecture) * peak_16bit_flops
    resolver.assume(f"{device.name}.attention_flops.{kernel}", f"{rate:.3g}", "share of peak of this kernel class")
    return rate


def island_size(cluster: Cluster) -> int:
    """Devices of the job that reach one another at scale-up bandwidth.

    A rack-scale domain (NVL72) spans nodes; otherwise the island ends at the node. A domain of 1 means that
    devices talk over the host bus: the whole node, at that bandwidth.
    """
    domain = cluster.accelerator.scaleup.domain
    if domain > cluster.node.accelerators:
        return min(domain, cluster.devices)
    return cluster.devices_per_node if domain == 1 else min(domain, cluster.devices_per_node)
