"""Read the model that a published row trained.

The dimensions of the row take precedence over those of the architecture that it names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, cast, get_args

import msgspec

from carbon_plugin.calibrate.rows.fields import Fields, MissingFieldError
from carbon_plugin.calibrate.rows.routing import KINDS_OF_TOKENS, ONE_WORD, repeated_text_imbalance
from carbon_plugin.calibrate.rows.spellings import spelled_shape
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.frameworks import Conventions
from carbon_plugin.spec.huggingface.config import WRITTEN_GELU, model_from_hf_config
from carbon_plugin.spec.models.adapters import Adapters
from carbon_plugin.spec.models.model import MixtureOfExperts, MultiLatentAttention, TransformerModel
from carbon_plugin.spec.models.presets import find_preset, list_presets, load_preset
from carbon_plugin.spec.parsing.names import nearest, normalized

USUAL_VOCAB = 51200
VOCABULARIES: tuple[tuple[str, int], ...] = (
    (r"qwen", 151936),
    (r"deepseek", 129280),
    (r"llama[ -]?(3|4)", 128256),
    (r"llama|mi[sx]tral", 32000),
    (r"gemma", 256000),
)
"""Sizes of the vocabularies of families of models, by a pattern of the model's name (`config.json` of Qwen 1 to 3,
DeepSeek-V3, Llama 2 and 3, Mistral and Gemma). The first match holds where a row does not state its own size."""
BIASED_EXPERTS = "gpt-oss"
"""The start of the names of architectures whose experts add biases (openai/gpt-oss, `MLPBlock`)."""
ENCODER = "encoder"
"""The start of the note of an architecture whose layers see the whole sequence."""
DIMENSIONS = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab")
"""The dimensions of a preset that a row may state otherwise."""
PRESET = "preset of the package"
"""The key under which a shape names a preset. No row can state it by accident."""
GATED_MARKS = ("swiglu", "geglu", "gated")
LATENT_RANKS = ("kv_lora", "qk_nope", "qk_rope", "v")
TRANSFORMERS = re.compile(r"(?i)\bhf trainer|hugging face")
USUAL_DROPOUT = 0.1
"""Dropout of hidden states and attention in transformers' configurations of BERT, RoBERTa, GPT-2 and OPT, which have no
gate (`hidden_dropout_prob`, `resid_pdrop` and `attention_dropout`). Its families with a gate have none."""
NORMED = re.compile(r"qwen-?3|gemma-?3|olmo-?[23]|olmoe|hunyuan 3")
"""Families whose attention norms queries and keys (`q_norm` of their classes in transformers)."""
QUANTISED = ("nf4", "qlora")
"""The words by which rows name a base model in 4 bits."""
NARROW_BASE = "base weights in 8 bit"
ADAPTER_FRACTION = 0.005
"""Ratio of the parameters that low-rank adapters train to those of the model: rank 16 to 32 on all linear layers."""


def row_model(
    row: Fields, architectures: Mapping[str, Any], conventions: Conventions, assumed: list[str]
) -> TransformerModel:
    """Return the dimensions of the row's model and append what was assumed to `assumed`.

    Raises `SpecError` naming the field that is missing or odd.
    """
    shape = row.over(_architecture(row, architectures))
    if not shape.states("config", PRESET, "layers", "hidden", "heads") and (named := _named_preset(row)):
        assumed.append(f"arch {named}")
        shape = row.over({PRESET: named})
    if shape.states("config"):
        return _as_trained(_configured(row, shape), row, conventions, assumed)
    if shape.states(PRESET):
        return _as_trained(_of_preset(row, shape.text(PRESET), conventions), row, conventions, assumed)
    layers, hidden, heads = (shape.count(name) for name in ("layers", "hidden", "heads"))
    if not shape.states("vocab"):
        assumed.append(f"vocab {_usual_vocabulary(row)}")
    if not shape.states("kv_heads", "attention"):
        assumed.append(f"kv_heads {heads}")
    if not shape.states("mlp"):
        assumed.append("mlp gelu")
    moe = _experts(shape, ranks=row.optional_count("ep") or 1)
    gated = any(mark in shape.text("mlp").lower() for mark in GATED_MARKS)
    window, windowed = _window(shape, layers)
    tied = shape.flag("tied")
    model = TransformerModel(
        name=row.text("model") or row.text("arch") or "unnamed",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=shape.count("kv_heads", heads),
        head_dim=shape.count("head_dim", max(1, hidden // heads)),
        ffn=shape.count("ffn") if moe is None else shape.count("ffn", moe.expert_ffn),
        vocab=shape.count("vocab", _usual_vocabulary(row)),
        gated=gated,
        qk_norm=_normed(row, shape),
        tied_embeddings=not gated if tied is None else tied,
        dropout=_dropout(row, conventions, gated=gated),
        causal=not shape.text("note").startswith(ENCODER),
        written_gelu=shape.text("mlp").startswith(WRITTEN_GELU),
        sliding_window=window,
        sliding_window_layers=windowed,
        mla=_latent_attention(shape),
        moe=moe,
        source=shape.text("source") or "records file",
    )
    return _as_trained(model, row, conventions, assumed)


def _as_trained(model: TransformerModel, row: Fields, conventions: Conventions, assumed: list[str]) -> TransformerModel:
    """Return the model with the adapters and the packed documents that the row trains it with."""
    model = _of_documents(model, row.optional_count("document_len"))
    # A probe that ran out of memory has the same kind for every way of training, so that its model's name decides.
    adapters = trains_adapters(row) or (bool(row.flag("oom")) and "lora" in row.text("model").lower())
    rank = row.optional_count("lora_rank")
    if not adapters:
        return model
    model = msgspec.structs.replace(
        model,
        trainable_fraction=ADAPTER_FRACTION,
        frozen_bits=_frozen_bits(row),
        adapters=_adapted(row) or conventions.adapters,
        adapter_dropout=row.number_or_zero("lora_dropout", 0.0),
    )
    if rank is None:
        assumed.append(f"trainable_fraction {ADAPTER_FRACTION}")
        return model
    return msgspec.structs.replace(model, trainable_fraction=_adapter_fraction(model, rank))


def trains_adapters(row: Fields) -> bool:
    """Return whether the row says that it trains low-rank adapters alone: by its kind, or by what it says of them."""
    return "lora" in row.text("kind").lower() or row.states("lora_rank", "adapters")


def unread_dimensions(row: Fields, architectures: Mapping[str, Any], known: Collection[str]) -> tuple[str, ...]:
    """Return the dimensions of the row's shape that nothing here knows, each after the name of the shape."""
    name = row.text("arch")
    return tuple(f"{name}: {key}" for key in map(str, _architecture(row, architectures)) if key not in {*known, PRESET})


