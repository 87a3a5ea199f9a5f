"""Describe what was counted in a forward and a backward pass of any module, as the time of its operations needs it."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.spec.parsing.limits import check_not_negative


class CountedPass(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds what one pass does for a sample.

    `moved_bytes` are what operations other than products read and write, without weights, which are the same for any
    batch. `products` are the FLOPs and bytes of matrix products and convolutions, summed up over those that have about
    as many FLOPs for a byte, and `odd_products` those in which rows of a matrix do not begin at multiples of 16 bytes.
    `attention_flops` are those of fused attention, half of the square under a causal mask,
    and `attention_keys` how many positions its queries look at, in the mean over these FLOPs. `kernels` is the number
    of operations that launch a kernel, for any number of samples.
    """

    moved_bytes: float
    kernels: int
    products: tuple[tuple[float, float], ...] = ()
    odd_products: tuple[tuple[float, float], ...] = ()
    attention_flops: float = 0.0
    attention_keys: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative(self, "moved_bytes", "kernels", "attention_flops", "attention_keys", owner="pass: ")


class CountedPasses(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds the passes of a training step."""

    forward: CountedPass
    backward: CountedPass
