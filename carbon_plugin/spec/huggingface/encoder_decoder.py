"""Read models with an encoder and a decoder (T5, BART) from their `config.json`.

The encoder layers work on the input, and the decoder layers also attend to the output of the encoder. Sources: the
classes of transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.keys import ConfigKeys
from carbon_plugin.spec.models.blocks import Block, FeedForward, Mixer, ModelPart
from carbon_plugin.spec.models.model import TransformerModel

T5 = ("t5", "mt5", "umt5")
BART = ("bart", "mbart")
FAMILIES = (*T5, *BART)
NOTE = "an encoder with a decoder: training.input_len is the length of the encoder's input, seq_len that of the decoder"
BUCKETS = 32
"""The number of relative positions of T5 by default; the encoder has one table of them and the decoder another."""
POSITION_OFFSET = 2
"""The number of rows of BART's position tables before the first position."""


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


def is_encoder_decoder(model_type: str) -> bool:
    """Return whether this module reads the family."""
    return model_type in FAMILIES


def encoder_decoder_model(config: Mapping[str, Any], name: str, origin: str) -> TransformerModel:
    """Return the model of a config of one of `FAMILIES`. Raises `SpecError` naming a key that is missing or
    unexpected.
    """
    keys = ConfigKeys(config, origin)
    return _t5(keys, name) if keys.text("model_type") in T5 else _bart(keys, name)


def _t5(keys: ConfigKeys, name: str) -> TransformerModel:
    """Return the model of a T5 config (Raffel et al. 2020, arXiv 1910.10683 section 2.1).

    It has no biases, and the width of its heads does not follow from the hidden width.
    """
    hidden, heads, dim, width = (keys.integer(key) for key in ("d_model", "num_heads", "d_kv", "d_ff"))
    layers = keys.integer("num_layers")
    decoder = keys.optional("num_decoder_layers") or layers
    kind = keys.text("feed_forward_proj") or "relu"
    if kind not in ("relu", "gelu", "gated-gelu", "gated-silu", "gated-relu"):
        raise SpecError(f"{keys.origin}: feed_forward_proj {kind!r} is not known here, expected relu or gated-gelu")
    gated = kind.startswith("gated")
    buckets = (keys.optional("relative_attention_num_buckets") or BUCKETS) * heads
    tables = buckets * (layers + decoder if keys.text("model_type") == "umt5" else 2)
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
        tied_embeddings=keys.flag("tie_word_embeddings", default=keys.text("model_type") != "umt5"),
    )
    relative = ModelPart(name="relative positions", parameters=tables)
    return _model(keys, name, sizes, (relative, ModelPart(name="norm of the encoder", parameters=hidden)))


def _bart(keys: ConfigKeys, name: str) -> TransformerModel:
    """Return the model of a BART config (Lewis et al. 2020, arXiv 1910.13461 section 2.1).

    It has biases everywhere, and learned positions in both the encoder and the decoder.
    """
    hidden, heads, width = (keys.integer(key) for key in ("d_model", "encoder_attention_heads", "encoder_ffn_dim"))
    for key, value in (("decoder_attention_heads", heads), ("decoder_ffn_dim", width)):
        if (stated := keys.optional(key)) not in (None, value):
            raise SpecError(f"{keys.origin}: {key} is {stated}, expected {value} as in the encoder")
    if hidden % heads:
        raise SpecError(f"{keys.origin}: d_model {hidden} is not a multiple of encoder_attention_heads {heads}")
    rows = keys.integer("max_position_embeddings") + POSITION_OFFSET
    sizes = _Sizes(
        encoder_layers=keys.integer("encoder_layers"),
        decoder_layers=keys.integer("decoder_layers"),
        hidden=hidden,
        heads=heads,
        head_dim=hidden // heads,
        ffn=width,
        gated=False,
        attention_parameters=4 * hidden * (hidden + 1),
        ffn_parameters=2 * hidden * width + hidden + width,
        norm_parameters=2 * hidden,
        tied_embeddings=True,
    )
    positions = ModelPart(name="positions of encoder and decoder", parameters=2 * rows * hidden)
    norms = ModelPart(name="norms of embeddings and ends", parameters=7 * hidden)
    return _model(keys, name, sizes, (positions, norms))


def _model(keys: ConfigKeys, name: str, sizes: _Sizes, parts: tuple[ModelPart, ...]) -> TransformerModel:
    """Return the model with encoder and decoder as blocks, and with `parts` beside its layers."""

    def mixer(name: str, *, of_input: bool = False) -> Mixer:
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

    feed_forward = FeedForward(
        width=sizes.ffn,
        parameters=sizes.ffn_parameters,
        active_parameters=sizes.ffn_parameters,
        gated=sizes.gated,
    )
    own, crossing = mixer("attention"), mixer("cross-attention", of_input=True)
    norm = sizes.norm_parameters
    blocks = (
        Block(
            layers=sizes.encoder_layers,
            mixers=(own,),
            feed_forward=feed_forward,
            other_parameters=2 * norm,
            of_input=True,
        ),
        Block(
            layers=sizes.decoder_layers,
            mixers=(own, crossing),
            feed_forward=feed_forward,
            other_parameters=3 * norm,
        ),
    )
    return TransformerModel(
        name=name,
        layers=sizes.encoder_layers + sizes.decoder_layers,
        hidden=sizes.hidden,
        heads=sizes.heads,
        kv_heads=sizes.heads,
        head_dim=sizes.head_dim,
        ffn=sizes.ffn,
        vocab=keys.integer("vocab_size"),
        gated=sizes.gated,
        tied_embeddings=sizes.tied_embeddings,
        source=f"{keys.origin} ({keys.text('model_type')})",
        blocks=blocks,
        parts=parts,
        notes=(NOTE,),
    )
