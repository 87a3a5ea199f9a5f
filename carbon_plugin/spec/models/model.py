"""Describe what is trained: a transformer by its shape, or any module by what was counted in it.

Parameter counts are here because they are facts of the shape; FLOPs, bytes and time are in `predict`.
"""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.models.adapters import Adapters, usual_adapters
from carbon_plugin.spec.models.blocks import Block, Indexer, ModelPart
from carbon_plugin.spec.models.passes import CountedPasses
from carbon_plugin.spec.numbers.amounts import count, plural, verb
from carbon_plugin.spec.parsing.limits import MOST_LAYERS, MOST_WIDTH, check_at_most, check_not_negative, check_positive

FROZEN_BITS = (4, 8, 16)
LITTLE_BESIDE = 0.05
"""The share of the parameters that may lie beside the layers of a model whose step is priced by its layers alone."""


class MultiLatentAttention(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds the ranks and head widths, in elements, of multi-head latent attention.

    `indexer` chooses what a token attends to (None: all that it sees). Source: DeepSeek-V2/V3 (arXiv 2405.04434 section
    2.1).
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    indexer: Indexer | None = None

    def __post_init__(self) -> None:
        check_positive(self, "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim", owner="mla: ")
        check_not_negative(self, "qk_rope_head_dim", owner="mla: ")


class MixtureOfExperts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One instance holds the shape of sparse feed-forward layers.

    They have `experts` routed experts of width `expert_ffn`, of which a token uses `top_k`; `shared_ffn` is the summed
    width of the experts that every token uses. The first `first_dense_layers` layers are dense; after them every
    `every`-th layer is sparse. `imbalance` is the load of the fullest expert-parallel rank over the mean (1 =
    balanced). Experts stand in `groups`, of which a token may use experts of `groups_per_token` only (DeepSeek-V3
    limits a token to four nodes in this way, arXiv 2412.19437 section 2.1.2). `bias` says that the matrix products of
    the routed experts add a bias, as those of GPT-OSS do; these biases are left out of parameter counts (they are 0.03
    % there).
    """

    experts: int
    top_k: int
    expert_ffn: int
    shared_ffn: int = 0
    every: int = 1
    first_dense_layers: int = 0
    imbalance: float = 1.0
    groups: int = 1
    groups_per_token: int = 1
    bias: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise SpecError(f"moe: top_k {self.top_k} must lie between 1 and experts {self.experts}")
        check_positive(self, "expert_ffn", "every", "groups", "groups_per_token", owner="moe: ")
        if self.groups_per_token > self.groups:
            raise SpecError(f"moe: groups_per_token {self.groups_per_token} must be at most groups {self.groups}")
        check_not_negative(self, "shared_ffn", "first_dense_layers", owner="moe: ")
        if not self.imbalance >= 1:
            raise SpecError(f"moe: imbalance {self.imbalance} must be at least 1 (the fullest rank over the mean)")


class TransformerModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="transformer"):
    """One model holds the shape of a transformer: a decoder, or with `causal` false an encoder of the same kind of
    layers.

    Widths and counts are in elements. `ffn` is the width of a dense feed-forward layer, `gated` whether it has a gate
    matrix (SwiGLU, GeGLU). The attention of `sliding_window_layers` layers (None: of all) reaches back `sliding_window`
    tokens. `kv_heads` < `heads` is grouped-query attention. `qk_norm` says that queries and keys pass a norm. `mla`,
    when set, replaces the plain projections. `trainable_fraction` < 1 says that the rest of the parameters is frozen;
    `frozen_bits` is how many bits a frozen parameter of the layers takes in memory (4 or 8 with quantisation; QLoRA,
    arXiv 2305.14314). `adapters` are the matrices that have low-rank adapters beside them (None: by the rule of
    `spec.models.adapters`), and `adapter_dropout` is the dropout of their inputs.

    `blocks`, when set, are the layers where they are not alike, each with its own parameters; the plain fields then
    describe equal layers that together hold the same widths, and `layers` is the number of those. `parts` hold what
    lies beside the layers (vision towers, per-layer embeddings). `embedding_width` is the width of the token embedding
    where it is not `hidden`. `longest_seq_len` is the longest sequence that the model is made for. It is a limit where
    the model has a table of `learned_positions`, whose number of rows stands for it where it is not stated; else it is
    a remark. `outputs` is the number of columns of the head that each token passes where it does not predict tokens (0
    without such a head); `vocab` is 0 only for such a model that embeds no tokens. `input_tokens` is the number of
    tokens that each image or sound becomes where the config fixes it: those of the sequence, or of one input of its
    encoder or tower. `written_gelu` says that plain modules compute the GELU of layers without a gate by the operations
    of its formula (`gelu_new` of transformers), not by one kernel. Layers that only predict further tokens
    (`mtp_layers`) are trained and priced, but are in no parameter count; `mtp_parameters` has theirs. `notes` say what
    a reader of the counts should know.

    Raises `SpecError` naming the fields when the shape is impossible.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool = True
    tied_embeddings: bool = False
    learned_positions: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False
    dropout: float = 0.0
    sliding_window: int | None = None
    sliding_window_layers: int | None = None
    mla: MultiLatentAttention | None = None
    moe: MixtureOfExperts | None = None
    mtp_layers: int = 0
    trainable_fraction: float = 1.0
    frozen_bits: int = 16
    adapters: Adapters | None = None
    adapter_dropout: float = 0.0
    source: str = "explicit fields"
    blocks: tuple[Block, ...] = ()
    parts: tuple[ModelPart, ...] = ()
    embedding_width: int | None = None
    causal: bool = True
    longest_seq_len: int | None = None
    outputs: int | None = None
    input_tokens: int | None = None
    written_gelu: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = f"model {self.name}: "
        check_positive(self, "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", owner=owner)
        check_positive(self, "sliding_window", "embedding_width", "longest_seq_len", "input_tokens", owner=owner)
        if self.outputs is None:
            check_positive(self, "vocab", owner=owner)
        check_not_negative(self, "vocab", "outputs", owner=owner)
        check_at_most(self, MOST_LAYERS, "layers", "mtp_layers", owner=owner)
        check_at_most(self, MOST_WIDTH, "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", owner=owner)
        check_at_most(self, MOST_WIDTH, "outputs", "input_tokens", owner=owner)
        check_not_negative(self, "learned_positions", "mtp_layers", owner=owner)
        for field in ("dropout", "adapter_dropout"):
            if not 0 <= (share := getattr(self, field)) < 1:
                raise SpecError(f"{owner}{field} is {share}, expected 0 or more and below 1")
        if self.heads % self.kv_heads:
            raise SpecError(f"{owner}heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        windowed = self.sliding_window_layers
        if windowed is not None and not 0 <= windowed <= self.layers:
            raise SpecError(f"{owner}sliding_window_layers is {windowed}, expected 0 to layers {self.layers}")
        if windowed and self.sliding_window is None:
            raise SpecError(f"{owner}sliding_window_layers is {windowed}, expected sliding_window beside it")
        if self.moe is not None and self.moe_layers < 1:
            raise SpecError(
                f"{owner}moe has no sparse layer: first_dense_layers {self.moe.first_dense_layers} and every "
                f"{self.moe.every} of layers {self.layers}"
            )
        if not 0 < self.trainable_fraction <= 1:
            raise SpecError(f"{owner}trainable_fraction is {self.trainable_fraction}, expected above 0 and at most 1")
        if self.frozen_bits not in FROZEN_BITS:
            listed = ", ".join(map(str, FROZEN_BITS))
            raise SpecError(f"{owner}frozen_bits is {self.frozen_bits}, expected one of {listed}")
        if self.frozen_bits < max(FROZEN_BITS) and self.trainable_fraction == 1:
            raise SpecError(
                f"{owner}frozen_bits {self.frozen_bits} needs frozen parameters; state trainable_fraction below 1, "
                "such as 0.005 for low-rank adapters"
            )
        if self.adapters not in (None, "none") and self.trainable_fraction == 1:
            raise SpecError(
                f"{owner}adapters {self.adapters} needs frozen parameters; state trainable_fraction below 1, "
                "such as 0.005"
            )

    @property
    def adapted(self) -> Adapters:
        """Return the matrices that have adapters, as stated or by the rule."""
        return self.adapters or usual_adapters(self.trainable_fraction)

    @property
    def made_for_seq_len(self) -> int | None:
        """Return the length in tokens of the longest sequence that the model is made for, None where it is
        not stated.
        """
        return self.longest_seq_len or self.learned_positions or None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return what a reader of the counts should know: the notes, and which parameters are in no count."""
        if not self.mtp_layers:
            return self.notes
        more = f"{count(self.mtp_parameters)} parameters more in {plural(self.mtp_layers, 'layer')}"
        that = verb(self.mtp_layers, "that only predicts", "that only predict")
        return (*self.notes, f"{more} {that} further tokens: priced in the step, in no parameter count")

    @property
    def is_validated_kind(self) -> bool:
        """Return whether steps of such a model were measured: its layers are equal, with attention, and little lies
        beside them.
        """
        beside = sum(part.parameters for part in self.parts)
        return not self.blocks and beside <= LITTLE_BESIDE * self.parameters

    @property
    def has_encoder(self) -> bool:
        """Return whether some layers work on an input of their own, whose length the time of a step needs."""
        return any(block.of_input for block in self.blocks)

    @property
    def has_towers(self) -> bool:
        """Return whether the model has a tower beside its layers, whose time needs the size of an input."""
        return any(part.layers or part.of_input for part in self.parts)

    @property
    def moe_layers(self) -> int:
        """Return the number of sparse layers."""
        if self.moe is None:
            return 0
        return max(0, self.layers - self.moe.first_dense_layers) // self.moe.every

    @property
    def qk_head_dim(self) -> int:
        """Return the width of a query/key head, in elements."""
        return self.mla.qk_nope_head_dim + self.mla.qk_rope_head_dim if self.mla else self.head_dim

    @property
    def v_head_dim(self) -> int:
        """Return the width of a value head, in elements."""
        return self.mla.v_head_dim if self.mla else self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Return the number of parameters of the attention projections of one layer.

        Where layers differ, it is the mean over the layers of the parameters that mix tokens.
        """
        if self.blocks:
            mixing = sum(block.layers * sum(mixer.parameters for mixer in block.mixers) for block in self.blocks)
            return mixing // self.layers
        h = self.hidden
        if self.mla is None:
            q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
            bias = q + 2 * kv if self.qkv_bias else 0
            return h * (q + 2 * kv) + q * h + bias
        m = self.mla
        q_out = self.heads * self.qk_head_dim
        q = h * m.q_lora_rank + m.q_lora_rank * q_out if m.q_lora_rank else h * q_out
        kv = h * (m.kv_lora_rank + m.qk_rope_head_dim)
        kv += m.kv_lora_rank * self.heads * (m.qk_nope_head_dim + m.v_head_dim)
        chosen = m.indexer.parameters(h, m.q_lora_rank) if m.indexer else 0
        return q + kv + self.heads * m.v_head_dim * h + chosen

    def ffn_parameters(self, width: int) -> int:
        """Return the number of parameters of one feed-forward part of the given width."""
        return (3 if self.gated else 2) * self.hidden * width

    @property
    def expert_parameters(self) -> int:
        """Return the number of parameters of all routed experts of the model."""
        return self.moe_layers * self.moe.experts * self.ffn_parameters(self.moe.expert_ffn) if self.moe else 0

    @property
    def table_width(self) -> int:
        """Return the width of the token embedding, and of a head over the vocabulary."""
        return self.embedding_width or self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Return the number of parameters of the input embedding and of learned positions.

        Encoders like BERT add positions to the embedding before it is projected to the width of the layers, decoders
        like OPT after that.
        """
        return self.vocab * self.table_width + self.learned_positions * (
            self.hidden if self.causal else self.table_width
        )

    @property
    def head_parameters(self) -> int:
        """Return the number of parameters of an untied output head, or 0 where the head is tied to the embedding."""
        if self.outputs is not None:
            return self.outputs * self.hidden
        return 0 if self.tied_embeddings else self.vocab * self.table_width

    @property
    def layer_parameters(self) -> int:
        """Return the number of parameters of all layers."""
        if self.blocks:
            return sum(block.layers * block.parameters for block in self.blocks)
        dense = self.layers * (self.attention_parameters + 2 * self.hidden)
        dense += (self.layers - self.moe_layers) * self.ffn_parameters(self.ffn)
        if self.moe:
            per_layer = self.ffn_parameters(self.moe.shared_ffn) + self.hidden * self.moe.experts
            dense += self.moe_layers * per_layer
        return dense + self.expert_parameters

    @property
    def parameters(self) -> int:
        """Return the number of all parameters, without those of layers that only predict further tokens."""
        around = self.embedding_parameters + self.head_parameters + self.hidden
        return self.layer_parameters + around + sum(part.parameters for part in self.parts)

    @property
    def active_parameters(self) -> int:
        """Return how many parameters one token passes through, where all embeddings and parts are counted."""
        if self.blocks:
            idle = sum(block.layers * (block.parameters - block.active_parameters) for block in self.blocks)
            return self.parameters - idle
        if self.moe is None:
            return self.parameters
        idle = self.moe.experts - self.moe.top_k
        return self.parameters - self.moe_layers * idle * self.ffn_parameters(self.moe.expert_ffn)

    @property
    def mtp_parameters(self) -> int:
        """Return the number of parameters of the layers that only predict further tokens."""
        return self.mtp_layers * self._mtp_block_parameters

    @property
    def _mtp_block_parameters(self) -> int:
        """Return the number of parameters of one layer that predicts a further token.

        It is a layer like the last one with a projection from 2h to h before it.
        """
        around = 2 * self.hidden * self.hidden
        if self.blocks:
            return self.blocks[-1].parameters + around
        block = self.attention_parameters + 2 * self.hidden + around
        if self.moe is None:
            return block + self.ffn_parameters(self.ffn)
        experts = self.moe.experts * self.ffn_parameters(self.moe.expert_ffn)
        return block + experts + self.ffn_parameters(self.moe.shared_ffn) + self.hidden * self.moe.experts


class CountedModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="counted"):
    """One model holds what was counted in any module, without its shape.

    Such a model has no tensor- or pipeline-parallel prediction. FLOPs and bytes are per sample of one forward pass.
    `activation_bytes_per_sample` are the bytes of all results, which are moved; `saved_bytes_per_sample` are those that
    autograd keeps for the backward pass. `backward_flops_per_sample` are the FLOPs of that pass, of which frozen parts
    need less than twice those of the forward pass. Both are None in older counts.
    `autocast_activation_bytes_per_sample` and `autocast_saved_bytes_per_sample` are the two sizes as autocast to 16 bit
    makes them, of which a plan in 16 bit or less takes those (None in older counts, and where the module itself has no
    parameter of 32 bit). `passes` and `autocast_passes` say what both passes move and compute, in the same two types
    (None in older counts, and where the module cannot be run backward without data). `kernels` is the number of
    operations that a forward pass launches. The counts hold for the input that was counted: `samples` samples of
    `seq_len` tokens each (None where the input has no sequence). `target` and `inputs` are the arguments that
    `carbon-plugin count` was given, so that another length can be counted anew.

    Raises `SpecError` naming the field when a count is impossible.
    """

    name: str
    parameters: int
    trainable_parameters: int
    forward_flops_per_sample: float
    activation_bytes_per_sample: float
    kernels: int
    source: str
    seq_len: int | None = None
    samples: int | None = None
    target: str | None = None
    inputs: tuple[str, ...] = ()
    saved_bytes_per_sample: float | None = None
    backward_flops_per_sample: float | None = None
    autocast_activation_bytes_per_sample: float | None = None
    autocast_saved_bytes_per_sample: float | None = None
    passes: CountedPasses | None = None
    autocast_passes: CountedPasses | None = None

    def __post_init__(self) -> None:
        owner = f"model {self.name}: "
        check_positive(self, "seq_len", "samples", owner=owner)
        check_not_negative(self, "trainable_parameters", "forward_flops_per_sample", owner=owner)
        check_not_negative(self, "backward_flops_per_sample", owner=owner)
        check_not_negative(self, "activation_bytes_per_sample", "saved_bytes_per_sample", "kernels", owner=owner)
        narrow = ("autocast_activation_bytes_per_sample", "autocast_saved_bytes_per_sample")
        check_not_negative(self, *narrow, owner=owner)
        if self.trainable_parameters > self.parameters:
            raise SpecError(
                f"{owner}trainable_parameters is {self.trainable_parameters}, "
                f"expected at most parameters {self.parameters}"
            )