def _dropout(row: Fields, conventions: Conventions, *, gated: bool) -> float:
    """Return the dropout that the row states, or that its software has where a model says nothing else."""
    by_class = not gated and TRANSFORMERS.search(row.text("framework"))
    return row.number_or_zero("dropout", USUAL_DROPOUT if by_class else conventions.dropout)


def _of_documents(model: TransformerModel, length: int | None) -> TransformerModel:
    """Return the model with attention that ends with a document, where sequences are packed with documents of this
    length: a token sees half of one as a mean, as with a window of that width.
    """
    if length is None or model.sliding_window is not None:
        return model
    return msgspec.structs.replace(model, sliding_window=max(1, length // 2), sliding_window_layers=model.layers)


def _normed(row: Fields, shape: Fields) -> bool:
    """Return whether queries and keys pass a norm: as the architecture says, or as its family of models does."""
    said = shape.flag("qk_norm")
    return NORMED.search(f"{row.text('model')} {row.text('arch')}".lower()) is not None if said is None else said


def _usual_vocabulary(row: Fields) -> int:
    """Return the size of the vocabulary of the row's family of models, or that of GPT-2 padded to 51,200."""
    name = f"{row.text('model')} {row.text('arch')}".lower()
    return next((size for pattern, size in VOCABULARIES if re.search(pattern, name)), USUAL_VOCAB)


def _adapter_fraction(model: TransformerModel, rank: int) -> float:
    """Return the share of parameters in adapters of this rank on the adapted matrices of every dense layer.

    An adapter of an m x n matrix has rank * (m + n) parameters (Hu et al. 2021, arXiv 2106.09685).
    """
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    sides = (model.hidden + queries) + (1 if model.adapted == "query_value" else 2) * (model.hidden + keys)
    if model.adapted in ("attention", "all_matrices"):
        sides += model.hidden + queries
    if model.adapted == "all_matrices":
        sides += (2 + model.gated) * (model.hidden + model.ffn)
    return min(1.0, rank * model.layers * sides / model.parameters)


def _adapted(row: Fields) -> Adapters | None:
    """Return the matrices that the row says have adapters, or None where it does not say.

    Raises `SpecError` naming the field where its value is another.
    """
    said = row.text("adapters") or None
    for known in get_args(Adapters):
        if said == known:
            return cast("Adapters", known)
    if said is not None:
        raise SpecError(f"adapters is {said!r}, expected one of {', '.join(get_args(Adapters))}")
    return None


def _frozen_bits(row: Fields) -> int:
    said = " ".join(row.text(name) for name in ("model", "precision", "notes")).lower()
    if any(mark in said for mark in QUANTISED):
        return 4
    return 8 if NARROW_BASE in said else 16


def _configured(row: Fields, shape: Fields) -> TransformerModel:
    """Return the model of an architecture that is given by the keys of its `config.json`. Its layers may differ."""
    name = row.text("model") or row.text("arch") or "unnamed"
    return model_from_hf_config(shape.plain_mapping("config"), name, origin=shape.text("source") or f"arch {name}")


def _of_preset(row: Fields, name: str, conventions: Conventions) -> TransformerModel:
    """Return the model of a preset, as `carbon-plugin plan` knows it, under the name that the row gives it and with the
    dimensions that the row states itself, such as fewer layers.
    """
    model = load_preset(name)
    stated = {field: row.count(field) for field in DIMENSIONS if row.states(field)}
    hidden, heads = stated.get("hidden", model.hidden), stated.get("heads", model.heads)
    if "head_dim" not in stated and (hidden, heads) != (model.hidden, model.heads):
        stated["head_dim"] = max(1, hidden // heads)
    tied = row.flag("tied")
    return msgspec.structs.replace(
        model,
        name=row.text("model") or name,
        dropout=row.number_or_zero("dropout", model.dropout or _dropout(row, conventions, gated=model.gated)),
        tied_embeddings=model.tied_embeddings if tied is None else tied,
        **stated,
    )


def _architecture(row: Fields, architectures: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the shape that the row names: of the architectures, or else a preset.

    Dashes, underscores and capitals are alike, as in every other name of a model.
    """
    name = row.text("arch")
    if not name:
        return {}
    alike = [known for known in architectures if normalized(str(known)) == normalized(name)]
    if not alike:
        return _preset(name, architectures)
    known = name if name in alike else alike[-1]  # those of the file follow the shipped ones
    shape = architectures[known]
    if not isinstance(shape, Mapping):
        raise SpecError(f"architectures.{known} is {shape!r}, expected a mapping of the model's dimensions")
    return spelled_shape(shape)


def _named_preset(row: Fields) -> str | None:
    """Return the preset that the name of the model means, where the row says nothing else of its shape."""
    try:
        return find_preset(row.text("model"))[0]
    except SpecError:
        return None


def _preset(name: str, architectures: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return {PRESET: find_preset(name)[0]}
    except SpecError:
        near = nearest(
            name, {normalized(known): known for known in (*map(str, architectures), *list_presets())}.values()
        )
        said = f"; nearest: {', '.join(near)}" if near else ""
        raise SpecError(
            f"arch {name!r} is not among the architectures of the file or of this package, nor among its presets{said}"
        ) from None


def _window(shape: Fields, layers: int) -> tuple[int | None, int | None]:
    """Return how far the attention reaches back and in how many layers: in all of them where a window is stated without
    their number, in half of them where only the note has one.
    """
    if (window := shape.optional_count("sliding_window")) is not None:
        return window, shape.optional_count("sliding_window_layers")
    noted = re.search(r"(\d+)-token sliding", shape.text("note"))
    return (int(noted.group(1)), layers // 2) if noted else (None, None)


def _experts(shape: Fields, ranks: int) -> MixtureOfExperts | None:
    experts = shape.optional_count("n_experts")
    if experts is None:
        return None
    width = shape.count("moe_ffn") if shape.states("moe_ffn") else shape.count("ffn")
    top_k = shape.count("top_k")
    uneven = ONE_WORD in shape.text("notes") and 1 < ranks <= experts
    return MixtureOfExperts(
        experts=experts,
        top_k=top_k,
        imbalance=repeated_text_imbalance(KINDS_OF_TOKENS, top_k, experts, ranks) if uneven else 1.0,
        expert_ffn=width,
        shared_ffn=shape.optional_count("shared_ffn") or (shape.optional_count("shared_experts") or 0) * width,
        every=shape.count("moe_every", 1),
        first_dense_layers=_dense_layers(shape),
        bias=normalized(shape.text("arch")).startswith(BIASED_EXPERTS),
    )


def _dense_layers(shape: Fields) -> int:
    """Return the number of leading dense layers.

    A model that is cut to a few layers keeps one: SimuMax's measured memory of the cut DeepSeek-V3 (104 GiB on 8
    devices) agrees with three sparse layers of four and with no other number.
    """
    stated = shape.optional_count("dense_layers") or 0
    return min(stated, 1) if shape.text("kind") == "benchmark_truncated_layers" else stated


def _latent_attention(shape: Fields) -> MultiLatentAttention | None:
    text = shape.text("attention")
    if not text.startswith("MLA"):
        return None
    ranks = {name: int(value) for name, value in re.findall(r"(q_lora|kv_lora|qk_nope|qk_rope|v) (\d+)", text)}
    missing = [name for name in LATENT_RANKS if name not in ranks]
    if missing:
        raise MissingFieldError(f"{missing[0]} of attention {text!r}")
    return MultiLatentAttention(
        q_lora_rank=ranks.get("q_lora"),
        kv_lora_rank=ranks["kv_lora"],
        qk_nope_head_dim=ranks["qk_nope"],
        qk_rope_head_dim=ranks["qk_rope"],
        v_head_dim=ranks["v"],
    )
