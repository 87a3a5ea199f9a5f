"""Price layers that carry a state along the sequence, in chunks of tokens (Mamba-2, gated delta rules, linear
attention).

Inside a chunk they are small products as in attention. From chunk to chunk each head hands on a state of key x value
elements. `Shape` says which of the forms below a layer has. The large projections of such a layer are products like any
other.
"""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, maximum, minimum, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time.operators import Cost

SCAN_SHARE = 0.34
"""Share of the rate of large 16-bit products that products of chunks reach between masks and decays. No device was
measured. It is the share that the first fused attention kernels reached on an A100 (arXiv 2307.08691), which are built
in the same way."""
SCAN_BACKWARD = 3.0
"""Ratio of backward to forward time: two gradients of each product, and states that are computed again instead of kept
(`mamba_chunk_scan_combined` of mamba_ssm, `chunk_gated_delta_rule` of flash-linear-attention)."""
SCAN_KERNELS = (8, 20)
"""Number of kernels, forward and backward: convolution, cumulative decay, states, passing, chunk products, gate and
norm."""
VECTOR_SHARE = 1 / 16
"""Ratio of the rate of elementwise units to that of 16-bit products (A100: 19.5 of 312 TFLOP/s; H100: 67 of 989).
Recurrences that are not products (Mamba, RG-LRU) run on these units."""
STEP_FLOPS = 9
"""Operations per element of the state and token in Mamba's selective scan (arXiv 2312.00752 section 3.3)."""
STATE_BYTES = 4
"""Bytes of an element of the states of chunks, which are kept in fp32."""


def scan_flops_per_token(shape: Shape, seq_len: Values, tp: Values) -> Values:
    """Return the FLOPs of the scan of one layer for one token on one rank, forward.

    With chunks of c tokens, H heads of key k and value v, and G groups that share keys, chunked state spaces take 2c(Gk
    + Hv) + 4Hkv (Dao and Gu 2024, arXiv 2405.21060 section 6; Megatron-LM counts the same). Gated delta rules take
    H(2c(3k + 2v) + 6kv + c^2), with the products of the WY form and its triangular inverse (Yang et al. 2024, arXiv
    2406.06484 section 3 and 2412.06464 section 3.3). Recurrences step by step take 9Hkv.
    """
    heads, groups, chunk = _local(shape, seq_len, tp)
    state = heads * shape.scan_key * shape.scan_value
    chunked = 2 * chunk * (groups * shape.scan_key + heads * shape.scan_value) + 4 * state
    delta = heads * (2 * chunk * (3 * shape.scan_key + 2 * shape.scan_value) + chunk * chunk) + 6 * state
    return where(shape.scan_steps > 0, STEP_FLOPS * state, where(shape.scan_delta > 0, delta, chunked))


def scan_bytes_per_token(shape: Shape, work: StepWork, tp: Values) -> Values:
    """Return the bytes that the scan, its short convolution, gate and norm move for one token on one rank, forward.

    Values and keys are read twice and results are written once. Products inside a chunk (c elements per group) and the
    states of chunks (kv elements per head and chunk, four times) pass through memory. Convolution and gate touch all
    channels.
    """
    heads, groups, chunk = _local(shape, work.seq_len, tp)
    values, keys = heads * shape.scan_value, groups * shape.scan_key
    states = 4 * STATE_BYTES * heads * shape.scan_key * shape.scan_value / maximum(chunk, 1)
    inside = 2 * STATE_BYTES * where(shape.scan_delta > 0, heads, groups) * chunk
    written = where(shape.scan_delta > 0, 2 * heads * (shape.scan_key + shape.scan_value), 0.0)
    around = 2 * (values + 2 * keys) + 4 * values
    streamed = where(shape.scan_steps > 0, 3 * values + 2 * keys, 3 * values + 4 * keys + written)
    chunked = where(shape.scan_steps > 0, 0.0, states + inside)
    return work.activation_bytes * (streamed + around) + chunked


def scan(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Cost:
    """Return the seconds of the scan of one layer for one micro-batch, without its projections.

    They are the seconds of the products at their own rate, and then of the traffic, which these kernels do not hide.
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    share = where(shape.scan_steps > 0, VECTOR_SHARE, SCAN_SHARE)
    busy = tokens * scan_flops_per_token(shape, work.seq_len, layout.tp) / (share * rates.wide_gemm_flops)
    moved = tokens * scan_bytes_per_token(shape, work, layout.tp) / rates.memory
    present = shape.scan_heads > 0
    forward, backward = (kernels * rates.kernel_time for kernels in SCAN_KERNELS)
    return Cost(
        where(present, busy + moved + forward, 0.0),
        where(present, SCAN_BACKWARD * (busy + moved) + backward, 0.0),
    )


def scan_kept_elements(shape: Shape, layout: Layout) -> Values:
    """Return the 16-bit elements per token that the scan of one layer keeps for the backward pass.

    They are channels before and after the convolution, gate, result and gated result. Delta rules also keep the
    triangle of each chunk. States are not kept.
    """
    heads, groups, chunk = _local(shape, shape.scan_chunk, layout.tp)
    values, keys = heads * shape.scan_value, groups * shape.scan_key
    return where(shape.scan_delta > 0, 5 * values + 4 * keys + heads * chunk, 4 * values + 2 * keys)


def _local(shape: Shape, seq_len: Values, tp: Values) -> tuple[Values, Values, Values]:
    """Return the heads and the groups of one rank, and the tokens of a chunk."""
    present = shape.scan_heads > 0
    groups = where(present, maximum(shape.scan_groups / tp, 1), 0.0)
    return shape.scan_heads / tp, groups, minimum(shape.scan_chunk, seq_len)
