"""The inputs of the step-time equations as arrays that broadcast against one another.

One layout and a million layouts go through the same code: a field is a scalar where all cases agree and an
array where they differ, in the model as well as in the layout, so that a search, a validation over many models
and a single prediction are one call. Not for users: `spec` has the types that they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from carbon_plugin.predict.arrays import Values, any_of, where

KINDS = "kinds"
"""The one field of a case that is no array."""
NOT: Values = np.float64(0)
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Shape:
    """Model dimensions in elements; counts per model.

    `parts` is 1 where a layer mixes tokens and has a feed-forward part, and a half where it has one of the two. The
    `scan_*` fields describe what mixes tokens along a state (`predict.scan`), `more_columns` the columns of its
    first products beyond queries, keys and values. Layers `of_input` work on the input of an encoder or tower, all
    of which they see, and `cross_heads` look at it; `beside` are parameters outside of all layers. `kinds` are the
    kinds of layers of a model whose layers differ, each with its own number of `layers`; the plain fields then
    stand for equal layers that are as wide in sum.
    """

    layers: Values
    moe_layers: Values
    first_dense: Values
    hidden: Values
    heads: Values
    kv_heads: Values
    qk_dim: Values
    v_dim: Values
    ffn: Values
    gated: Values
    vocab: Values
    tied: Values
    positions: Values
    dropout: Values
    window: Values
    windowed_share: Values
    mla: Values
    q_rank: Values
    kv_rank: Values
    rope_dim: Values
    experts: Values
    top_k: Values
    expert_ffn: Values
    expert_hidden: Values
    shared_ffn: Values
    imbalance: Values
    expert_bias: Values
    mtp: Values
    attention_params: Values
    trainable: Values
    frozen_bits: Values
    parts: Values
    more_columns: Values
    scan_heads: Values
    scan_groups: Values
    scan_key: Values
    scan_value: Values
    scan_chunk: Values
    scan_delta: Values
    scan_steps: Values
    bidirectional: Values
    of_input: Values
    cross_heads: Values
    cross_dim: Values
    beside: Values
    kinds: tuple[Shape, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees and schedule. Flags are 0 or 1; `recompute_*` exclude one another and are all 0 for none, the attention
    core being `recompute_selective`; `again_*` are the other parts that selective recompute names."""

    tp: Values
    cp: Values
    pp: Values
    dp_replicate: Values
    dp_shard: Values
    ep: Values
    expert_tp: Values
    zero_stage: Values
    sequence_parallel: Values
    ring: Values
    zero_bubble: Values
    dualpipe: Values
    gpipe: Values
    virtual_stages: Values
    micro_batch_size: Values
    recompute_selective: Values
    recompute_operators: Values
    recompute_full: Values
    reentrant: Values
    async_tp: Values
    expert_overlap: Values
    balanced_stages: Values
    again_norms: Values = NOT
    again_act: Values = NOT
    again_latent: Values = NOT
    again_mlp: Values = NOT
    again_moe: Values = NOT
    again_shared: Values = NOT

    @property
    def dp(self) -> Values:
        """Data-parallel degree."""
        return self.dp_replicate * self.dp_shard

    @property
    def expert_split(self) -> Values:
        """Ranks that the routed experts of a layer are split over: ep and their own tp, or plain tp without ep."""
        return where(self.ep > 1, self.ep * self.expert_tp, self.tp)

    @property
    def expert_shards(self) -> Values:
        """Data-parallel ranks that shard the states of one routed expert, at least 1."""
        ranks = self.dp_shard * self.cp * where(self.ep > 1, self.tp, 1)
        return np.maximum(ranks / where(self.ep > 1, self.expert_split, 1), 1)


@dataclass(frozen=True, slots=True)
class Work:
    """Work of a step and numeric formats: `seq_len` tokens, `batch` sequences, bytes of an activation element, of one
    that is kept because a product takes it as input, of a parameter as stored for compute, of a gradient as reduced,
    of optimizer state a parameter, and of one logit at the peak, whole or split over tensor-parallel ranks. `eager`:
    chains of elementwise operations run one by one; `offloaded`: share of layers whose activations wait in host
    memory; `weighted`, `accumulated_bytes`, `keeps_*` and `gathers_weights`: fields of `Stack` as numbers."""

    seq_len: Values
    batch: Values
    activation_bytes: Values
    input_bytes: Values
    parameter_bytes: Values
    reduce_bytes: Values
    optimizer_bytes: Values
    master: Values
    gradients_kept: Values
    muon: Values
    offload: Values
    entropy_bytes: Values
    logit_bytes: Values
    split_logit_bytes: Values
    eager: Values
    offloaded: Values
    weighted: Values
    accumulated_bytes: Values
    keeps_gathered: Values
    keeps_products: Values
    keeps_projections: Values
    gathers_weights: Values
    input_len: Values = NOT
    inputs: Values = NOT


def own_case(kind: Shape, layout: Layout, work: Work) -> tuple[Layout, Work] | None:
    """Layout and work as one kind of layers meets them: those of an encoder or tower work on the inputs of a sequence,
    each by itself. None where the size of an input is not stated, so that such layers cannot be priced."""
    if not any_of(kind.of_input > 0):
        return layout, work
    if not any_of(work.input_len > 0):
        return None
    inputs = replace(layout, micro_batch_size=layout.micro_batch_size * work.inputs)
    return inputs, replace(work, seq_len=work.input_len)


def stack_cases(parts: Sequence[C]) -> C:
    """Many single cases side by side, as one structure of arrays of shape (n,). Models whose layers differ are put
    beside those with the same layers only."""
    first = parts[0]
    columns: dict[str, Any] = {}
    for field in fields(first):  # type: ignore[arg-type]  # C is one of our dataclasses
        several = [getattr(part, field.name) for part in parts]
        if field.name == KINDS:
            assert all(kinds == several[0] for kinds in several)  # `calibrate.rows.table` groups them
            columns[KINDS] = several[0]
        else:
            columns[field.name] = np.array([float(one) for one in several])
    return type(first)(**columns)


def take(columns: C, index: Any) -> C:
    """The cases at an index or mask of any structure of arrays; a scalar, which all cases share, stays as it is."""
    picked: dict[str, Any] = {
        field.name: column if field.name == KINDS or np.ndim(column) == 0 else column[index]
        for field in fields(columns)  # type: ignore[arg-type]  # C is one of our dataclasses
        for column in [getattr(columns, field.name)]
    }
    return type(columns)(**picked)
