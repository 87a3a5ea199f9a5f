"""Read models with an encoder and a decoder (T5, BART) from their `config.json`.

The encoder layers work on the input, and the decoder layers also attend to the output of the encoder. Sources: the
classes of transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.blocks import Block, FeedForward, Mixer, ModelPart
from carbon_plugin.spec.huggingface.keys import ConfigKeys
from carbon_plugin.spec.model import TransformerModel

T5 = ("t5", "mt5", "umt5")
BART = ("bart", "mbart")
FAMILIES = (*T5, *BART)
NOTE = "an encoder with a decoder: training.input_len is the length of the encoder's input, seq_len that of the decoder"
BUCKETS = 32
"""The number of relative positions of T5 by default; the encoder has one table of them and the decoder another."""
POSITION_OFFSET = 2
"""The number of rows of BART's position tables before the first position."""


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
    attention = 4 * hidden * heads * dim
    return _model(
        keys,
        name,
        hidden=hidden,
        heads=heads,
        dim=dim,
        width=width,
        gated=gated,
        counts=(layers, decoder),
        attention=attention,
        feed=(3 if gated else 2) * hidden * width,
        norm=hidden,
        tied=keys.flag("tie_word_embeddings", default=keys.text("model_type") != "umt5"),
        parts=(
            ModelPart(name="relative positions", parameters=tables),
            ModelPart(name="norm of the encoder", parameters=hidden),
        ),
    )


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
    return _model(
        keys,
        name,
        hidden=hidden,
        heads=heads,
        dim=hidden // heads,
        width=width,
        gated=False,
        counts=(keys.integer("encoder_layers"), keys.integer("decoder_layers")),
        attention=4 * hidden * (hidden + 1),
        feed=2 * hidden * width + hidden + width,
        norm=2 * hidden,
        tied=True,
        parts=(
            ModelPart(name="positions of encoder and decoder", parameters=2 * rows * hidden),
            ModelPart(name="norms of embeddings and ends", parameters=7 * hidden),
        ),
    )


def _model(
    keys: ConfigKeys,
    name: str,
    *,
    hidden: int,
    heads: int,
    dim: int,
    width: int,
    gated: bool,
    counts: tuple[int, int],
    attention: int,
    feed: int,
    norm: int,
    tied: bool,
    parts: tuple[ModelPart, ...],
) -> TransformerModel:
    """Return the model with encoder and decoder as blocks.

    `counts` are the numbers of layers of encoder and decoder; `attention`, `feed` and `norm` are the parameters of one
    attention, feed-forward part and norm.
    """

    def mixer(name: str, *, of_input: bool = False) -> Mixer:
        return Mixer(
            kind="attention",
            name=name,
            parameters=attention,
            heads=heads,
            kv_heads=heads,
            qk_dim=dim,
            v_dim=dim,
            of_input=of_input,
        )

    feed_forward = FeedForward(width=width, parameters=feed, active_parameters=feed, gated=gated)
    own, crossing = mixer("attention"), mixer("cross-attention", of_input=True)
    encoder, decoder = counts
    blocks = (
        Block(layers=encoder, mixers=(own,), feed_forward=feed_forward, other_parameters=2 * norm, of_input=True),
        Block(layers=decoder, mixers=(own, crossing), feed_forward=feed_forward, other_parameters=3 * norm),
    )
    return TransformerModel(
        name=name,
        layers=encoder + decoder,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=dim,
        ffn=width,
        vocab=keys.integer("vocab_size"),
        gated=gated,
        tied_embeddings=tied,
        source=f"{keys.origin} ({keys.text('model_type')})",
        blocks=blocks,
        parts=parts,
        notes=(NOTE,),
    )
