"""Estimate from its datasheet alone what a device sustains, for devices that nobody has calibrated.

The sustained law of the validation study gives the shares of the rates: the power per FLOP limits the clock of matrix
products, and elementwise kernels use a smaller share of memory that is faster than an A100's. Attention kernels are
software: their rate is a share of the peak that depends on kernel class and architecture.
"""

from __future__ import annotations

import math
import re

from carbon_plugin.errors import PrecisionError, SpecError
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.numbers.figure import Sourced
from carbon_plugin.spec.stack import AttentionKernel
from carbon_plugin.spec.training import Precision

# Reference device of the sustained law: A100-SXM, 400 W for 312 TFLOP/s and 2.04 TB/s.
LAW_SOURCE = "sustained law fitted on published A100, H100 and B200 rows"
LAW_GEMM_SHARE = 0.771
LAW_GEMM_EXPONENT = 0.35
MOST_GEMM_SHARE = 0.9
"""Share of peak that products of a training reach where power limits nothing.

Devices with more power per FLOP than an A100 come near the peak of their datasheet (H20, GeForce), which for GeForce is
at a clock that they exceed. The value is round, and was chosen in sight of rows on RTX 3090, 4090 and 5090.
"""
FIRST_MATRIX_UNITS = frozenset(("volta", "turing", "tpu"))
"""Architectures whose matrix units wait for operands and not for power: a V100 has 1.9 times the power per FLOP of an
A100, and sustains no larger share of its peak."""
VECTOR_SHARE = {
    "ampere": 0.91 * 19.18 / 19.5,
    "ampere-ga102": 0.91 * 24.79 / 35.6,
    "ada": 0.91 * 54.7 / 82.6,
    "hopper": 0.91 * 52.11 / 66.9,
    "blackwell": 0.91 * 66.24 / 75,
    "blackwell-gb202": 0.91 * 69.16 / 104.8,
}
"""Share of the fp32 peak that products on vector units sustain in a training, by architecture.

They are the TFLOP/s of square products in fp32 as users measured them in PyTorch (zzc0721/torch-performance-test-data,
database.md @0785868: A100, RTX 3090, RTX 4090, H100, B200 and RTX 5090) over the peak, times the 0.91 of them that an
A100 reaches in training in 16 bit. Since GA102 half of the lanes of a core compute integers too, and a core of Hopper
has twice the lanes of one of the A100 and as many schedulers, so that products come less near to the peak. A V100S, the
only one of the first matrix units that was measured, has another limit of power than a V100, and 0.75 where the law has
0.77.
"""
WITHIN_EXPONENT = 0.65
"""Exponent of power within one architecture. The H100 that is capped at 500 W suggests 0.65 to 1.0. Single devices
under a falling cap (Zeus, NSDI 2023: V100, A40, RTX 6000) suggest 0.35 near their limit and 0.9 far below it."""
USUAL_W_PER_FLOPS = {
    "volta": 350 / 125e12,
    "ampere": 400 / 312e12,
    "ampere-ga102": 300 / 149.7e12,
    "hopper": 700 / 989.4e12,
    "blackwell": 1000 / 2250e12,
    "cdna3": 750 / 1307e12,
    "cdna4": 1400 / 2516e12,
}
"""Watts per FLOP/s in 16 bit of the device on which the constants of each architecture are fitted, and of an A40,
whose die (GA102, that of an A10, RTX A6000 and 3090 too) is other silicon than an A100's: Samsung's 8 nm and not TSMC's
7 nm (`dies` of the profiles)."""
LAW_MEMORY_SHARE = 0.674
LAW_MEMORY_EXPONENT = 0.68
REFERENCE_W_PER_FLOPS = 400 / 312e12
REFERENCE_BANDWIDTH = 2.039e12
ATTENTION_SHARE: dict[AttentionKernel, float] = {
    "masked": 0.33,
    "flash": 0.34,
    "flash2": 0.58,
    "flash3": 0.45,
    "cudnn": 0.40,
    "cudnn_fp8": 0.52,
}
"""Ratio of the causal-counted FLOP/s of the attention core to the bf16 peak, used where the device has no measured
value.

It holds at `LENGTH_REFERENCE` tokens. FlashAttention 2 reaches 0.58 on an A100 where version 1 reaches 0.34 (arXiv
2307.08691, forward and backward, causal). With a mask PyTorch takes its memory-efficient kernel, whose rate is of all
scores that it computes: without a mask it reaches 108 and 115 TFLOP/s forward (pull request 389 and issue 924 of
facebookresearch/xformers) and 88 backward (pull request 992 of NVIDIA/cutlass) on an A100 with heads of 128. What it
takes to read the mask is not counted. In the fp8 kernel only the products are twice as fast, and the softmax is
not: 1.3 times the 16-bit kernel is a guess that rows correct.
"""
AMPERE_KERNELS: frozenset[AttentionKernel] = frozenset(("masked", "flash", "flash2"))
SYNCHRONOUS = frozenset(("volta", "turing", "ampere", "ada", "blackwell-gb202"))
"""Architectures, or dies of one, without asynchronous products. On them cuDNN's kernel is built like FlashAttention 2
and has its price.

The dies of GeForce and of workstations in the Blackwell generation have the products of Ampere. On an RTX 5090 forward
kernels reach 0.89 (FlashAttention 2 in PyTorch), 0.91 (flash-attn) and 0.97 (cuDNN) of the peak, with heads of 128 and
without a mask (gau-nernst, "Writing Speed-of-Light Flash Attention for 5090 in CUDA C++", 2025).
"""
LENGTH_REFERENCE = 4096
LENGTH_SCALE: dict[AttentionKernel, int] = {
    "masked": 350,
    "flash": 350,
    "flash2": 350,
    "flash3": 2048,
    "cudnn": 2048,
    "cudnn_fp8": 2048,
}
"""Tokens s0 by which a causal kernel fills with the length of sequences: rate(s) = rate(4096) (1 + s0/4096) / (1 +
s0/s).

FlashAttention 2 on an H100 reaches 191, 260, 298, 319, 333 and 335 TFLOP/s on 512 to 16,384 tokens (forward, causal,
heads of 128; arXiv 2407.08608, figure 5). Kernels that pipeline loads under products need longer sequences in training
(rows from 2k to 1M tokens; leaving one source out, the error fell from 10.0 to 9.1 % in the study).
"""
HEAD_REFERENCE = 128
"""Width of a head for which the attention rates are known. Most models have it."""
EXPONENTIAL_WIDTH: dict[str, float] = {"blackwell": 128, "blackwell-ultra": 64}
"""Width of a head whose products take as long as the exponentials of its scores, on architectures whose attention waits
for the exponentials.

A multiprocessor takes 16 exponentials a cycle, which Blackwell Ultra doubles, beside 8,192 FLOPs of products in 16 bit
(arXiv 2603.05451 section 2), of which a score takes four for each unit of width. That both are added as the sides of a
right triangle is a choice. Hopper takes half as many FLOPs a cycle, and hides exponentials under products
(arXiv 2407.08608): its rows with heads of 64 show no such loss.
"""
PCIE4_ARCHITECTURES = frozenset(("volta", "turing", "ampere", "ada", "cdna2", "gaudi2"))
PCIE4_LANES, PCIE5_LANES = 32e9, 64e9
"""Bytes/s of 16 lanes of PCIe 4 and 5 in one direction (PCI-SIG), as in the profiles of devices without links."""
BUS_SHARE = 28 / 64
"""Share of these lanes that an all-reduce among eight devices of a node reaches without links: 28 GB/s on eight RTX
5090, and 35 among four (issue 1639 of NVIDIA/nccl). The sockets and their memory limit it, says NCCL's author there.
"""
PCIE4_HOST, PCIE5_HOST = (41e9, 25e9), (61e9, 50e9)
"""Bytes/s of host memory and of the host link that one device of eight gets.

They are 80 % of two sockets with eight channels each (DDR4-3200, DDR5-4800), and of 16 lanes of PCIe 4 and 5. Faster
links (NVLink-C2C) and older ones (PCIe 3) are treated like these.
"""
LATER_SHARES: dict[str, float] = {"hopper": 0.565, "blackwell": 0.253, "cdna2": 0.34, "cdna3": 0.34, "cdna4": 0.34}
"""Share of their rate that FlashAttention 1 and 2, written for Ampere, keep on later architectures, whose new
instructions for products they do not use.

With heads of 128 version 2 reaches 319 TFLOP/s forward and 310 backward on an H100 of 700 W and 4,096 tokens (arXiv
2407.08608, figures 5 and 6) and 284 and 287 on 8,192 (pull request 1791 of Dao-AILab/flash-attention): 0.33 of its peak
as the rate is counted here. On a B200 it is as fast as on an H100, within 8 % (heads of 64: 312 and 288 TFLOP/s, issue
1589 and pull request 2688; heads of 128, forward: 354 and 368, pull request 171 of meta-pytorch/tritonbench). On a
MI300X the value is that of the first fit (SemiAnalysis, MI300X vs H100 vs H200, December 2024, from memory). An MI250X
runs the same kernels: forward ones reach 0.25 to 0.29 of its peak on short sequences, and backward ones are slower
(issue 44 of ROCm/flash-attention).
"""
PEAK_KEYS: dict[Precision, str] = {
    "bf16": "bf16",
    "fp16": "fp16",
    "tf32": "tf32",
    "fp32": "fp32",
    "fp8": "fp8",
    "mxfp8": "fp8",
    "nvfp4": "fp4",
}
"""The peak of a profile at which products in a precision run. None stands in for another one: software without units
for a type emulates it, which takes longer than any peak says."""
NARROW: frozenset[Precision] = frozenset(("fp8", "mxfp8", "nvfp4"))
"""Precisions below 16 bit. Matrix products of the layers run in them; attention and the head do not."""


