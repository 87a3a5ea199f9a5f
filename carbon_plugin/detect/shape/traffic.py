"""Count what the operations of a pass move and compute, one by one, as kernels on a GPU do.

Operations on weights alone, such as casts, are left out: a step has them once for any batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import log2
from typing import TYPE_CHECKING, Any

from carbon_plugin.detect.shape.flops import flop_counter
from carbon_plugin.spec.models.passes import CountedPass

if TYPE_CHECKING:
    import torch

EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach")
"""Operations that write nothing."""
ATTENTION = "_scaled_dot_product_efficient_attention"
"""The fused attention that stands for all of them (`autocast.fused_attention`)."""
CAUSAL_PLACE = 6
"""The place of `is_causal` among the arguments of the forward pass."""


ROW_BYTES = 16
"""Bytes at whose multiples rows begin that matrix units read at their rate (`datasheet.ALIGNED_BYTES` of `predict`)."""


def _is_odd(values: Any) -> bool:
    """Return whether rows of a matrix among some values do not begin at multiples of `ROW_BYTES`."""
    import torch
    from torch.utils._pytree import tree_leaves

    found = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor) and value.dim() in (2, 3)]
    return any(
        stride * value.element_size() % ROW_BYTES
        for value in found
        for size, stride in zip(value.shape, value.stride(), strict=True)
        if stride != 1 and size != 1
    )


def _sizes(value: torch.Tensor) -> tuple[int, ...]:
    """Return the sizes of a tensor in any order, without those of 1, which a weight and its gradient share."""
    return tuple(sorted(size for size in value.shape if size != 1))


class Traffic:
    """One instance sums up the operations of one pass of a module with these `weights`."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        held = list(weights)
        self._formulas = flop_counter().flop_registry
        self._own = {weight.untyped_storage()._cdata for weight in held}
        self._shapes = {_sizes(weight) for weight in held}
        self._moved = 0.0
        self._kernels = 0
        self._products: dict[tuple[bool, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._attention = [0.0, 0.0]

    def see(self, operation: Any, operands: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        """Add an operation that writes something."""
        name = operation.overloadpacket.__name__
        if name in EMPTY:
            return
        self._kernels += 1
        read, written = self._bytes((operands, dict(options))), self._bytes(result)
        formula = self._formulas.get(operation.overloadpacket)
        flops = 0.0 if formula is None else float(formula(*operands, **options, out_val=result))
        if name.startswith(ATTENTION):
            self._see_attention(name, operands, options, flops)
        elif formula is not None:
            moved = read + written
            kind = _is_odd((operands, result)), round(2 * log2(flops / moved)) if flops and moved else 0
            a_byte = self._products[kind]
            a_byte[0] += flops
            a_byte[1] += moved
        elif written:  # else a step has it once for its weights
            self._moved += read + written

    def _see_attention(self, name: str, operands: tuple[Any, ...], options: Mapping[str, Any], flops: float) -> None:
        if name != ATTENTION:  # the time of the backward pass follows from that of the forward pass
            return
        causal = options.get("is_causal", operands[CAUSAL_PLACE] if len(operands) > CAUSAL_PLACE else False)
        keys = float(operands[1].shape[-2])
        flops = flops / 2 if causal else flops
        self._attention[0] += flops
        self._attention[1] += flops * (keys if causal else 2 * keys)

    def _bytes(self, values: Any) -> float:
        """Return the bytes of the tensors among some values, without weights and what has the shape of one."""
        import torch
        from torch.utils._pytree import tree_leaves

        found = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
        return float(sum(value.numel() * value.element_size() for value in found if not self._is_weight(value)))

    def _is_weight(self, value: torch.Tensor) -> bool:
        return _sizes(value) in self._shapes or value.untyped_storage()._cdata in self._own

    def _sums(self, samples: int, *, odd: bool) -> tuple[tuple[float, float], ...]:
        found = sorted(self._products.items())
        return tuple((flops / samples, moved / samples) for (is_odd, _), (flops, moved) in found if is_odd == odd)

    def per_sample(self, samples: int) -> CountedPass:
        """Return the sums for one of so many samples."""
        flops, weighted = self._attention
        return CountedPass(
            moved_bytes=self._moved / samples,
            kernels=self._kernels,
            products=self._sums(samples, odd=False),
            odd_products=self._sums(samples, odd=True),
            attention_flops=flops / samples,
            attention_keys=weighted / flops if flops else 0.0,
        )
