"""Price what chooses the tokens to which one attends: the indexer of DeepSeek Sparse Attention, and attention to those.

Source: DeepSeek-V3.2 (arXiv 2512.02556 section 2.1). A few small heads score all tokens before a token, and the latent
vectors of the best ones are what its heads attend to. Where a sequence is no longer than that, nothing is chosen
(MaxText's guide to DeepSeek says so of its own code). What the software makes of it differs; this is the method.
"""

from __future__ import annotations

from carbon_plugin.predict.arrays import Values, where
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time.operators import Cost, linear

SCORE_BYTES = 8
"""Bytes of a score in fp32, which is written once and read to choose the best ones."""
CHOICE_BYTES = 4
"""Bytes of the place of a chosen token."""


def chosen_pairs(shape: Shape, seq_len: Values) -> Values:
    """Return how many pairs of tokens of one sequence attend: each token to those that it chose of all before it."""
    chosen = shape.chosen_of(seq_len)
    return seq_len * chosen * (1 - chosen / (2 * seq_len))


def is_choosing(shape: Shape, seq_len: Values) -> Values:
    """Return 1 where tokens of a sequence choose, else 0."""
    return where(shape.chosen < seq_len, 1.0, 0.0)


def index_flops_of_layer(shape: Shape, seq_len: Values) -> tuple[Values, Values]:
    """Return the FLOPs of the scores of one layer for one sequence, forward and backward.

    The scores of all pairs are needed to choose. The heads learn from what the tokens that they chose were attended
    with, so that these alone have gradients, of queries and keys (equation 4 there).
    """
    a_pair = 2 * shape.index_heads * shape.index_dim * is_choosing(shape, seq_len)
    return a_pair * seq_len * seq_len / 2, 2 * shape.trainable * a_pair * chosen_pairs(shape, seq_len)


def indexer(shape: Shape, layout: Layout, work: StepWork, micro_batches: Values, rates: Rates) -> tuple[Cost, Cost]:
    """Return the seconds of the indexer of a layer for one micro-batch: those of its projections, and of its scores.

    Every tensor-parallel rank computes all of it (`DSAIndexer` of Megatron-core, whose weights are those of `Linear`).
    """
    tokens = layout.micro_batch_size * work.seq_len / layout.cp
    rank = where(shape.q_rank > 0, shape.q_rank, shape.hidden)
    args = shape.trainable, work, micro_batches, rates
    queries = linear(tokens, shape.index_heads * shape.index_dim, rank, *args)
    others = where(shape.index_heads > 0, shape.index_dim + shape.index_heads, 0.0)
    sequences = layout.micro_batch_size / layout.cp
    forward, backward = index_flops_of_layer(shape, work.seq_len)
    scored = where(shape.index_heads > 0, is_choosing(shape, work.seq_len), 0.0) * SCORE_BYTES
    pairs = work.seq_len * work.seq_len / 2, shape.trainable * chosen_pairs(shape, work.seq_len)
    scores = Cost(
        sequences * (forward / rates.wide_gemm_flops + scored * pairs[0] / rates.memory),
        sequences * (backward / rates.wide_gemm_flops + scored * pairs[1] / rates.memory),
    )
    return queries + linear(tokens, others, shape.hidden, *args), scores


def kept_of_choice(shape: Shape, work: StepWork) -> Values:
    """Return the bytes per token that the backward pass of an indexer needs: queries, key, weights and the choice."""
    scored = shape.index_heads * shape.index_dim + where(
        shape.index_heads > 0, shape.index_dim + shape.index_heads, 0.0
    )
    return is_choosing(shape, work.seq_len) * (
        work.activation_bytes * scored + CHOICE_BYTES * shape.chosen_of(work.seq_len)
    )
