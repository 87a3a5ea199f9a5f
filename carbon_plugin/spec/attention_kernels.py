"""Tell the classes of attention kernels from the names that frameworks and people give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast, get_args

from carbon_plugin.spec.parsing.names import normalized
from carbon_plugin.spec.stack import AttentionKernel

FLASH_ATTENTION = re.compile(r"(?i)(?:flash[-_ ]?(?:attention|attn)|fa)[-_ ]?v?([234])")
"""FlashAttention by its release, as transformers' `attn_implementation` and people write it."""
BLACKWELL_RELEASE = "flash4"
"""FlashAttention 4, which is written for Blackwell and counts as cuDNN's kernel there. On a B300 its forward pass has
0.74 to 0.8 of that one's rate on sequences of 1,024, the same on 4,096 without a mask and 1.06 on 16,384 (pull request
2605 of Dao-AILab/flash-attention, heads of 64), and its backward pass 1.1 on 8,192 (pull request 1945)."""
SDPA = ("sdpa", "scaled-dot-product-attention")
"""PyTorch's own attention, which takes the kernel that suits the device (`scaled_dot_product_attention`)."""
SAME_KERNELS: Mapping[str, AttentionKernel] = MappingProxyType(
    {
        "fused": "cudnn",
        "cudnn-flash-te": "cudnn",
        "dot-product": "eager",
        "math": "eager",
        "mem-efficient": "flash",
        "memory-efficient": "flash",
        "efficient-attention": "flash",
    }
)
"""What Megatron (`--attention-backend`), MaxText (`attention`) and PyTorch (`SDPBackend`) call kernels of other names
here. Megatron's "fused" is cuDNN's through Transformer Engine (`AttnBackend` of its core/transformer/enums.py).
PyTorch's memory-efficient kernel is as fast on an A100 as FlashAttention 1 (`ATTENTION_SHARE`)."""


def kernel_named(name: str) -> AttentionKernel | None:
    """Return the class of kernels that a name stands for, or None where nobody knows it."""
    said = SAME_KERNELS.get(normalized(name), name)
    numbered = FLASH_ATTENTION.fullmatch(said)
    kernel = f"flash{numbered[1]}" if numbered else said
    kernel = "cudnn" if kernel == BLACKWELL_RELEASE else kernel
    return cast("AttentionKernel", kernel) if kernel in get_args(AttentionKernel) else None


def with_known_kernel(stack: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a stack as somebody wrote them, with our name for its attention kernel.

    PyTorch's own attention takes the kernel that suits the device, as a stack does that states none.
    """
    said = stack.get("attention_kernel")
    if not isinstance(said, str):
        return dict(stack)
    known = None if normalized(said) in SDPA else kernel_named(said) or said
    return {**stack, "attention_kernel": known}
