"""Read the shape of a model from a Hugging Face `config.json`, without transformers.

One key means different things in different families, and much of a model is written only in the code of its family.
`families` holds what that code says; `layers` reads what each layer is; `mixers`, `feeds` and `parts` read its parts.
This module reads the layers one by one and puts them together. It refuses a part that it cannot count, by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.class_defaults import check_complete, defaults_note, left_out
from carbon_plugin.spec.huggingface.disentangled import FAMILIES as DISENTANGLED
from carbon_plugin.spec.huggingface.disentangled import NOTE as DISENTANGLED_NOTE
from carbon_plugin.spec.huggingface.encoder_decoder import encoder_decoder_model, is_encoder_decoder
from carbon_plugin.spec.huggingface.equivalent import equivalent_fields, hybrid_note, is_hybrid
from carbon_plugin.spec.huggingface.families import (
    Family,
    family_of,
    is_wave_encoder,
    patch_encoder_of,
    text_model_of,
    with_nested_parts,
)
from carbon_plugin.spec.huggingface.feeds import feed_at
from carbon_plugin.spec.huggingface.heads import Head, head_of
from carbon_plugin.spec.huggingface.json_text import read_config
from carbon_plugin.spec.huggingface.keys import HIDDEN, VOCAB, ConfigKeys
from carbon_plugin.spec.huggingface.layers import feeds_of, mixers_of
from carbon_plugin.spec.huggingface.loops import TURNS, TURNS_NOTE, passes_of
from carbon_plugin.spec.huggingface.mixers import is_biased, mixers_at
from carbon_plugin.spec.huggingface.naming import model_named_by
from carbon_plugin.spec.huggingface.nas import nas_blocks
from carbon_plugin.spec.huggingface.parts import parts_note, parts_of, tower_tokens
from carbon_plugin.spec.huggingface.patches import patch_encoder_model
from carbon_plugin.spec.huggingface.positions import learned_positions, longest_seq_len
from carbon_plugin.spec.huggingface.waves import wave_encoder_model
from carbon_plugin.spec.models.blocks import Block
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document

NESTED = ("text_config", "llm_config", "language_config")
"""The keys under which multimodal configs keep their language model."""
DUAL = ("clip", "siglip", "siglip2")
"""The models of a tower of texts and one of images, which are trained to agree."""
DUAL_NOTE = (
    "a tower of texts, whose length is training.seq_len, and one of images; devices exchange the outputs of both for "
    "the loss, which takes no time here"
)
WRITTEN_GELU = ("gelu_new", "gelu_fast")
"""Names of activations that transformers computes by the operations of their formula (`NewGELUActivation` and
`FastGELUActivation` of its activations.py)."""
QK_NORMS = ("use_qk_norm", "qk_layernorm")
"""Keys of a config that say that queries and keys pass a norm."""
PLAIN_TOLERANCE = 0.002
"""Layers count as alike where the plain fields give all their parameters but this share, which biases and norms of
heads take.
"""


def load_hf_config(path: Path, name: str | None = None, *, stated: Mapping[str, Any] | None = None) -> TransformerModel:
    """Return the model of a `config.json`, or of the directory that holds it. Raises `SpecError` that names file and
    key.

    `stated` holds fields of the model that the user gives beside the file.
    """
    file = path / "config.json" if os.path.isdir(path) else path
    config = read_config(file)
    folder = model_named_by(str(file.resolve().parent)) or str(config.get("model_type") or "custom")
    named = model_named_by(str(config.get("_name_or_path") or ""))
    chosen = name or named or (folder if file.name == "config.json" else file.stem)
    return model_from_hf_config(config, chosen, origin=str(file), stated=stated)


def model_from_hf_config(
    config: Mapping[str, Any],
    name: str,
    *,
    origin: str = "config.json",
    stated: Mapping[str, Any] | None = None,
) -> TransformerModel:
    """Return the model whose shape a config describes.

    `config` is the parsed config, `name` the model's name, `origin` what errors call the config, and `stated` holds
    fields of the model that the user gives beside it (`gated` for a family that is not known here). Raises `SpecError`
    naming the key if one is missing, and naming the part if the config has one that is not counted here.
    """
    if not config.get("model_type"):
        raise SpecError(f"{origin}: key model_type is missing, which says what the layers of a model hold")
    kind, whole = str(config["model_type"]), ConfigKeys(config, origin)
    if (other := _model_without_text_stack(kind, whole, config, name)) is not None:
        return other
    text = next((config[key] for key in NESTED if isinstance(config.get(key), Mapping)), config)
    family = family_of(str(text.get("model_type") or text_model_of(kind)))
    written = with_nested_parts(family.name, {**config, **text})
    filled = left_out(family.name, written, nested=text is not config)
    keys = ConfigKeys({**filled, **written}, origin)
    gated = _gate(keys, family, str(config["model_type"]), stated or {})
    check_complete(keys, family, filled)
    window = _window(keys, family)
    blocks = nas_blocks(keys) or _blocks(keys, family, window, gated)
    head = _head(whole, keys)
    parts = parts_of(whole, keys, family, gated, head)
    whole_sequence = family.encoder and not keys.flag("is_decoder", default=False)
    fields: dict[str, Any] = {
        "name": name,
        "hidden": keys.integer(*HIDDEN),
        "vocab": keys.integer(*VOCAB),
        "gated": gated,
        "tied_embeddings": _tied(config, keys, family),
        "learned_positions": learned_positions(keys, family),
        "longest_seq_len": longest_seq_len(keys, family),
        "qkv_bias": is_biased(keys, family),
        "written_gelu": not gated and (keys.text("activation_function") or keys.text("hidden_act")) in WRITTEN_GELU,
        "qk_norm": family.qk_norm or any(keys.flag(key, default=False) for key in QK_NORMS),
        "mtp_layers": keys.optional("num_nextn_predict_layers") or 0,
        "embedding_width": keys.optional("word_embed_proj_dim", "embedding_size", "input_embedding_size"),
        "causal": not whole_sequence,
        "outputs": head.outputs,
        "input_tokens": tower_tokens(whole) if any(part.layers for part in parts) else None,
        "parts": parts,
    }
    if fields["embedding_width"] == fields["hidden"]:
        fields["embedding_width"] = None
    said = (
        defaults_note(family.name, filled),
        "an encoder: its attention sees the whole sequence" if whole_sequence else None,
        TURNS_NOTE if keys.optional(TURNS) else None,
        DUAL_NOTE if kind in DUAL else head.note,
        DISENTANGLED_NOTE if family.name in DISENTANGLED else None,
    )
    return _assembled(fields, blocks, keys, family, [note for note in said if note])


def _model_without_text_stack(
    kind: str, whole: ConfigKeys, config: Mapping[str, Any], name: str
) -> TransformerModel | None:
    """Return the model of a config that is read elsewhere: an encoder with a decoder, of patches or of sound. Return
    None for a stack of layers over text.
    """
    if is_encoder_decoder(kind):
        return encoder_decoder_model(config, name, whole.origin)
    if patch_encoder_of(kind) is not None:
        return patch_encoder_model(whole, name)
    return wave_encoder_model(whole, name) if is_wave_encoder(kind) else None


def _head(whole: ConfigKeys, keys: ConfigKeys) -> Head:
    """Return what the model predicts. A text tower beside one of images gives a point of the space that both share."""
    head = head_of(whole)
    if whole.text("model_type") not in DUAL:
        return head
    if not head.name.endswith("Model") and head.name:
        raise SpecError(
            f"{whole.origin}: {head.name} trains one tower of {whole.text('model_type')}, which is not modelled from "
            "the config of both; give the config of that tower, or count the model (`carbon-plugin count`)"
        )
    space = keys.optional("projection_size") or whole.optional("projection_dim") or keys.integer(*HIDDEN)
    return Head(name=head.name, outputs=0, of_whole=space, pooled=False)


def _assembled(
    fields: dict[str, Any], blocks: tuple[Block, ...], keys: ConfigKeys, family: Family, notes: list[str]
) -> TransformerModel:
    """Return the model by its plain fields alone where these give what its layers hold, else with its blocks."""
    plain = fields | equivalent_fields(blocks, keys)
    source = {"source": f"{keys.origin} ({family.name})"}
    model = decode(Document(plain | source, keys.origin, {}), TransformerModel)
    held = sum(block.layers * block.parameters for block in blocks)
    one_choice = len({mixer.indexer for block in blocks for mixer in block.mixers}) <= 1
    alike = one_choice and not is_hybrid(blocks) and abs(model.layer_parameters - held) <= PLAIN_TOLERANCE * held
    if not alike:
        model = msgspec.structs.replace(model, blocks=blocks)
        if is_hybrid(blocks):
            notes.append(hybrid_note(blocks))
    if said := parts_note(model.parts, model.parameters):
        notes.append(said)
    if not notes:
        return model
    return msgspec.structs.replace(
        model, notes=tuple(notes), source=f"{keys.origin} ({'; '.join([family.name, *notes])})"
    )


def _gate(keys: ConfigKeys, family: Family, whole: str, stated: Mapping[str, Any]) -> bool:
    """Return whether the feed-forward layer has a gate.

    Raises `SpecError` for a model that is not one stack of layers, and for a family whose layers are not known.
    """
    reason = family.refused or family_of(whole).refused
    if reason is None and keys.flag("is_encoder_decoder", default=False):
        reason = "is an encoder with a decoder"
    if reason is None and keys.flag("add_cross_attention", default=False):
        reason = "attends to the output of another model (add_cross_attention)"
    if reason is None and family.name == "doge" and keys.flag("is_moe", default=False):
        reason = "looks experts of one neuron up in a table (is_moe)"
    if reason:
        raise SpecError(
            f"{keys.origin}: model_type {whole or family.name} {reason}, which is not modelled; count it from the code "
            "that builds it (`carbon-plugin count`)"
        )
    if family.gated is not None:
        return family.gated
    if isinstance(stated.get("gated"), bool):
        return bool(stated["gated"])
    own = " (its code comes with the weights: auto_map)" if "auto_map" in keys.config else ""
    raise SpecError(
        f"{keys.origin}: model_type {family.name}{own} is not known here, and a config does not say what its layers "
        "hold; if they are those of a plain transformer, state whether the feed-forward layer has a gate "
        "(model: {config: FILE, gated: true}), else count the model (`carbon-plugin count`)"
    )


def _blocks(keys: ConfigKeys, family: Family, window: int | None, gated: bool) -> tuple[Block, ...]:
    """Return the layers as blocks, in which layers that are alike are counted together, in the order of the first of
    each.
    """
    norms = 2 * keys.integer(*HIDDEN)
    layers = []
    mixers = mixers_of(keys, family, window)
    places = zip(mixers, feeds_of(keys, family), passes_of(keys, len(mixers)), strict=True)
    for layer, (mixer, feed, passes) in enumerate(places):
        own = keys.at(layer)
        layers.append(
            Block(
                layers=1,
                mixers=mixers_at(own, family, layer, mixer, window),
                feed_forward=feed_at(own, family, feed, gated, layer),
                other_parameters=norms,
                passes=passes,
            )
        )
    found: dict[Block, int] = {}
    for block, same in groupby(layers):
        found[block] = found.get(block, 0) + len(list(same))
    blocks = (msgspec.structs.replace(block, layers=count) for block, count in found.items())
    return tuple(_shared(keys, block) for block in blocks) if family.shared else tuple(blocks)


def _shared(keys: ConfigKeys, block: Block) -> Block:
    """Return layers of which only some have weights of their own (ALBERT, arXiv 1909.11942 section 3.1)."""
    own = keys.optional("num_hidden_groups") or 1
    if block.layers % own:
        raise SpecError(f"{keys.origin}: num_hidden_groups {own} does not divide {block.layers} layers")
    inner = keys.optional("inner_group_num") or 1
    return msgspec.structs.replace(block, layers=own * inner, passes=block.layers // own)


def _tied(whole: Mapping[str, Any], keys: ConfigKeys, family: Family) -> bool:
    """Return whether input and output share one embedding.

    What the whole config says takes precedence over what the config of the language model says.
    """
    if family.never_tied:
        return False
    inner = keys.flag("tie_word_embeddings", default=family.tied)
    return ConfigKeys(whole, keys.origin).flag("tie_word_embeddings", default=inner)


def _window(keys: ConfigKeys, family: Family) -> int | None:
    """Return the width of the sliding window in tokens, or None where there is none or where it is switched off."""
    if around := keys.optional("local_attention"):  # ModernBERT states both sides; a decoder sees one of them
        return around + 1 if family.encoder else around // 2
    width = keys.optional("sliding_window", "attention_chunk_size", "sliding_window_size", "attention_window_size")
    width = width or keys.optional("window_size")
    if not width or not keys.flag("use_sliding_window", default=not family.name.startswith("qwen")):
        return None
    return width
