"""Hold the inputs of the step-time equations as arrays that broadcast against one another.

One layout and a million layouts go through the same code: a field is a scalar where all cases agree and an array where
they differ. This holds for the model as well as for the layout, so that a search, a validation over many models and a
single prediction are each one call. Users do not meet these classes: they meet the types of `spec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from carbon_plugin.predict.arrays import Flags, Values, any_of, maximum, minimum, where

KINDS = "kinds"
"""Name of the only field of a case that is not an array."""
NOT: Values = 0.0
ALL: Values = np.inf
WHOLE: Values = 1.0
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of one or many models, in elements, and counts per model.

    `group_share` is the share of the groups of experts from which a token may take its own. `parts` is 1 where a layer
    has both a part that mixes tokens and a feed-forward part, and 0.5 where it has only one of them. The `scan_*`
    fields describe layers that mix tokens along a state (`predict.time.scan`). `more_columns` are the columns of a
    layer's first products beyond queries, keys and values. Layers with `of_input` work on the input of an encoder or
    tower and see all of it; `cross_heads` are the heads that attend to that input, with keys and values of
    `cross_kv_heads`. The `adapted_*` flags say which matrices have low-rank adapters,
    and `adapter_dropout` is 1 where the inputs of these pass a dropout. `outputs` are the columns of the
    output head, which are those of `vocab` where it predicts tokens, and `head_width` its rows. `passes` is how often a
    token passes the same weights: of its `layers` only one of so many has weights of its own. `table_width` is the
    width of the token embedding. A token attends to `chosen` tokens, which `index_heads` heads of width `index_dim`
    choose by their scores. `beside` are parameters outside of all layers; `beside_products` are the multiply-adds
    of their matrix products for each token of the sequence, and `input_products` those for each token of an input.
    Where the layers of a model differ, `kinds` holds one `Shape` for each kind of layer, each with its own number of
    `layers`; the plain fields then describe equal layers that have the same total width.
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
    table_width: Values
    outputs: Values
    head_width: Values
    tied: Values
    positions: Values
    dropout: Values
    window: Values
    windowed_share: Values
    mla: Values
    qk_norm: Values
    q_rank: Values
    kv_rank: Values
    rope_dim: Values
    experts: Values
    top_k: Values
    group_share: Values
    expert_ffn: Values
    expert_hidden: Values
    shared_ffn: Values
    imbalance: Values
    expert_bias: Values
    mtp: Values
    attention_params: Values
    trainable: Values
    frozen_bits: Values
    adapted_query_value: Values
    adapted_key: Values
    adapted_output: Values
    adapted_ffn: Values
    adapter_dropout: Values
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
    cross_kv_heads: Values
    cross_dim: Values
    passes: Values
    beside: Values
    beside_products: Values
    input_products: Values
    written_gelu: Values = NOT
    index_heads: Values = NOT
    index_dim: Values = NOT
    chosen: Values = ALL
    kinds: tuple[Shape, ...] = ()

    @property
    def index_params(self) -> Values:
        """Return the parameters of a layer that choose what a token attends to (`Indexer.parameters`)."""
        queries = where(self.q_rank > 0, self.q_rank, self.hidden) * self.index_heads * self.index_dim
        return queries + where(self.index_heads > 0, self.hidden * (self.index_dim + self.index_heads), 0.0)

    def chosen_of(self, seq_len: Values) -> Values:
        """Return to how many tokens one attends at most of a sequence, which are all of a short one."""
        return minimum(self.chosen, seq_len)

    def tables(self, layout: Layout) -> Values:
        """Return the elements of the embedding and the head on the fullest device, by each copy of its stage.

        Each is on a stage of its own where there are several, unless one device holds both ends of the pipeline, and a
        tied head is the embedding.
        """
        table, head = self.vocab * self.table_width, self.outputs * self.head_width
        both = table + where(self.tied > 0, 0, head)
        of_a_stage = where(layout.dualpipe > 0, both / layout.copies, maximum(table, head))
        return where(layout.pp > 1, of_a_stage, both)


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees of parallelism and schedule of one or many layouts.

    Flags are 0 or 1. At most one of the `recompute_*` fields is above 0; all are 0 without recompute. `recompute_full`
    and `recompute_operators` are the share of the layers that recompute. `recompute_selective` stands for the attention
    core, and the `again_*` flags for the other parts that selective recompute can name.
    """

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
    pipeline_rounds: Values
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
        """Return the data-parallel degree."""
        return self.dp_replicate * self.dp_shard

    @property
    def copies(self) -> Values:
        """Return how many stages of a pipeline a device holds whole, each of which another device holds too: two where
        micro-batches come from both ends (DeepSeek-V3, arXiv 2412.19437 section 3.2.1), else the one.
        """
        return where(self.dualpipe > 0, 2, 1)

    @property
    def expert_split(self) -> Values:
        """Return how many ranks share the routed experts of a layer: ep times their own tp, or tp without ep."""
        return where(self.ep > 1, self.ep * self.expert_tp, self.tp)

    @property
    def expert_shards(self) -> Values:
        """Return the number of data-parallel ranks that shard the states of one routed expert, at least 1."""
        ranks = self.dp_shard * self.cp * where(self.ep > 1, self.tp, 1)
        return maximum(ranks / where(self.ep > 1, self.expert_split, 1), 1)

    @property
    def expert_replicas(self) -> Values:
        """Return the number of copies of each shard of a routed expert: `dp_replicate`, or fewer where expert
        parallelism reaches over copies of the other layers.
        """
        ranks = self.dp_replicate * self.dp_shard * self.cp * where(self.ep > 1, self.tp / self.expert_split, 1)
        return maximum(ranks / self.expert_shards, 1)


