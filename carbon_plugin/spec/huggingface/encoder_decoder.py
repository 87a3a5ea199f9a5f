"""Read models with an encoder and a decoder (T5, BART, Whisper and their relatives) from their `config.json`.

The encoder layers work on the input, and the decoder layers also attend to the output of the encoder. Sources: the
classes of transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.class_defaults import defaults_note, left_out
from carbon_plugin.spec.huggingface.heads import Head, head_of, whole_head
from carbon_plugin.spec.huggingface.keys import ConfigKeys, shared_out_heads
from carbon_plugin.spec.models.blocks import Block, FeedForward, Mixer, ModelPart
from carbon_plugin.spec.models.model import MixtureOfExperts, TransformerModel

T5 = ("t5", "mt5", "umt5", "switch_transformers")
POSITIONS: dict[str, int | None] = {
    "bart": 2,
    "mbart": 2,
    "mvp": 2,
    "plbart": 2,
    "blenderbot": 0,
    "blenderbot-small": 0,
    "pegasus": 0,
    "marian": 0,
    "m2m_100": None,
    "nllb-moe": None,
    "whisper": 0,
}
"""The rows of the position tables before the first position, by the families that are built like BART. None stands for
positions that are computed; those of Pegasus, Marian and Whisper's encoder are parameters that are not trained.
"""
FAMILIES = (*T5, *POSITIONS)
NOTE = "an encoder with a decoder: training.input_len is the length of the encoder's input, seq_len that of the decoder"
ONE_SIDED = {"ForCausalLM": ("decoder", "encoder"), "ForAudioClassification": ("encoder", "decoder")}
"""The ends of the names of classes that hold one side of a model and not the other, and that are not read here."""
ALONE = "the encoder of a model with a decoder, alone: it sees the whole sequence"
AUDIO_KERNEL, FRAMES_OF_A_TOKEN = 3, 2
"""The width of the two convolutions before a Whisper encoder, and the frames of sound that the second one makes a token
of (arXiv 2212.04356 section 2.2).
"""
NLLB_TOP_K, SWITCH_TOP_K = 2, 1
"""The experts that a token uses (`NllbMoeTop2Router` and `SwitchTransformersTop1Router`). No key states them."""


class _Experts(Struct, frozen=True, kw_only=True):
    """One instance holds the experts of a model, and the numbers of encoder and decoder layers that have them."""

    count: int
    top_k: int
    encoder_layers: int
    decoder_layers: int


class _Sizes(Struct, frozen=True, kw_only=True):
    """One instance holds the numbers of a model that follow from its config.

    The parameters are those of one attention, one feed-forward part and one norm.
    """

    encoder_layers: int
    decoder_layers: int
    hidden: int
    heads: int
    head_dim: int
    ffn: int
    gated: bool
    attention_parameters: int
    ffn_parameters: int
    norm_parameters: int
    tied_embeddings: bool
    experts: _Experts | None = None


def is_encoder_decoder(model_type: str) -> bool:
    """Return whether this module reads the family."""
    return model_type in FAMILIES


def encoder_decoder_model(config: Mapping[str, Any], name: str, origin: str) -> TransformerModel:
    """Return the model of a config of one of `FAMILIES`. Raises `SpecError` naming a key that is missing or
    unexpected, and a class that holds one side alone, but for the encoder of T5.
    """
    stated = ConfigKeys(config, origin)
    filled = _filled(stated)
    keys, head = stated.with_changes(filled), head_of(stated)
    for end, (side, other) in ONE_SIDED.items():
        if head.name.endswith(end):
            raise SpecError(
                f"{origin}: {head.name} is the {side} of {keys.text('model_type')} without its {other}, which is not "
                "modelled; count it from the code that builds it (`carbon-plugin count`)"
            )
    model = _t5(keys, name, head) if keys.text("model_type") in T5 else _bart(keys, name, head)
    said = defaults_note(keys.text("model_type"), filled)
    return msgspec.structs.replace(model, notes=(*model.notes, said)) if said else model


def _filled(keys: ConfigKeys) -> dict[str, Any]:
    """Return the class defaults of what a config leaves out. A decoder of T5 has as many layers as its encoder then."""
    kind = keys.text("model_type")
    filled = left_out(kind, keys.config)
    layers = keys.optional("num_layers") if kind in T5 else None
    if layers and keys.optional("num_decoder_layers") is None:
        filled.setdefault("num_decoder_layers", layers)
    return filled


def _t5(keys: ConfigKeys, name: str, head: Head) -> TransformerModel:
    """Return the model of a T5 config (Raffel et al. 2020, arXiv 1910.10683 section 2.1).

    It has no biases, and the width of its heads does not follow from the hidden width.
    """
    hidden, heads, dim, width = (keys.integer(key) for key in ("d_model", "num_heads", "d_kv", "d_ff"))
    layers, family = keys.integer("num_layers"), keys.text("model_type")
    decoder, kind = keys.integer("num_decoder_layers"), keys.text("feed_forward_proj") or "relu"
    if kind not in ("relu", "gelu", "gated-gelu", "gated-silu", "gated-relu"):
        raise SpecError(f"{keys.origin}: feed_forward_proj {kind!r} is not known here, expected relu or gated-gelu")
    gated = keys.flag("is_gated_act", default=kind.startswith("gated"))
    buckets = keys.integer("relative_attention_num_buckets") * heads
    tables = buckets * (layers + decoder if family == "umt5" else 2)
    sizes = _Sizes(
        encoder_layers=layers,
        decoder_layers=decoder,
        hidden=hidden,
        heads=heads,
        head_dim=dim,
        ffn=width,
        gated=gated,
        attention_parameters=4 * hidden * heads * dim,
        ffn_parameters=(3 if gated else 2) * hidden * width,
        norm_parameters=hidden,
        tied_embeddings=keys.flag("tie_word_embeddings", default=True),
        experts=_switch_experts(keys, layers, decoder) if family == "switch_transformers" else None,
    )
    relative = ModelPart(name="relative positions", parameters=tables)
    return _model(keys, name, sizes, (relative, ModelPart(name="norm of the encoder", parameters=hidden)), head)


def _switch_experts(keys: ConfigKeys, layers: int, decoder: int) -> _Experts:
    """Return the experts of a Switch Transformer, whose sparse layers follow from how many of them are stated."""

    def sparse(count: int, stated: str) -> int:
        of = keys.optional(stated) or 0
        step = count // of if of else count
        return sum(step == 1 or layer % step == 1 for layer in range(count))

    return _Experts(
        count=keys.integer("num_experts"),
        top_k=SWITCH_TOP_K,
        encoder_layers=sparse(layers, "num_sparse_encoder_layers"),
        decoder_layers=sparse(decoder, "num_sparse_decoder_layers"),
    )


def _bart(keys: ConfigKeys, name: str, head: Head) -> TransformerModel:
    """Return the model of a BART config (Lewis et al. 2020, arXiv 1910.13461 section 2.1) or of a relative's.

    It has biases everywhere, and positions in both the encoder and the decoder.
    """
    if keys.flag("use_prompt", default=False):
        raise SpecError(
            f"{keys.origin}: use_prompt adds learned prompts to every attention of {keys.text('model_type')}, which is "
            "not modelled; count it from the code that builds it (`carbon-plugin count`)"
        )
    hidden, width = keys.integer("d_model"), keys.integer("encoder_ffn_dim")
    heads = shared_out_heads(keys, ("d_model",), ("encoder_attention_heads",))
    for key, value in (("decoder_attention_heads", heads), ("decoder_ffn_dim", width)):
        if (stated := keys.integer(key)) != value:
            raise SpecError(f"{keys.origin}: {key} is {stated}, expected {value} as in the encoder")
    layers, decoder = keys.integer("encoder_layers"), keys.integer("decoder_layers")
    biases = 3 if keys.text("model_type") == "whisper" else 4  # Whisper's keys have none
    sizes = _Sizes(
        encoder_layers=layers,
        decoder_layers=decoder,
        hidden=hidden,
        heads=heads,
        head_dim=hidden // heads,
        ffn=width,
        gated=False,
        attention_parameters=4 * hidden * hidden + biases * hidden,
        ffn_parameters=2 * hidden * width + hidden + width,
        norm_parameters=2 * hidden,
        tied_embeddings=keys.flag("tie_word_embeddings", default=True),
        experts=_nllb_experts(keys, layers, decoder) if keys.text("model_type") == "nllb-moe" else None,
    )
    norms = ModelPart(name="norms of embeddings and ends", parameters=7 * hidden)
    return _model(keys, name, sizes, (*_bart_parts(keys, hidden), norms), head)


def _nllb_experts(keys: ConfigKeys, layers: int, decoder: int) -> _Experts:
    def sparse(count: int, stated: str) -> int:
        step = keys.optional(stated) or 0
        return count // step if step else 0

    return _Experts(
        count=keys.integer("num_experts"),
        top_k=NLLB_TOP_K,
        encoder_layers=sparse(layers, "encoder_sparse_step"),
        decoder_layers=sparse(decoder, "decoder_sparse_step"),
    )


def _bart_parts(keys: ConfigKeys, hidden: int) -> list[ModelPart]:
    """Return the positions, what a Whisper encoder hears with, and a second embedding where there is one."""
    kind = keys.text("model_type")
    before = POSITIONS[kind]
    if kind == "whisper":
        mels, wide = AUDIO_KERNEL * keys.integer("num_mel_bins") * hidden, AUDIO_KERNEL * hidden * hidden
        rows = keys.integer("max_source_positions") + keys.integer("max_target_positions")
        hearing = ModelPart(
            name="convolutions of the sound",
            parameters=mels + wide,
            products=FRAMES_OF_A_TOKEN * mels + wide,
            of_input=True,
        )
        return [hearing, ModelPart(name="positions of encoder and decoder", parameters=rows * hidden)]
    found = []
    if not keys.flag("tie_word_embeddings", default=True):  # then `shared` stands beside a table of each side
        tables = 2 * keys.integer("vocab_size") * hidden
        found.append(ModelPart(name="embeddings of encoder and decoder", parameters=tables))
    if before is not None:
        rows = keys.integer("max_position_embeddings") + before
        found.append(ModelPart(name="positions of encoder and decoder", parameters=2 * rows * hidden))
    if kind == "marian" and not keys.flag("share_encoder_decoder_embeddings", default=True):
        rows = keys.optional("decoder_vocab_size") or keys.integer("vocab_size")
        found.append(ModelPart(name="embedding of the decoder", parameters=rows * hidden))
    return found


def _model(keys: ConfigKeys, name: str, sizes: _Sizes, parts: tuple[ModelPart, ...], head: Head) -> TransformerModel:
    """Return the model with encoder and decoder as blocks, and with `parts` beside its layers."""
    own, crossing = _attention(sizes, "attention"), _attention(sizes, "cross-attention", of_input=True)
    experts, norm = sizes.experts, sizes.norm_parameters
    encoder = Block(layers=sizes.encoder_layers, mixers=(own,), other_parameters=2 * norm, of_input=True)
    decoder = Block(layers=sizes.decoder_layers, mixers=(own, crossing), other_parameters=3 * norm)
    blocks = (
        *_with_feeds(encoder, sizes, experts.encoder_layers if experts else 0),
        *_with_feeds(decoder, sizes, experts.decoder_layers if experts else 0),
    )
    layers, sparse = sizes.encoder_layers + sizes.decoder_layers, 0
    if experts:
        sparse = experts.encoder_layers + experts.decoder_layers
    sound = keys.text("model_type") == "whisper"
    model = TransformerModel(
        name=name,
        layers=layers,
        hidden=sizes.hidden,
        heads=sizes.heads,
        kv_heads=sizes.heads,
        head_dim=sizes.head_dim,
        ffn=sizes.ffn,
        vocab=keys.integer("vocab_size"),
        gated=sizes.gated,
        tied_embeddings=sizes.tied_embeddings,
        moe=_mixture(experts, sizes, layers - sparse) if experts and sparse else None,
        source=f"{keys.origin} ({keys.text('model_type')})",
        blocks=blocks,
        parts=(*parts, *whole_head(head, sizes.hidden)),
        outputs=head.outputs,
        input_tokens=keys.integer("max_source_positions") if sound else None,
        notes=tuple(note for note in (NOTE, head.note) if note),
    )
    alone = head.name.endswith(("EncoderModel", "T5ForTokenClassification"))
    return _encoder_alone(model, sizes, parts, head) if alone else model


def _encoder_alone(
    model: TransformerModel, sizes: _Sizes, parts: tuple[ModelPart, ...], head: Head
) -> TransformerModel:
    """Return the encoder of a model without its decoder, with its half of the positions. The sequence is its input."""
    blocks = tuple(msgspec.structs.replace(block, of_input=False) for block in model.blocks if block.of_input)
    halves = tuple(msgspec.structs.replace(part, parameters=part.parameters // 2) for part in parts)
    return msgspec.structs.replace(
        model,
        layers=sizes.encoder_layers,
        blocks=blocks,
        parts=halves,
        causal=False,
        notes=(ALONE, head.note),
    )


def _attention(sizes: _Sizes, name: str, *, of_input: bool = False) -> Mixer:
    return Mixer(
        kind="attention",
        name=name,
        parameters=sizes.attention_parameters,
        heads=sizes.heads,
        kv_heads=sizes.heads,
        qk_dim=sizes.head_dim,
        v_dim=sizes.head_dim,
        of_input=of_input,
    )


def _with_feeds(block: Block, sizes: _Sizes, sparse: int) -> list[Block]:
    """Return the layers of a block with their feed-forward parts, of which `sparse` layers have experts."""
    width, count, gated = sizes.ffn, sizes.ffn_parameters, sizes.gated
    dense = FeedForward(width=width, parameters=count, active_parameters=count, gated=gated)
    found = []
    if block.layers > sparse:
        found.append(msgspec.structs.replace(block, layers=block.layers - sparse, feed_forward=dense))
    if sparse and (experts := sizes.experts):
        router = sizes.hidden * experts.count
        routed = FeedForward(
            width=width,
            parameters=experts.count * count + router,
            active_parameters=experts.top_k * count + router,
            gated=gated,
            experts=experts.count,
            top_k=experts.top_k,
        )
        found.append(msgspec.structs.replace(block, layers=sparse, feed_forward=routed))
    return found


def _mixture(experts: _Experts, sizes: _Sizes, dense_layers: int) -> MixtureOfExperts:
    return MixtureOfExperts(
        experts=experts.count, top_k=experts.top_k, expert_ffn=sizes.ffn, first_dense_layers=dense_layers
    )
