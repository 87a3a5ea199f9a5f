"""Count the FLOPs of matrix operations: PyTorch's own counter with what it counts too high or not at all.

A product of complex numbers has four multiplications and four additions where one of real numbers has one of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_OF_TORCH = ("aten", "prim", "prims", "profiler", "c10d", "_c10d_functional")
"""Namespaces of operations of PyTorch itself, which have no FLOPs where no formula is known."""
_COMPLEX = 4

Formula = Callable[..., int]


def flop_counter() -> FlopCounterMode:
    """Return a context manager that counts the FLOPs of the matrix operations inside of it."""
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False, custom_mapping=dict(_formulas()))


def is_foreign(operation: Any) -> bool:
    """Return whether an operation is of another library, so that no FLOPs say that nobody knows them."""
    return operation.namespace not in _OF_TORCH


def run_on_meta(operation: Any, operands: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Return the result of an operation on tensors of the meta device.

    Grouped products are there for bf16 alone. Those of other types are run in it, and their result has their own.
    """
    import torch

    grouped = getattr(torch.ops.aten, "_grouped_mm", None)
    if grouped is None or operation.overloadpacket is not grouped or operands[0].dtype == torch.bfloat16:
        return operation(*operands, **options)
    left, right = (operand.to(torch.bfloat16) for operand in operands[:2])
    return operation(left, right, *operands[2:], **options).to(operands[0].dtype)


def _formulas() -> Iterator[tuple[Any, Formula]]:
    """Give each operation whose FLOPs are not those of PyTorch's counter with its formula."""
    import torch
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten
    for product in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm):
        yield product, _of_tensors(flop_registry[product])
    yield aten.convolution_backward, _of_tensors(_convolution_backward)
    for names, formula in _NOT_OF_TORCH.items():
        # Grouped products are in none of the older releases.
        yield from ((getattr(aten, name), _of_tensors(formula)) for name in names if hasattr(aten, name))


def _of_tensors(formula: Formula) -> Formula:
    """Return a formula that the counter calls with tensors and not with their shapes, and that knows complex ones."""

    def flops(*operands: Any, out_val: Any = None, **options: Any) -> int:
        first = next(value for value in operands if hasattr(value, "is_complex"))
        return (_COMPLEX if first.is_complex() else 1) * formula(*operands, out_val=out_val, **options)

    flops._get_raw = True  # type: ignore[attr-defined]  # the counter's own mark
    return flops


def _convolution_backward(out_gradient: Any, batch: Any, weight: Any, *others: Any, **options: Any) -> int:
    """Return the FLOPs of the gradients of a convolution, of which each has as many as the forward pass.

    PyTorch's counter takes the gradient of the weights of grouped channels as that of one group.
    """
    del options
    transposed, wanted = others[4], others[7]
    positions: int = prod((batch if transposed else out_gradient).shape[2:])
    gradients = bool(wanted[0]) + bool(wanted[1])
    return gradients * 2 * int(batch.shape[0]) * positions * int(weight.numel())


def _matrix_vector(matrix: Any, vector: Any, **options: Any) -> int:
    del vector, options
    return 2 * int(matrix.numel())


def _added_matrix_vector(added: Any, matrix: Any, vector: Any, **options: Any) -> int:
    del added
    return _matrix_vector(matrix, vector, **options)


def _added_products(added: Any, left: Any, right: Any, **options: Any) -> int:
    del added, options
    return 2 * int(left.numel()) * int(right.shape[-1])


def _grouped(left: Any, right: Any, *others: Any, **options: Any) -> int:
    """Return the FLOPs of products whose groups divide the rows, the columns or the inner size, as those of experts."""
    del others, options
    groups = int(left.shape[0]) if left.dim() == right.dim() == 3 else 1
    return 2 * groups * int(left.shape[-2]) * int(left.shape[-1]) * int(right.shape[-1])


def _of_three(first: Any, second: Any, third: Any, *expanded: Any, **options: Any) -> int:
    """Return the FLOPs of a bilinear layer: a product over all sizes that its three operands have together."""
    del options
    sizes: list[int] = []
    operands = [list(operand.shape) for operand in (first, second, third)]
    for shape, places in zip(operands, expanded[:3], strict=True):
        for place in places:
            shape.insert(place, 1)
    for together in zip(*operands, strict=True):
        sizes.append(max(together))
    return 2 * prod(sizes)


def _distances(left: Any, right: Any, *others: Any, **options: Any) -> int:
    del others, options
    return 2 * int(left.numel()) * int(right.shape[-2])


_NOT_OF_TORCH: dict[tuple[str, ...], Formula] = {
    ("mv", "dot", "vdot"): _matrix_vector,
    ("addmv",): _added_matrix_vector,
    ("addbmm",): _added_products,
    ("_grouped_mm", "_scaled_grouped_mm"): _grouped,
    ("_trilinear",): _of_three,
    ("_cdist_forward", "_euclidean_dist"): _distances,
}
"""Operations that PyTorch's counter passes over, by their names in `torch.ops.aten`."""
