"""The inputs of the step-time equations as arrays that broadcast against one another.

One layout and a million layouts go through the same code: a field is a scalar where all cases agree and an
array where they differ, in the model as well as in the layout, so that a search, a validation over many models
and a single prediction are one call. Not for users: `spec` has the types that they meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.predict.kinds import kind_numbers, plain_kind
from carbon_plugin.spec.layout import ParallelLayout, Recompute, RecomputedModule
from carbon_plugin.spec.model import TransformerModel
from carbon_plugin.spec.stack import CrossEntropy, Stack
from carbon_plugin.spec.training import Precision, StateDtype, TrainingPlan

Values = NDArray[np.float64] | np.float64
"""A float64 array, or its scalar."""
Flags = NDArray[np.bool_]

KINDS = "kinds"
"""The one field of a case that is no array."""

NOT: Values = np.float64(0)
AGAIN: dict[RecomputedModule, str] = {
    "core_attn": "recompute_selective",
    "layernorm": "again_norms",
    "moe_act": "again_act",
    "mla_up_proj": "again_latent",
    "mlp": "again_mlp",
    "moe": "again_moe",
    "shared_experts": "again_shared",
}
"""The flag of each part that selective recompute can name."""
ACTIVATION_BYTES = {"bf16": 2, "fp16": 2, "fp8": 2, "mxfp8": 2, "nvfp4": 2, "fp32": 4, "tf32": 4}


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
        return np.where(self.ep > 1, self.ep * self.expert_tp, self.tp)

    @property
    def expert_shards(self) -> Values:
        """Data-parallel ranks that shard the states of one routed expert, at least 1."""
        ranks = self.dp_shard * self.cp * np.where(self.ep > 1, self.tp, 1)
        return np.maximum(ranks / np.where(self.ep > 1, self.expert_split, 1), 1)


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


C = TypeVar("C")


def values(number: float | bool | Values) -> Values:
    """A number or array as float64."""
    return np.asarray(number, dtype=np.float64)


def shape_of(model: TransformerModel) -> Shape:
    """Dimensions of one model."""
    moe, mla = model.moe, model.mla
    numbers = {
        "layers": model.layers,
        "moe_layers": model.moe_layers,
        "first_dense": moe.first_dense_layers if moe else 0,
        "hidden": model.hidden,
        "heads": model.heads,
        "kv_heads": model.kv_heads,
        "qk_dim": model.qk_head_dim,
        "v_dim": model.v_head_dim,
        "ffn": model.ffn,
        "gated": model.gated,
        "vocab": model.vocab,
        "tied": model.tied_embeddings,
        "positions": model.learned_positions,
        "dropout": model.dropout > 0,
        "window": model.sliding_window or np.inf,
        "windowed_share": _windowed_share(model),
        "mla": mla is not None,
        "q_rank": (mla.q_lora_rank or 0) if mla else 0,
        "kv_rank": mla.kv_lora_rank if mla else 0,
        "rope_dim": mla.qk_rope_head_dim if mla else 0,
        "experts": moe.experts if moe else 0,
        "top_k": moe.top_k if moe else 0,
        "expert_ffn": moe.expert_ffn if moe else 0,
        "expert_hidden": model.hidden,
        "shared_ffn": moe.shared_ffn if moe else 0,
        "imbalance": moe.imbalance if moe else 1.0,
        "expert_bias": moe.bias if moe else False,
        "mtp": model.mtp_layers,
        "attention_params": model.attention_parameters,
        "trainable": model.trainable_fraction,
        "frozen_bits": model.frozen_bits,
        "bidirectional": not model.causal,
        "beside": sum(part.parameters for part in model.parts if not part.layers),
        **plain_kind(),
    }
    return _shape(numbers, tuple(_shape(numbers | own) for own in kind_numbers(model)))


def own_case(kind: Shape, layout: Layout, work: Work) -> tuple[Layout, Work] | None:
    """Layout and work as one kind of layers meets them: those of an encoder or tower work on the inputs of a sequence,
    each by itself. None where the size of an input is not stated, so that such layers cannot be priced."""
    if not np.any(kind.of_input > 0):
        return layout, work
    if not np.any(work.input_len > 0):
        return None
    inputs = replace(layout, micro_batch_size=layout.micro_batch_size * work.inputs)
    return inputs, replace(work, seq_len=work.input_len)


def _shape(numbers: Mapping[str, float], kinds: tuple[Shape, ...] = ()) -> Shape:
    columns: dict[str, Any] = {name: values(number) for name, number in numbers.items()}
    return Shape(**columns, kinds=kinds)


def _windowed_share(model: TransformerModel) -> float:
    if model.sliding_window is None:
        return 0.0
    return 1.0 if model.sliding_window_layers is None else model.sliding_window_layers / model.layers


def layout_of(layout: ParallelLayout) -> Layout:
    """One layout."""
    numbers = {
        "tp": layout.tp,
        "cp": layout.cp,
        "pp": layout.pp,
        "dp_replicate": layout.dp_replicate,
        "dp_shard": layout.dp_shard,
        "ep": layout.ep,
        "expert_tp": layout.expert_tp,
        "zero_stage": layout.zero_stage,
        "sequence_parallel": layout.sequence_parallel and layout.tp > 1,
        "ring": layout.context_parallel_kind == "ring",
        "zero_bubble": layout.pipeline_schedule == "zero_bubble",
        "dualpipe": layout.pipeline_schedule == "dualpipe",
        "gpipe": layout.pipeline_schedule == "gpipe",
        "virtual_stages": layout.virtual_stages,
        "micro_batch_size": layout.micro_batch_size,
        "recompute_operators": layout.recompute == "operators",
        "recompute_full": layout.recompute == "full",
        "reentrant": layout.recompute_reentrant,
        "async_tp": layout.async_tp,
        "balanced_stages": layout.balanced_stages,
        "expert_overlap": layout.expert_overlap or layout.pipeline_schedule == "dualpipe",
        **again_flags(layout.recompute, layout.recompute_modules),
    }
    return Layout(**{name: values(number) for name, number in numbers.items()})


def again_flags(recompute: Recompute, modules: Sequence[RecomputedModule]) -> dict[str, bool]:
    """The flags of `AGAIN`: the attention core alone where selective recompute names nothing (Megatron's default)."""
    named = (modules or ("core_attn",)) if recompute == "selective" else ()
    return {flag: module in named for module, flag in AGAIN.items()}


NARROW_BYTES: dict[Precision, float] = {"fp8": 1.0, "mxfp8": 33 / 32, "nvfp4": 9 / 16}
"""Bytes of a value with its share of the scales: 32 values share a byte in MXFP8, 16 in NVFP4."""
OPTIMIZER_STATE_BYTES = {"adamw": 8.0, "adam": 8.0, "sgd": 4.0, "muon": 4.0, "adafactor": 1.0}
"""fp32 state an element: two Adam moments, one momentum, or Adafactor's factored second moment (about none)."""


STATE_BYTES: dict[StateDtype, float] = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0}


