"""Derive the feed-forward layer and the attention widths of a block from the shapes of its weight matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from carbon_plugin.detect.shape.parameters import is_adapter

if TYPE_CHECKING:
    from torch import nn


class FeedForwardMatrices(Struct, frozen=True):
    """One instance is a feed-forward layer of inner width `width`, with the matrices that belong to it."""

    width: int
    gated: bool
    matrices: Counter[tuple[int, int]]


def feed_forward(matrices: Counter[tuple[int, int]], hidden: int) -> FeedForwardMatrices | None:
    """Return the widest up and down pair. It is gated if it has two up matrices, or one of twice the width."""
    for width in sorted({columns for rows, columns in matrices if rows == hidden and columns != hidden}, reverse=True):
        up, both, down = (width, hidden), (2 * width, hidden), (hidden, width)
        if matrices[up] >= 2:
            return FeedForwardMatrices(width, True, Counter({up: 2, down: 1}))
        if matrices[both]:
            return FeedForwardMatrices(width, True, Counter({both: 1, down: 1}))
        if matrices[up]:
            return FeedForwardMatrices(width, False, Counter({up: 1, down: 1}))
    return None


def attention_widths(matrices: Counter[tuple[int, int]], hidden: int) -> tuple[int, int] | None:
    """Return (query, key) widths from the matrices that the feed-forward layer leaves, fused or separate."""
    shapes = sorted(matrices.elements(), key=lambda shape: -shape[0])
    if len(shapes) == 2:
        (fused, width), (rows, queries) = shapes
        keys = (fused - queries) // 2
        return (queries, keys) if width == rows == hidden and keys > 0 else None
    if len(shapes) == 4:
        output = next((shape for shape in reversed(shapes) if shape[0] == hidden), None)
        if output is None:
            return None
        shapes.remove(output)
        queries, keys = output[1], shapes[-1][0]
        return (queries, keys) if all(shape[1] == hidden for shape in shapes) and shapes[0][0] == queries else None
    return None


def matrices_of(block: nn.Module) -> Iterator[tuple[int, int]]:
    """Return (out, in) of every weight matrix. A DTensor counts with its whole shape."""
    for name, parameter in block.named_parameters():
        if parameter.ndim == 2 and min(parameter.shape) > 1 and not is_adapter(name):
            yield int(parameter.shape[0]), int(parameter.shape[1])
