"""Compute the device time of a layer's operations: matrix products, attention core and elementwise chains.

The model is an additive roofline (Williams et al. 2009) at constant sustained rates. The validation study found that
the efficiency of matrix products is the same from width 768 to 25,600 when HBM bytes, host floor and head are counted,
and that tile or wave quantisation explains nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carbon_plugin.predict.arrays import Flags, Values, any_of, ceil, maximum, minimum, sqrt, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.laws import HEAD_REFERENCE, LENGTH_REFERENCE
from carbon_plugin.predict.rates.rates import Rates

FLASH_BACKWARD = 2.9
"""Ratio of backward to forward time of a fused attention core, with 5 products against 2, and recomputed scores."""
ALIGNED_HEAD, UNALIGNED_SHARE = 8, 0.045
"""Share of the rate of products whose inner width is no multiple of `ALIGNED_HEAD`.

In 16 bit they run without tensor cores, at about 11 TFLOP/s on an A100. The rule is from NVIDIA's guide to matrix
multiplication, the rate from one published group.
"""
SOFTMAX_GROUP, SOFTMAX_KEYS = 4, 4096
"""The fused softmax of unfused attention takes rows of at most `SOFTMAX_KEYS` keys, and micro-batch size times local
heads must be a multiple of `SOFTMAX_GROUP` (`FusedScaleMaskSoftmax.is_kernel_available` of Megatron-core). Otherwise
casts, scale, mask and softmax run one by one in fp32."""
SOFTMAX_BYTES = ((4, 37), (6, 40))
"""Bytes per score, for the forward and the backward pass: first fused, then one by one."""
ELEMENTWISE_BACKWARD = 1.6
ELEMENTWISE_FUSED = 0.75
ELEMENTWISE_KERNELS_FORWARD = 9
ELEMENTWISE_KERNELS_BACKWARD = 16
Table = tuple[tuple[float, float], tuple[float, float]]
"""A number for the forward and the backward pass of a layer of plain PyTorch: first of one with `nn.LayerNorm` and GELU
(GPT-2), then of one whose norms, rotary positions and gate are written out (Llama)."""
NOTHING: Table = ((0.0, 0.0), (0.0, 0.0))
PLAIN_KERNELS: Table = ((5.0, 10.0), (30.0, 56.0))
"""Kernels of such a layer without its products and its attention core."""
PLAIN_HIDDEN: Table = ((20.0, 46.0), (85.0, 214.0))
PLAIN_FFN: Table = ((4.0, 8.0), (10.0, 18.0))
PLAIN_ROTARY: Table = ((0.0, 0.0), (20.6, 32.6))
PLAIN_DROPOUT = 10.0
"""Bytes that such a layer moves per token in 16 bit: per unit of hidden width (residuals, norms and gradients of
biases), of feed-forward width, of the width of queries and keys, and per unit of hidden width for two dropouts each
way.

They are counted by the operations of a GPT-2 and a Llama layer of transformers (`LlamaRMSNorm` works in fp32, and
`apply_rotary_pos_emb` builds the rotated halves): `tests/predict/time/test_written_out.py` counts them again. A fused
norm takes 4 and 6. A dropout reads and writes its values and a mask of bytes.
"""
FROZEN_KERNELS, FROZEN_HIDDEN, FROZEN_FFN = (4.0, 4.0), (10.0, 16.0), (2.0, 0.0)
"""Kernels and bytes that the backward pass of such a layer does without where its weights are frozen: the gradients of
biases and norms. The first is GPT-2's, the second Llama's. The same test counts them."""
AUTOCAST_KERNELS: Table = ((10.0, 12.0), (10.0, 16.0))
AUTOCAST_HIDDEN: Table = ((28.0, 48.0), (23.0, 73.0))
AUTOCAST_ROTARY: Table = ((0.0, 0.0), (16.0, 26.0))
AUTOCAST_WEIGHT = 6.0
"""What autocast adds to these: residual stream, norms and rotary positions are in 32 bit, and casts to 16 bit stand
before products. It reads 32 and writes 16 bit of every weight in a forward pass, and widens every gradient. The same
test counts them."""
AUTOCAST_FUSED = 14.0, 20.0
"""The bytes per token and unit of hidden width that autocast adds where a compiler fuses the chains, forward and
backward: the residual stream and its gradient are in 32 bit, and what products take and give is in 16. Inductor adds as
many to a layer of GPT-2, and as many for the weights as single operations do (`tests/predict/time/test_compiled.py`
counts them).
"""
GELU_KERNELS, GELU_FFN = (7.0, 10.0), (32.0, 50.0)
"""What a GELU by the operations of its formula adds to a plain layer, forward and backward: kernels, and bytes per
token in 16 bit and unit of feed-forward width (`NewGELUActivation` of transformers). The same test counts them."""
UNALIGNED_COLUMNS = 2.1
"""Time of the head's products where its columns fill no whole multiple of `aligned_bytes`, over that where they do.