def peak_of(accelerator: Accelerator, precision: Precision) -> tuple[str, Sourced]:
    """Return the dtype and the dense FLOP/s of the peak for a precision.

    Raises `PrecisionError`, which names the precisions of the device, when it has no such units.
    """
    if not _has_units(accelerator, precision):
        has = ", ".join(other for other in PEAK_KEYS if _has_units(accelerator, other)) or "none"
        raise PrecisionError(f"training: precision {precision} is not supported by {accelerator.name}; it has {has}")
    key = PEAK_KEYS[precision]
    return key, accelerator.peak_flops[key]


def _has_units(accelerator: Accelerator, precision: Precision) -> bool:
    """Return whether a device has units for the products of a precision."""
    # Units that scale blocks (OCP MX) came together with those for 4 bit, in Blackwell and CDNA 4.
    scales = precision != "mxfp8" or "fp4" in accelerator.peak_flops
    return scales and PEAK_KEYS[precision] in accelerator.peak_flops


def gemm_share_law(tdp_w: float, peak_16bit_flops: float, architecture: str = "") -> float:
    """Return the share of peak that large matrix products sustain. The power limit bounds the clock under load.

    From one architecture to the next, power per FLOP enters with the exponent of the study, up to `MOST_GEMM_SHARE`.
    Devices of one architecture are the same silicon at different limits: below the power of its reference device the
    clock follows power more closely.
    """
    relative = (tdp_w / peak_16bit_flops) / REFERENCE_W_PER_FLOPS
    below = _power_below_usual(tdp_w, peak_16bit_flops, architecture)
    most = LAW_GEMM_SHARE if _family(architecture) in FIRST_MATRIX_UNITS else MOST_GEMM_SHARE
    across = min(most, LAW_GEMM_SHARE * math.pow(relative / below, LAW_GEMM_EXPONENT))
    return across * math.pow(below, WITHIN_EXPONENT)


