"""The software that runs the step: what its kernels and its host code cost. Not hardware, not layout."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

AttentionKernel = Literal["unfused", "flash", "flash2", "flash3", "cudnn"]


class Stack(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Software constants; a field left at None takes the documented default for the device.

    `framework_factor` multiplies the step time (1 = the frameworks that the constants were fitted on).
    `attention_kernel` is the class of the attention core. `fused` says that elementwise chains are fused
    (compiled or hand-written). `host_op_time_s` is the host's cost of issuing one operation.
    `dp_overlap` and `tp_overlap` are shares of that communication hidden under compute, 0 to 1.
    """

    framework_factor: float = 1.0
    attention_kernel: AttentionKernel | None = None
    fused: bool = False
    host_op_time_s: float | None = None
    dp_overlap: float | None = None
    grad_reduce_dtype: Literal["fp32", "bf16"] = "fp32"