def optimizer_state_bytes(training: TrainingPlan) -> float:
    """Optimizer state a parameter, bytes, without the master weight."""
    return OPTIMIZER_STATE_BYTES[training.optimizer] * STATE_BYTES[training.optimizer_state_dtype] / 4


LOGIT_BYTES: dict[CrossEntropy, tuple[float, float]] = {
    "eager": (14.0, 22.0),
    "compiled": (6.0, 6.0),
    "fused": (10.0, 10.0),
    "chunked": (1.0, 1.0),
    "in_place": (2.0, 2.0),
    "half": (6.0, 6.0),
}
"""Bytes a logit at the peak, whole and split over tensor-parallel ranks: the 16-bit value and its gradient, and what
the loss keeps in fp32 (copy, softmax, gradient). The eager values fit torchtitan's reported memory of 2024, before its
loss was compiled (pull request 1033); a DTensor loss keeps two more fp32 copies."""
ENTROPY_BYTES: dict[CrossEntropy, float] = {"in_place": 8.0, "compiled": 14.0}
"""Bytes a logit that the loss moves, forward and backward, where it is known: in place the logit is read twice and its
gradient written over it; compiled the 16-bit logit is written, read for maximum and sum and again for the gradient,
which is written and read by two products. Else 20 fused, 40 by single operations."""
EAGER_LOGIT_BYTES = 3.0
"""More bytes a logit where elementwise chains are not fused."""


def work_of(training: TrainingPlan, stack: Stack) -> Work:
    """Work and formats of one training plan."""
    activation = ACTIVATION_BYTES[training.precision]
    whole, split = LOGIT_BYTES[stack.cross_entropy]
    extra = EAGER_LOGIT_BYTES if stack.cross_entropy == "eager" and not stack.fused else 0.0
    return Work(
        input_len=values(training.input_len or 0),
        inputs=values(training.inputs_per_sequence),
        seq_len=values(training.seq_len),
        batch=values(training.global_batch_size),
        activation_bytes=values(activation),
        input_bytes=values(NARROW_BYTES.get(training.precision, activation) if stack.narrow_inputs else activation),
        parameter_bytes=values(activation),
        reduce_bytes=values(4 if stack.grad_reduce_dtype == "fp32" and training.master_weights else activation),
        entropy_bytes=values(ENTROPY_BYTES.get(stack.cross_entropy, 20.0 if stack.fused else 40.0)),
        logit_bytes=values(whole + extra),
        split_logit_bytes=values(split + extra),
        optimizer_bytes=values(optimizer_state_bytes(training)),
        master=values(training.master_weights),
        gradients_kept=values(not training.optimizer_in_backward),
        muon=values(training.optimizer == "muon"),
        offload=values(training.optimizer_offload),
        eager=values(written_out(stack)),
        offloaded=values(training.activation_offload),
        weighted=values(stack.weighted_experts),
        accumulated_bytes=values(4.0 if stack.accumulates_beside and training.precision == "bf16" else 0.0),
        keeps_gathered=values(stack.keeps_gathered),
        keeps_products=values(stack.operators_keep == "products"),
        keeps_projections=values(stack.operators_keep == "projections"),
        gathers_weights=values(stack.shard_unit == "weight"),
    )


def written_out(stack: Stack) -> bool:
    """Whether norms and gates are single operations. Unless it is stated, an eager loss is the sign: Megatron's
    relatives fuse them without a compiler, and their loss too."""
    if stack.plain_modules is not None:
        return stack.plain_modules
    return not stack.fused and stack.cross_entropy == "eager"


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