def vector_share(architecture: str) -> float | None:
    """Return the share of the fp32 peak that products sustain, or None for an architecture that nobody measured."""
    return VECTOR_SHARE.get(architecture, VECTOR_SHARE.get(_family(architecture)))


def _family(architecture: str) -> str:
    return re.split(r"[-+]", architecture)[0]


def _power_below_usual(tdp_w: float, peak_16bit_flops: float, architecture: str) -> float:
    """Return the power per FLOP/s over that of the reference device of the architecture, at most 1."""
    usual = USUAL_W_PER_FLOPS.get(architecture, USUAL_W_PER_FLOPS.get(_family(architecture)))
    return 1.0 if usual is None else min(1.0, tdp_w / peak_16bit_flops / usual)


def limited_by_power(architecture: str) -> bool:
    """Return whether power limits the matrix products of an architecture, and not the way of the operands."""
    return _family(architecture) not in FIRST_MATRIX_UNITS


def peak_16bit(accelerator: Accelerator) -> float:
    """Return the dense FLOP/s in bf16, or in fp16 or fp32 where the device lacks it.

    Raises `SpecError` where it has none of them.
    """
    for key in ("bf16", "fp16", "fp32"):
        if key in accelerator.peak_flops:
            return accelerator.peak_flops[key].value
    raise SpecError(f"{accelerator.name}: peak_flops has none of bf16, fp16, fp32")


def memory_share_law(bandwidth_bytes_per_s: float) -> float:
    """Return the share of memory bandwidth that elementwise kernels sustain."""
    return LAW_MEMORY_SHARE * math.pow(max(1.0, bandwidth_bytes_per_s / REFERENCE_BANDWIDTH), -LAW_MEMORY_EXPONENT)


def attention_rate(kernel: AttentionKernel, device: Accelerator, peak_flops: float) -> float:
    """Return the assumed causal-counted FLOP/s of an attention kernel on `LENGTH_REFERENCE` tokens.

    `peak_flops` is the peak of the device in the precision of its attention.

    A part of an architecture with less power than its reference device clocks its attention as its products.
    """
    below = _power_below_usual(device.tdp_w.value, peak_16bit(device), device.architecture)
    return attention_share(kernel, device.architecture) * peak_flops * math.pow(below, WITHIN_EXPONENT)


