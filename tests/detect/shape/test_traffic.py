"""What the operations of a pass move and compute, counted without data against what is written down by hand."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional

from carbon_plugin.detect.shape.counting import count_forward
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.models.passes import CountedPasses


def passes_of(module: nn.Module, *sizes: int, narrow: bool = False) -> CountedPasses:
    batch = torch.empty(sizes, device="meta")
    found = count_forward(module, lambda copy: copy(batch), time.thread_time() + 120).per_sample(sizes[0])
    passes = found["autocast_passes" if narrow else "passes"]
    assert passes is not None
    return passes


class Attention(nn.Module):
    """A fused attention to itself, of 4 heads of 8."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x * self.scale, x, x, is_causal=self.causal)


@pytest.mark.parametrize(("narrow", "element"), [(False, 4), (True, 2)])
def test_a_product_is_told_from_what_passes_over_memory(narrow, element) -> None:
    passes = passes_of(nn.Sequential(nn.Linear(16, 32, bias=False), nn.ReLU()), 8, 16, narrow=narrow)
    cast = 16 * (4 + 2) if narrow else 0  # of the input, which needs no gradient
    assert passes.forward.moved_bytes == 2 * 32 * element + cast
    assert passes.backward.moved_bytes == 3 * 32 * element
    assert passes.forward.products == passes.backward.products == ((2 * 16 * 32, (16 + 32) * element),)


def test_a_sample_moves_as_much_whatever_the_batch() -> None:
    module = nn.Sequential(nn.Linear(16, 24), nn.LayerNorm(24), nn.GELU(), nn.Linear(24, 40))
    few, many = passes_of(module, 3, 16), passes_of(module, 60, 16)
    for one, other in ((few.forward, many.forward), (few.backward, many.backward)):
        assert one.kernels == other.kernels
        assert one.moved_bytes == other.moved_bytes
        assert sum(flops for flops, _ in one.products) == sum(flops for flops, _ in other.products)


@pytest.mark.parametrize(("columns", "odd"), [(40, False), (42, True)])
def test_rows_that_begin_between_sixteen_bytes_are_told_apart(columns, odd) -> None:
    passes = passes_of(nn.Linear(16, columns, bias=False), 8, 16, narrow=True)
    for one in (passes.forward, passes.backward):
        assert bool(one.odd_products) == odd
        assert bool(one.products) != odd


@pytest.mark.parametrize(("causal", "share", "seen"), [(True, 0.5, 24), (False, 1.0, 48)])
def test_fused_attention_moves_no_scores_and_skips_what_a_mask_leaves_out(causal, share, seen) -> None:
    forward = passes_of(Attention(causal=causal), 2, 4, 24, 8).forward
    assert forward.attention_flops == share * 2 * 2 * 4 * 24 * 24 * 8
    assert forward.attention_keys == seen
    assert forward.products == ()
    assert forward.moved_bytes == pytest.approx(2 * 4 * 24 * 8 * 4, rel=0.01)


def test_a_dropout_is_one_kernel_with_a_mask_of_bytes() -> None:
    module = nn.Sequential(nn.Linear(16, 32, bias=False), nn.Dropout(0.1))
    passes = passes_of(module, 8, 16)
    assert (passes.forward.kernels, passes.backward.kernels) == (2, 2)
    assert passes.forward.moved_bytes == passes.backward.moved_bytes == 32 * (4 + 4 + 1)


def test_what_was_counted_is_the_same_when_it_is_written_down_and_read_again() -> None:
    from carbon_plugin.spec.parsing.decoding import decode
    from carbon_plugin.spec.parsing.document import Document

    counts = count_forward(
        nn.Linear(8, 8), lambda copy: copy(torch.empty(4, 8, device="meta")), time.thread_time() + 60
    )
    model = CountedModel(
        name="n", parameters=72, trainable_parameters=72, kernels=counts.kernels, source="s", **counts.per_sample(4)
    )
    written: dict[str, Any] = msgspec.to_builtins(model)
    assert written.pop("type") == "counted"
    assert decode(Document(written, "model", {}), CountedModel) == model
