"""What a frozen base model costs beside its products: low-rank adapters next to its matrices, and weights that are kept
in few bits and widened before each use."""

from __future__ import annotations

import numpy as np

from carbon_plugin.predict.arrays import Values, any_of, where
from carbon_plugin.predict.case import Layout, Shape, Work
from carbon_plugin.predict.operators import ELEMENTWISE_BACKWARD, Cost
from carbon_plugin.predict.rates import Rates

ADAPTER_FRACTION = 0.1
"""A smaller trained share than this is taken for low-rank adapters on all matrices of a layer."""
ADAPTER_OUTPUT, ADAPTER_OUTPUT_FUSED = 6, 4
"""Elements of a matrix's output that its adapter moves, beside one of its input: the second product writes them, and
they are scaled (read, written) and added (two read, one written), or scaled while added (`LoRALinear` of torchtune
and of PEFT). The products themselves, of rank 8 to 64, take less than that traffic."""
QUANTISATION_BITS = 0.127
"""Bits a 4-bit parameter of constants of its blocks, themselves quantised (QLoRA, arXiv 2305.14314 section 3)."""
WIDE_BITS = 16


def with_adapters(shape: Shape) -> Values:
    """1 where a layer has adapters."""
    return where((shape.trainable < ADAPTER_FRACTION) & (shape.trainable > 0), 1.0, 0.0)


def adapter_traffic(shape: Shape, layout: Layout, work: Work, tokens: Values, width: Values, rates: Rates) -> Cost:
    """Seconds of the elementwise work of the adapters of one layer, whose feed-forward part has `width`."""
    if not any_of(with_adapters(shape) > 0):
        return Cost(np.float64(0), np.float64(0))
    query, value = shape.heads * shape.qk_dim, shape.heads * shape.v_dim
    both = shape.kv_heads * (shape.qk_dim + shape.v_dim)
    read = 3 * shape.hidden + value + (1 + shape.gated) * shape.hidden + width
    written = query + both + shape.hidden + (1 + shape.gated) * width + shape.hidden
    elements = read + where(rates.fused > 0, ADAPTER_OUTPUT_FUSED, ADAPTER_OUTPUT) * written
    moved = with_adapters(shape) * elements * tokens * work.activation_bytes / layout.tp / rates.memory
    return Cost(np.asarray(moved), np.asarray(ELEMENTWISE_BACKWARD * moved))


def stored_share(shape: Shape) -> Values:
    """Bytes of a layer's weights as they are kept, over those in 16 bit: the frozen ones may have fewer bits."""
    bits = where(shape.frozen_bits < 8, shape.frozen_bits + QUANTISATION_BITS, shape.frozen_bits)
    return shape.trainable + (1 - shape.trainable) * bits / WIDE_BITS


def widening(shape: Shape, parameters: Values, rates: Rates) -> Cost:
    """Seconds of widening a layer's frozen weights to 16 bit before its products, once in either direction."""
    narrow = shape.frozen_bits < WIDE_BITS
    moved = (1 - shape.trainable) * parameters * (shape.frozen_bits + WIDE_BITS) / 8 / rates.memory
    once = where(narrow, moved, 0.0)
    return Cost(once, once)