WIDE_ATTENTION_PRODUCTS = 3
"""Products in tf32 of which the memory-efficient attention of PyTorch makes one in fp32, whether or not other products
may run in tf32 (`OpMultiplyAddFastF32` in gemm_kernel_utils.h of its transformers/cuda/mem_eff_attention)."""


def attention_factor(precision: Precision, device: Accelerator) -> float:
    """Return the rate of an attention core over its rate in 16 bit.

    FlashAttention and cuDNN have no kernel for 32-bit values. PyTorch takes its memory-efficient kernel there, which
    multiplies on matrix units in three passes, and on vector units where a device has no tf32.
    """
    if precision not in ("fp32", "tf32") or device.kind != "gpu":
        return 1.0
    tf32 = device.peak_flops.get("tf32")
    wide = device.peak_flops.get("fp32") if tf32 is None else tf32
    if wide is None:
        return 1.0
    return wide.value / (1 if tf32 is None else WIDE_ATTENTION_PRODUCTS) / peak_16bit(device)


def attention_share(kernel: AttentionKernel, architecture: str) -> float:
    """Return the assumed share of the bf16 peak that an attention kernel reaches on an architecture."""
    kernel = _built_like(kernel, architecture)
    keeps = kernel not in AMPERE_KERNELS or _synchronous(architecture)
    later = 1.0 if keeps else LATER_SHARES.get(_family(architecture), 1.0)
    return ATTENTION_SHARE[kernel] * later * _faster_exponentials(kernel, architecture)


def _faster_exponentials(kernel: AttentionKernel, architecture: str) -> float:
    """Return the attention rate of heads of `HEAD_REFERENCE` over that of the first architecture of a family, on a
    later one of the same family whose exponentials take less time beside the products."""
    if architecture not in EXPONENTIAL_WIDTH:
        return 1.0
    width, first = (exponential_width(kernel, name) / HEAD_REFERENCE for name in (architecture, _family(architecture)))
    return math.hypot(1, first) / math.hypot(1, width)


def _built_like(kernel: AttentionKernel, architecture: str) -> AttentionKernel:
    return "flash2" if kernel == "cudnn" and _synchronous(architecture) else kernel


def _synchronous(architecture: str) -> bool:
    return not SYNCHRONOUS.isdisjoint((architecture, _family(architecture)))


def length_scale(kernel: AttentionKernel, device: Accelerator) -> int:
    """Return the tokens by which a kernel fills with the length of sequences, or 0 where its rate has no length."""
    if device.kind == "cpu":
        return 0
    return LENGTH_SCALE.get(_built_like(kernel, device.architecture), 0)


def exponential_width(kernel: AttentionKernel, architecture: str) -> float:
    """Return the width of a head whose products take as long as its exponentials, or 0 where these stay hidden.

    Products in fp8 are twice as fast. Kernels that were written for Ampere are too slow to wait for exponentials.
    """
    if kernel in AMPERE_KERNELS or kernel not in LENGTH_SCALE:
        return 0.0
    return (2 if kernel == "cudnn_fp8" else 1) * EXPONENTIAL_WIDTH.get(architecture, 0.0)


XE = "xe"
"""The start of the architectures of Intel's GPUs. PyTorch has no fused attention there whose inputs need gradients and
takes its plain path (intel/torch-xpu-ops issues 1749 of June 2025 and 2489 of December 2025)."""


def default_attention_kernel(accelerator: Accelerator) -> AttentionKernel:
    """Return the kernel class that current frameworks use on this architecture."""
    if accelerator.kind == "cpu" or accelerator.architecture in ("volta", "turing"):
        return "flash"
    if accelerator.architecture.startswith("blackwell"):
        return "cudnn"
    if accelerator.architecture.startswith(XE):
        return "eager"
    return "flash2"


def bus_rate(device: Accelerator) -> float:
    """Return the bytes/s that collectives reach over the lanes between each device and its host.

    The links of a device with a domain of 1 are these lanes. Of others they are taken to be 16 of their generation.
    """
    lanes = PCIE4_LANES if _family(device.architecture) in PCIE4_ARCHITECTURES else PCIE5_LANES
    return BUS_SHARE * (device.scaleup.bandwidth_bytes_per_s.value if device.scaleup.domain == 1 else lanes)


def host_rates(device: Accelerator) -> tuple[float, float]:
    """Return the bytes/s of host memory that one device of eight gets, and the bytes/s of its link to the host."""
    pcie4 = _family(device.architecture) in PCIE4_ARCHITECTURES
    return PCIE4_HOST if pcie4 else PCIE5_HOST


def wide_precision(precision: Precision) -> Precision:
    """Return the precision of attention and the output head when the layers run in `precision`."""
    return "bf16" if precision in NARROW else precision