On an A100 a GPT-2 of 124M parameters went from 112,046 to 127,345 tokens/s when its 50,257 columns became 50,304
(rasbt/LLMs-from-scratch, ch05/10_llm-training-speed at 0636158): 1.07 us a token more than the 0.97 us that the head's
products take at the sustained rate.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Forward and backward seconds of an operation for one micro-batch."""

    forward: Values
    backward: Values

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, factor: Values) -> Cost:
        return Cost(self.forward * factor, self.backward * factor)

    @property
    def both(self) -> Values:
        """Return the seconds of both passes."""
        return self.forward + self.backward


NO_COST = Cost(0.0, 0.0)


def product_time(m: Values, n: Values, k: Values, flops: Values, element_bytes: Values, rates: Rates) -> Values:
    """Return the seconds of one (m,k)x(k,n) product, or 0 where a dimension is 0.

    They are max(2mnk/P, bytes/W) and the time of one kernel.
    """
    busy = maximum(2 * m * n * k / flops, element_bytes * (m * k + k * n + m * n) / rates.memory)
    return where(m * n * k > 0, busy + rates.kernel_time, 0.0)


def linear(
    m: Values,
    n: Values,
    k: Values,
    trained: Values,
    work: StepWork,
    micro_batches: Values,
    rates: Rates,
    *,
    wide: bool = False,
) -> Cost:
    """Return the seconds of a linear layer of m tokens, k inputs and n outputs: one product forward and two backward.

    The three have the same dimensions in different places, so that each takes as long. The last one gives the gradients
    of the weights, and with more than one micro-batch they are accumulated in fp32: both for the share `trained` of the
    weights. Where the format is narrow, casts are added.
    """
    flops = rates.wide_gemm_flops if wide else rates.gemm_flops
    forward = product_time(m, n, k, flops, work.activation_bytes, rates)
    accumulate = 4 * n * k / rates.memory * (micro_batches > 1)
    backward = forward + trained * (forward + accumulate)
    if wide or not any_of(rates.cast_bytes):
        return Cost(forward, backward)
    cast = where(n * k > 0, rates.cast_bytes / rates.memory, 0.0)
    weights = cast * k * n / micro_batches
    return Cost(forward + cast * m * k + weights, backward + cast * m * n)


def attention_core(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Cost:
    """Return the seconds of Softmax(QK)V, of self-attention and of attention to another input.

    Fused kernels run at their causal-counted rate. Unfused ones take two batched products over the full square, and the
    traffic of the scores.
    """
    fused = _fused_core(shape, layout, work, rates)
    if not any_of(rates.attention_unfused):
        return fused
    widths = shape.qk_dim, shape.v_dim
    unfused = _unfused_core(shape.heads, work.seq_len, widths, shape, layout, work, rates)
    if any_of(shape.cross_heads > 0):
        keys, widths = work.input_len * work.inputs, (shape.cross_dim, shape.cross_dim)
        unfused = unfused + _unfused_core(shape.cross_heads, keys, widths, shape, layout, work, rates)
    apart = rates.attention_unfused > 0
    return Cost(where(apart, unfused.forward, fused.forward), where(apart, unfused.backward, fused.backward))


def _fused_core(shape: Shape, layout: Layout, work: StepWork, rates: Rates) -> Cost:
    """Return the seconds of attention in fused kernels."""
    heads = layout.micro_batch_size * shape.heads / layout.tp
    queries, keys = work.seq_len / layout.cp, work.seq_len
    window = minimum(shape.window, keys)
    # The scores under the causal mask are half of the square, or a band of the window's width. A kernel that is handed
    # a mask computes the whole square, whatever the mask leaves of it.
    whole = maximum(shape.bidirectional, rates.attention_masked)
    full = queries * keys / 2 * (1 + whole) / fill(keys * (1 + whole), rates)
    band = queries * window * (1 - window / (2 * keys)) / fill(window, rates)
    windowed = shape.windowed_share * (1 - rates.attention_masked)
    scores = (1 - windowed) * full + windowed * band
    width = filled_lanes(shape.qk_dim, rates) + filled_lanes(shape.v_dim, rates)
    core = heads * 2 * scores * width * _softmax_factor(width / 2, rates) / rates.attention_flops + rates.kernel_time
    if any_of(shape.chosen < keys):
        core = minimum(core, _chosen_core(heads, queries, keys, shape, rates))
    if any_of(shape.cross_heads > 0):
        crossed = layout.micro_batch_size * shape.cross_heads / layout.tp * queries * work.input_len * work.inputs
        rate = rates.attention_flops * fill(2 * maximum(work.input_len, 1), rates)
        width = filled_lanes(shape.cross_dim, rates)
        core = core + 2 * crossed * 2 * width * _softmax_factor(width, rates) / rate + rates.kernel_time
    core = where(heads + shape.cross_heads > 0, core, 0.0)
    return Cost(core, FLASH_BACKWARD * core)


def _chosen_core(heads: Values, queries: Values, keys: Values, shape: Shape, rates: Rates) -> Values:
    """Return the seconds, forward, of attention to the tokens that each token chose, or infinity where all are seen.

    Kernels read the latent vectors themselves, which all heads share, so that a score is as wide as those
    (DeepSeek-V3.2, arXiv 2512.02556 section 2.1). On sequences that are hardly longer than the choice, attention to
    all with a mask costs less, and is what runs.
    """
    latent = where(shape.mla > 0, 2 * shape.kv_rank + shape.rope_dim, shape.qk_dim + shape.v_dim)
    chosen = shape.chosen_of(keys)
    scores = queries * chosen * (1 - chosen / (2 * keys)) / fill(chosen, rates)
    core = heads * 2 * scores * latent * _softmax_factor(latent / 2, rates) / rates.attention_flops + rates.kernel_time
    return where((shape.chosen < keys) & (rates.attention_masked == 0), core, np.inf)


def _unfused_core(
    heads: Values,
    keys: Values,
    widths: tuple[Values, Values],
    shape: Shape,
    layout: Layout,
    work: StepWork,
    rates: Rates,
) -> Cost:
    """Return the seconds of attention of `heads` of a layer to `keys` positions, where scores go through memory.

    `widths` are those of a head's keys and of its values.
    """
    on_device, queries = layout.micro_batch_size * heads / layout.tp, work.seq_len / layout.cp
    square, width = queries * keys, widths[0] + widths[1]
    aligned = where(widths[0] % ALIGNED_HEAD == 0, 1.0, UNALIGNED_SHARE)
    flops = 2 * on_device * square * width / (rates.wide_gemm_flops * aligned)
    size = work.activation_bytes / 2
    moved = 2 * on_device * size * (2 * square + queries * width) / rates.memory
    products = maximum(flops, moved) + 2 * rates.kernel_time
    separate = separate_softmax(heads, keys, layout, rates)
    apart = separate & (rates.attention_eager > 0)
    traffic = on_device * square / where(apart, rates.streaming, rates.memory)
    plain = work.softmax_forward_bytes, work.softmax_backward_bytes
    forward_bytes, backward_bytes = (
        where(separate, where(rates.attention_eager > 0, eager, size * chain), size * fused)
        for (fused, chain), eager in zip(SOFTMAX_BYTES, plain, strict=True)
    )
    forward = products + (forward_bytes + 5 * shape.dropout * size) * traffic
    backward = 2 * products + (backward_bytes + 5 * shape.dropout * size) * traffic
    return Cost(where(heads > 0, forward, 0.0), where(heads > 0, backward, 0.0))


def _softmax_factor(width: Values, rates: Rates) -> Values:
    """Return the time per FLOP of an attention core with heads of this width, divided by that at `HEAD_REFERENCE`.

    Every score takes one exponential, whatever the width, and the two overlap in part.
    """
    apart = rates.attention_exponentials / maximum(width, 1)
    return sqrt(1 + apart**2) / sqrt(1 + (rates.attention_exponentials / HEAD_REFERENCE) ** 2)


def fill(keys: Values, rates: Rates) -> Values:
    """Return the rate of an attention core on causal sequences of this many keys, divided by its rate at
    `LENGTH_REFERENCE`. Without a mask a query sees twice as many of them.
    """
    return (1 + rates.attention_length / LENGTH_REFERENCE) / (1 + rates.attention_length / keys)


def filled_lanes(width: Values, rates: Rates) -> Values:
    """Return the width that a fused attention kernel computes for heads of this width: whole lanes of the device."""
    if not any_of(rates.attention_lanes > 0):
        return width
    lanes = maximum(rates.attention_lanes, 1)
    return where(rates.attention_lanes > 0, ceil(width / lanes) * lanes, width)


def separate_softmax(heads: Values, keys: Values, layout: Layout, rates: Rates) -> Flags | bool:
    """Return where the softmax of unfused attention of `heads` of a layer to `keys` positions is not one kernel.

    Megatron's fused softmax has limits. Plain PyTorch has none of its own, unless a compiler fuses the chain.
    """
    if not any_of(rates.attention_unfused):
        return False
    batches = layout.micro_batch_size * heads / layout.tp
    fits = (batches % SOFTMAX_GROUP == 0) & (keys <= SOFTMAX_KEYS)
    one_kernel = where(rates.attention_eager > 0, rates.fused > 0, fits)
    return (rates.attention_unfused > 0) & (one_kernel == 0)


def elementwise(shape: Shape, layout: Layout, work: StepWork, tokens: Values, ffn_width: Values, rates: Rates) -> Cost:
    """Return the seconds of norms, residuals, dropout, activation function and rotary positions: bytes over bandwidth.

    Per token these are 8h for norms and 2(6+drop)h for residuals (divided by tp under sequence parallelism), (4+2
    gated)f for the activation and 4(a+2kv)d for rotary positions, in bytes where elements have 2 bytes. Plain PyTorch
    runs operation by operation (`_plain_chain`).
    """
    split = where(layout.sequence_parallel > 0, layout.tp, 1)
    head_dim = maximum(shape.qk_dim, shape.v_dim)
    residual = shape.parts * 2 * (6 + shape.dropout) * shape.hidden / split
    per_token = residual + shape.parts * 8 * shape.hidden / split
    per_token = per_token + (4 + 2 * shape.gated) * ffn_width / layout.tp
    per_token = per_token + 4 * (shape.heads + 2 * shape.kv_heads) * head_dim / layout.tp
    scale = tokens * work.activation_bytes / 2 / rates.memory
    moved = per_token * scale * where(rates.fused > 0, ELEMENTWISE_FUSED, 1.0)
    wide = is_cast(shape, layout, work) * shape.parts * shape.hidden / split * scale
    forward = moved + AUTOCAST_FUSED[0] * wide + ELEMENTWISE_KERNELS_FORWARD * rates.kernel_time
    backward = ELEMENTWISE_BACKWARD * moved + AUTOCAST_FUSED[1] * wide
    backward = backward + ELEMENTWISE_KERNELS_BACKWARD * rates.kernel_time
    if not any_of(work.eager):
        return Cost(forward, backward)
    plain = _plain_chain(shape, layout, work, tokens, ffn_width, rates)
    single = work.eager > 0
    return Cost(where(single, plain.forward, forward), where(single, plain.backward, backward))


def _plain_chain(shape: Shape, layout: Layout, work: StepWork, tokens: Values, ffn_width: Values, rates: Rates) -> Cost:
    """Return the seconds of the same operations where PyTorch runs each of them by itself, streamed."""
    apart, cast = is_written_out(shape, work), is_cast(shape, layout, work)
    split = where(layout.sequence_parallel > 0, layout.tp, 1)
    rotated = (shape.heads + shape.kv_heads) * shape.qk_dim / layout.tp
    scale = tokens * work.activation_bytes / 2 / rates.streaming
    frozen = 1 - shape.trainable

    def spared(less: tuple[float, float], way: int) -> Values:
        return frozen * where(apart, less[1], less[0]) * way

    def chain(way: int) -> Values:
        def of(plain: Table, more: Table = NOTHING) -> Values:
            return where(apart, plain[1][way], plain[0][way]) + cast * where(apart, more[1][way], more[0][way])

        hidden = of(PLAIN_HIDDEN, AUTOCAST_HIDDEN) + PLAIN_DROPOUT * shape.dropout - spared(FROZEN_HIDDEN, way)
        moved = shape.parts * hidden * shape.hidden / split
        moved = moved + (of(PLAIN_FFN) - spared(FROZEN_FFN, way)) * ffn_width / layout.tp
        moved = moved + of(PLAIN_ROTARY, AUTOCAST_ROTARY) * rotated
        moved = moved + shape.written_gelu * GELU_FFN[way] * ffn_width / layout.tp
        kernels = of(PLAIN_KERNELS, AUTOCAST_KERNELS) + shape.written_gelu * GELU_KERNELS[way]
        kernels = kernels - spared(FROZEN_KERNELS, way)
        return moved * scale + kernels * rates.kernel_time

    return Cost(chain(0), chain(1))


def is_cast(shape: Shape, layout: Layout, work: StepWork) -> Flags | bool:
    """Return where PyTorch's autocast casts: whole copies of models that train all of their 32-bit weights.

    Software that shards weights gathers them in 16 bit, and frozen ones are kept in it.
    """
    return (work.autocast > 0) & (layout.zero_stage == 0) & (shape.trainable == 1)


def weight_casts(shape: Shape, layout: Layout, work: StepWork, weights: Values, rates: Rates) -> Cost:
    """Return the seconds in which autocast narrows so many weights and widens their gradients."""
    once = where(is_cast(shape, layout, work), AUTOCAST_WEIGHT * weights / rates.streaming, 0.0)
    return Cost(once, once)


def is_written_out(shape: Shape, work: StepWork) -> Flags | bool:
    """Return where norms, rotary positions and gate are chains of PyTorch operations.

    Models with a gate have RMSNorm and rotary positions too, which PyTorch had no kernels for. Other models have
    `nn.LayerNorm` and a GELU, which are one kernel each in plain PyTorch.
    """
    return (work.eager > 0) & (shape.gated > 0)


def host_op_time(layout: Layout, rates: Rates) -> Values:
    """Return the seconds that the host needs to issue one operation.

    They are more for DTensors, as which some software splits weights over tensor-parallel ranks.
    """
    return rates.host_op_time + where(layout.tp > 1, rates.wrapped_op_time, 0.0)


def head(shape: Shape, layout: Layout, work: StepWork, tokens: Values, micro_batches: Values, rates: Rates) -> Cost:
    """Return the seconds of output projection, softmax, cross entropy and embedding traffic on the last stage, and of
    the products of parts beside the layers.
    """
    columns = shape.outputs / layout.tp
    scored = tokens * work.scored_share
    product = linear(scored, columns, shape.head_width, shape.trainable, work, micro_batches, rates, wide=True)
    if any_of(rates.aligned_bytes > 0):
        wanted = maximum(rates.aligned_bytes / work.activation_bytes, 1)
        odd = (work.pads_vocabulary == 0) & (columns % wanted > 0)
        product = product * where(odd, UNALIGNED_COLUMNS, 1.0)
    entropy = work.entropy_bytes * scored * columns / rates.streaming
    traffic = entropy + 12 * tokens * shape.hidden * work.activation_bytes / 2 / rates.memory
    # The traffic is that of both directions, and half of it is counted for each.
    host = 10 * host_op_time(layout, rates)
    of_input = layout.micro_batch_size * work.inputs * work.input_len / layout.cp
    products = tokens * shape.beside_products + of_input * shape.input_products
    beside = 2 * products / layout.tp / rates.gemm_flops
    forward = product.forward + beside + traffic / 2 + host / 2
    return Cost(forward, product.backward + (1 + shape.trainable) * beside + traffic / 2 + host / 2)
