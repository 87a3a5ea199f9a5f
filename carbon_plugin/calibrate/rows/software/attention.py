"""Read which kernel of the attention core a published row ran, from its words or from the release of its software."""

from __future__ import annotations

import re
from typing import Any, get_args

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.software.releases import CURRENT, date_of, release_of
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.rates.datasheet import TPU_LANES
from carbon_plugin.predict.rates.laws import XE, default_attention_kernel
from carbon_plugin.spec.attention_kernels import BLACKWELL_RELEASE, SDPA, kernel_named
from carbon_plugin.spec.frameworks import (
    AUTOMODEL,
    BRIDGE_FINE_TUNING,
    LEVANTER,
    MEGATRON_BRIDGE,
    MEGATRON_CORE,
    NEMO,
    TRANSFORMER_ENGINE,
    Conventions,
)
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.parsing.names import normalized
from carbon_plugin.spec.stack import AttentionKernel

HOPPER_KERNELS_SINCE = (25, 1)
"""Containers from this release on have attention kernels of the third generation for Hopper (cuDNN 9, FlashAttention
3), and so has software that is `CURRENT`."""
CUDNN_FIRST = ("2025", "12")
"""From this month on PyTorch's nightly builds for CUDA 13 take cuDNN for attention on Hopper and Blackwell: they have
the order of backends of release 2.10 (`check_prefer_cudnn_attention` of its sdp_utils.cpp) and a cuDNN beyond 9.15."""
BEFORE_FLASH = re.compile(r"megatron-deepspeed.*\b202[0-2]\b|megatron-lm.*\b2023\b")
"""Megatron-DeepSpeed took FlashAttention in 2023, and Megatron-LM's default took it in 2024. Before, the softmax is
fused and the scores go through memory."""
BEFORE_ANY_FLASH = re.compile(r"(?i)^(?!.*mlperf).*\b20(1\d|2[01])\b")
"""Software of a year before FlashAttention (arXiv 2205.14135, May 2022), whose scores go through memory whatever runs
it. NVIDIA's submissions to MLPerf had a fused kernel for BERT then."""
WIDE_HEADS_SINCE = (25, 7)
"""Containers from this release on have cuDNN 9.11 (from memory), the first whose backward pass on Blackwell takes the
heads of latent attention (192 wide, with values of 128). Before, Transformer Engine has no fused kernel for them there,
where on Hopper it has one since cuDNN 9.5 (`nvte_get_fused_attn_backend` of its common/fused_attn/fused_attn.cpp)."""
WIDEST_USUAL_HEAD = 128
ENGINE_BASED = (MEGATRON_CORE, MEGATRON_BRIDGE, BRIDGE_FINE_TUNING, NEMO, TRANSFORMER_ENGINE, AUTOMODEL)
"""Frameworks whose attention is that of Transformer Engine."""
XLA_ATTENTION = re.compile(r"(?i)paxml(?!.*transformer engine)|axlearn.*\b202[0-4]\b")
"""Paxml has no fused kernel of its own: its attention is what XLA compiles, with the scores in memory
(praxis/layers/attentions.py, `DotProductAttention`). Transformer Engine brings cuDNN's. AXLearn's models had XLA's
attention too unless a configuration ends in "-flash" (`flash_attention` of its experiments/text/gpt/fuji.py of 2024);
those of 2025 recompute around a flash kernel."""
OWN_SOFTMAX = re.compile(r"(?i)\bfused kernels|\bown cuda kernels")
"""Words of software whose softmax is one kernel, as its norms are."""
PACKED = re.compile(r"(?i)\bpacked documents|\bsample[- ]packing")
"""Words for sequences of documents that do not see each other. transformers hands PyTorch's own attention a mask for
them (`find_packed_sequence_indices` and `sdpa_mask` of its masking_utils.py), which FlashAttention does not need."""
TRANSFORMERS = re.compile(r"(?i)\bhf trainer|hugging face|\btransformers\b|\baxolotl\b|\bllama-?factory\b")
UNNUMBERED = ("xformers", "flash-attention", "flash-attn", "splash", "splash-attention")
"""FlashAttention of no stated release, and xformers, whose `memory_efficient_attention` takes FlashAttention before its
own CUTLASS kernel, which devices before Ampere get (`_dispatch_fw_priority_list` of ops/fmha/dispatch.py at 038444a;
FlashAttention 3 on Hopper is not taken here, because no row says that its build had it). JAX's splash attention is the
one of TPUs."""


