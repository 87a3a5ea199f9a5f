"""Compute the cost of a frozen base model beside its products.

Low-rank adapters next to its matrices move bytes, and weights that are kept in few bits are widened before each use.
"""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, any_of, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time.operators import ELEMENTWISE_BACKWARD, NO_COST, Cost

ADAPTER_OUTPUT, ADAPTER_OUTPUT_FUSED, ADAPTER_OUTPUT_ADDED = 6, 4, 2
"""Elements that an adapter moves per element of its matrix's output. It also moves one per element of the input.

The second product writes the outputs. They are scaled (one read, one written) and added (two read, one written), each
a single pass over a large tensor, or scaled while they are added, which is the second value (`LoRALinear` of torchtune
and of PEFT). A product that adds onto the output reads and writes it (`apply_lora_contribution` of Surogate). The
products themselves, of rank 8 to 64, take less time than this traffic.
"""
QUANTISATION_BITS = 0.127
"""Bits per 4-bit parameter for the constants of its block, which are quantised too (QLoRA, arXiv 2305.14314 section
3)."""
WIDE_BITS = 16
ADAPTED_MATRICES = 7
"""Matrices of a layer that can have adapters: four of the attention and three of a gated feed-forward block."""


def adapted_share(shape: Shape) -> Values:
    """Return the share of the matrices of a layer that have adapters."""
    adapted = 2 * shape.adapted_query_value + shape.adapted_key + shape.adapted_output + 3 * shape.adapted_ffn
    return adapted / ADAPTED_MATRICES


def adapter_traffic(shape: Shape, layout: Layout, work: StepWork, tokens: Values, width: Values, rates: Rates) -> Cost:
    """Return the seconds of the elementwise work of the adapters of one layer.

    `width` is that of its feed-forward part.
    """
    if not any_of(adapted_share(shape) > 0):
        return NO_COST
    query, value = shape.heads * shape.qk_dim, shape.heads * shape.v_dim
    key, values = shape.kv_heads * shape.qk_dim, shape.kv_heads * shape.v_dim
    outer, keys = shape.adapted_query_value, shape.adapted_key
    output, ffn = shape.adapted_output, shape.adapted_ffn
    read = (2 * outer + keys) * shape.hidden + output * value + ffn * ((1 + shape.gated) * shape.hidden + width)
    written = outer * (query + values) + keys * key + output * shape.hidden
    written = written + ffn * ((1 + shape.gated) * width + shape.hidden)
    passes = where(rates.fused > 0, ADAPTER_OUTPUT_FUSED, ADAPTER_OUTPUT)
    elements = read + where(work.adapters_in_products > 0, ADAPTER_OUTPUT_ADDED, passes) * written
    rate = where(rates.fused > 0, rates.memory, rates.streaming)
    moved = elements * tokens * work.activation_bytes / layout.tp / rate
    return Cost(moved, ELEMENTWISE_BACKWARD * moved)


def stored_share(shape: Shape) -> Values:
    """Return the bytes of a layer's weights as they are kept, divided by their bytes in 16 bit.

    Frozen weights may have fewer bits.
    """
    bits = where(shape.frozen_bits < 8, shape.frozen_bits + QUANTISATION_BITS, shape.frozen_bits)
    return shape.trainable + (1 - shape.trainable) * bits / WIDE_BITS


def widening(shape: Shape, parameters: Values, rates: Rates) -> Cost:
    """Return the seconds to widen a layer's frozen weights to 16 bit before its products, forward and backward.

    Products in 8 bit take weights of 8 bits as they are (`fp8_params` of NeMo).
    """
    narrow = (shape.frozen_bits < WIDE_BITS) & ((shape.frozen_bits < 8) | (rates.cast_bytes == 0))
    moved = (1 - shape.trainable) * parameters * (shape.frozen_bits + WIDE_BITS) / 8 / rates.memory
    once = where(narrow, moved, 0.0)
    return Cost(once, once)