@dataclass(frozen=True, slots=True)
class StepWork:
    """Work of one step and the numeric formats that it uses.

    `seq_len` is in tokens and `batch` in sequences, and `scored_share` is the share of the tokens that pass the head.
    `activation_bytes` is the size of an activation element,
    `dispatch_bytes` that of an element on its way to experts, `kept_bytes` that of an element that the backward pass of
    an activation function or of the attention core needs, `input_bytes` that of an element that is kept because a
    product takes it as input, `parameter_bytes` that of a parameter as stored for compute, `gradient_bytes` that of a
    gradient as it waits for the update and `reduce_bytes` that of one as it is reduced, from the stage of ZeRO
    `narrow_reduce_stage` on in the type of the compute (`reduced_bytes`). `optimizer_bytes` is the
    optimizer state per parameter, and `list_bytes` are what an update by single operations moves per parameter beyond
    an update in one pass, and `list_copy_bytes` those of the copy per parameter that it makes for a while.
    `bucket_bytes` are those per parameter of the buckets that reduce gradients beside the gradients themselves.
    `entropy_bytes` are those that the loss moves per logit, and `softmax_forward_bytes` and `softmax_backward_bytes`
    those that a softmax of single operations moves per score. `logit_bytes` and `split_logit_bytes` are the bytes per
    logit at the peak, whole or split over tensor-parallel ranks, `freed_logit_bytes` those per whole logit that the
    loss has freed by then and the allocator keeps, and `head_gradients` is the number of gradients of the head that lie
    beside them. `eager` is 1 where chains of elementwise operations run one by one, `single_gate` where the activation
    of a gate does, `copies_core` where the output of a fused attention core is copied, `autocast` where PyTorch casts
    whole copies of the model, and `pads_vocabulary` where the head has as many columns as its products want.
    `offloaded` is the share of layers whose activations wait in host memory. `weighted`, `accumulated_bytes`,
    `gradient_buffers`, `gradient_placeholders`, `adapters_in_products`, `keeps_*` and `gathers_*` are fields of `Stack`
    as numbers; `widened_bytes` are those per parameter of a gradient that is widened as it updates the master weight;
    `keeps_whole` is 1 where parameters stay whole under ZeRO-2, `copies_gathered` where gathered parameters are copied
    out of their buffer, and `packs_gradients` where gradients are copied into one.
    """

    seq_len: Values
    batch: Values
    activation_bytes: Values
    dispatch_bytes: Values
    kept_bytes: Values
    input_bytes: Values
    parameter_bytes: Values
    gradient_bytes: Values
    reduce_bytes: Values
    narrow_reduce_stage: Values
    optimizer_bytes: Values
    master: Values
    gradients_kept: Values
    muon: Values
    offload: Values
    entropy_bytes: Values
    softmax_forward_bytes: Values
    softmax_backward_bytes: Values
    logit_bytes: Values
    split_logit_bytes: Values
    eager: Values
    single_gate: Values
    copies_core: Values
    autocast: Values
    list_bytes: Values
    list_copy_bytes: Values
    bucket_bytes: Values
    pads_vocabulary: Values
    offloaded: Values
    weighted: Values
    accumulated_bytes: Values
    widened_bytes: Values
    gradient_buffers: Values
    gradient_placeholders: Values
    keeps_gathered: Values
    adapters_in_products: Values
    keeps_products: Values
    keeps_core: Values
    keeps_projections: Values
    keeps_exchange: Values
    gathers_weights: Values
    gathers_buckets: Values
    keeps_whole: Values
    copies_gathered: Values
    packs_gradients: Values
    input_len: Values = NOT
    inputs: Values = NOT
    scored_share: Values = WHOLE
    head_gradients: Values = NOT
    freed_logit_bytes: Values = NOT


def reduced_bytes(layout: Layout, work: StepWork) -> Values:
    """Return the bytes of a gradient as it is reduced under a stage of ZeRO."""
    return where(layout.zero_stage >= work.narrow_reduce_stage, work.parameter_bytes, work.reduce_bytes)


def fetches_once(layout: Layout, work: StepWork) -> Flags | bool:
    """Return where ranks fetch new parameters once a step: under ZeRO-1, and under ZeRO-2 that keeps them whole
    (`spec.stack.WHOLE_UNITS`).
    """
    return (layout.zero_stage == 1) | ((layout.zero_stage == 2) & (work.keeps_whole > 0))


def own_case(kind: Shape, layout: Layout, work: StepWork) -> tuple[Layout, StepWork] | None:
    """Return layout and work as one kind of layers meets them.

    Layers of an encoder or tower work on each input of a sequence by itself. Return None where the size of an input is
    not stated, because such layers cannot be priced then.
    """
    if not any_of(kind.of_input > 0):
        return layout, work
    if not any_of(work.input_len > 0):
        return None
    inputs = replace(layout, micro_batch_size=layout.micro_batch_size * work.inputs)
    return inputs, replace(work, seq_len=work.input_len)


def stack_cases(parts: Sequence[C]) -> C:
    """Return many single cases as one structure of arrays of shape (n,).

    All cases must have the same `kinds`: models with different kinds of layers cannot be stacked together.
    """
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
    """Return the cases at an index or mask of any structure of arrays.

    A scalar, which all cases share, stays as it is.
    """
    picked: dict[str, Any] = {
        field.name: column if field.name == KINDS or np.ndim(column) == 0 else column[index]
        for field in fields(columns)  # type: ignore[arg-type]  # C is one of our dataclasses
        for column in [getattr(columns, field.name)]
    }
    return type(columns)(**picked)