def attention_of(conventions: Conventions, row: Fields, device: Accelerator, model: TransformerModel) -> dict[str, Any]:
    """Return the kernel of the attention core where the row or its release has another than its framework's stack.

    Raises `SpecError` naming the field for one that nobody knows.
    """
    changes: dict[str, Any] = {}
    framework = row.text("framework")
    on_hopper = conventions.stack.attention_kernel == "cudnn" and device.architecture.startswith("hopper")
    engine = conventions in (TRANSFORMER_ENGINE, AUTOMODEL)
    current = CURRENT.search(f"{framework} {row.text('source')}") is not None
    nightly = conventions.name == "torchtitan" and device.architecture.startswith("hopper")
    if nightly and date_of(row) >= CUDNN_FIRST:
        changes["attention_kernel"] = "flash3"
    if on_hopper and (engine or release_of(framework) >= HOPPER_KERNELS_SINCE or current):
        changes["attention_kernel"] = "flash3"
    if prefers_cudnn(conventions, device, model):
        changes["attention_kernel"] = "cudnn"
    if XLA_ATTENTION.match(framework):
        changes["attention_kernel"] = "eager"
    elif framework.startswith("Paxml"):
        changes["attention_kernel"] = "cudnn"
    # Its attention on TPUs is jax's splash attention, which took in 2025 only heads of whole lanes (jax issue 30861).
    # For others it falls back to blocks of plain JAX over the full square, which XLA compiles
    # (`_try_tpu_splash_attention` and `flash_attention` of its layers/attention.py at 98f257a).
    not_splash = conventions == LEVANTER and device.kind == "tpu" and model.head_dim % TPU_LANES
    # Megatron's relatives have kernels of their own on Intel's GPUs, and a fused softmax before FlashAttention.
    without = device.architecture.startswith(XE) or BEFORE_ANY_FLASH.match(framework)
    if not_splash or (without and not conventions.reentrant):
        changes["attention_kernel"] = "eager"
    if BEFORE_FLASH.match(framework.lower()) or _has_no_kernel_for_heads(conventions, framework, device, model):
        changes["attention_kernel"] = "unfused"
    if row.states("attention_kernel") and not (conventions.name == "torchtitan" and _says_sdpa(row)):
        said = _attention_kernel(row, device)
        if _says_sdpa(row) and PACKED.search(row.text("notes")) and TRANSFORMERS.search(framework):
            said = "masked"
        # Megatron and its relatives have a fused softmax, and so has software with kernels of its own; elsewhere plain
        # attention is a chain of single operations.
        one_kernel = conventions.reentrant or OWN_SOFTMAX.search(f"{framework} {row.text('notes')}")
        changes["attention_kernel"] = "eager" if said == "unfused" and not one_kernel else said
    return changes


def prefers_cudnn(conventions: Conventions, device: Accelerator, model: TransformerModel) -> bool:
    """Return whether torchtitan takes cuDNN for attention: it puts it first among PyTorch's kernels from compute
    capability 10 on (models/attention.py), where cuDNN takes the heads, and those of latent attention are too wide (its
    pull request 1610).
    """
    blackwell = device.architecture.startswith("blackwell")
    return conventions.name == "torchtitan" and blackwell and model.mla is None


def _has_no_kernel_for_heads(
    conventions: Conventions, framework: str, device: Accelerator, model: TransformerModel
) -> bool:
    """Return whether Transformer Engine of the release that the framework names cannot fuse heads of this width."""
    wide = model.qk_head_dim > WIDEST_USUAL_HEAD and device.architecture.startswith("blackwell")
    return wide and conventions in ENGINE_BASED and (0, 0) < release_of(framework) < WIDE_HEADS_SINCE


def _stated_kernel(row: Fields) -> str:
    """Return the attention kernel that the row names, without a remark in brackets behind it."""
    return re.sub(r"\s*\(.*\)$", "", row.text("attention_kernel").strip())


def _says_sdpa(row: Fields) -> bool:
    """Return whether the row leaves the choice of a kernel to PyTorch, as torchtitan does in each of its releases."""
    return normalized(_stated_kernel(row)) in SDPA


def _attention_kernel(row: Fields, device: Accelerator) -> AttentionKernel | None:
    """Return the kernel class that the row states, None where PyTorch chooses one for the device.

    Raises `SpecError` naming the field for an unknown one.
    """
    if _says_sdpa(row):
        return None
    said = _stated_kernel(row)
    if normalized(said) in UNNUMBERED:
        return "flash" if device.kind == "tpu" or default_attention_kernel(device) == "flash" else "flash2"
    if (known := kernel_named(said)) is not None:
        return known
    names = (*get_args(AttentionKernel), BLACKWELL_RELEASE, SDPA[0], *UNNUMBERED)
    raise SpecError(f"attention_kernel is {said!r}, expected one of {', '.join(names)}")
