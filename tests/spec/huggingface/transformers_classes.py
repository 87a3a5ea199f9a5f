"""Classes of the installed transformers, built on the meta device: their configs and their true parameter counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest

for package in ("transformers", "torch"):  # imported where a class is built: both take seconds
    if find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)

CAUSAL, IMAGE_TEXT = "causal", "image-text"

OVERRIDES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dory": {"n_input_layers": 1, "n_output_layers": 1},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 8, "moe_topk": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
}
"""What the defaults of a class lack: without it the class cannot be built, or does not say how many experts work."""

_SEVERAL_STACKS = """
    bart bigbird_pegasus blenderbot blenderbot-small florence2 marian mbart moshi musicgen musicgen_melody mvp pegasus
    pix2struct plbart pp_formulanet prophetnet t5gemma2 trocr udop vision-encoder-decoder whisper
"""
SEVERAL_STACKS = frozenset(_SEVERAL_STACKS.split())
"""Encoders with a decoder, and models of several codebooks: their class in the table of decoders is one of the stacks
that their config describes, so that there is nothing to compare."""

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k", "top_k_experts")
GROUPS = ("n_group", "topk_group", "num_expert_group")
TOKENS = ("pad_token_id", "eos_token_id", "bos_token_id")


class Built(NamedTuple):
    """A config as `save_pretrained` writes it, and the parameters of the class that it makes."""

    config: dict[str, Any]
    parameters: int


def classes() -> Iterator[tuple[str, str]]:
    """Yield (table, model_type) of every class in the two tables."""
    from transformers.models.auto import modeling_auto

    yield from ((CAUSAL, name) for name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    yield from ((IMAGE_TEXT, name) for name in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def build(table: str, model_type: str, changes: dict[str, Any] | None = None) -> Built | None:
    """Return the class built from its defaults, or None where its defaults or missing packages prevent that."""
    return build_from(table, model_type, {**OVERRIDES.get(model_type, {}), **(changes or {})})


def build_from(table: str, model_type: str, stated: dict[str, Any]) -> Built | None:
    """Return the class built from a config, or None where the config or missing packages prevent that."""
    import torch
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    names = {
        CAUSAL: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        IMAGE_TEXT: modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }[table]
    found = names[model_type]
    try:
        kind = getattr(transformers, found if isinstance(found, str) else found[0])
        config = CONFIG_MAPPING[model_type](**stated)
        wanted = getattr(kind, "config_class", None)
        if wanted is not None and not isinstance(config, wanted):
            inner = (getattr(config, key, None) for key in ("text_config", "decoder"))
            config = next((part for part in inner if isinstance(part, wanted)), config)
        with torch.device("meta"):
            model = kind(config)
        model.tie_weights()
    except Exception:  # a class may raise anything on its own defaults
        return None
    parameters = sum({id(parameter): parameter.numel() for parameter in model.parameters()}.values())
    return Built(_plain(json.loads(config.to_json_string(use_diff=True))), parameters)


def whole_config(model_type: str, changes: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Return every key of a class, with these changes of its defaults, or None where the class cannot be built from its
    own defaults.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    stated = {**OVERRIDES.get(model_type, {}), **(changes or {})}
    built = build_from(CAUSAL, model_type, stated)
    if built is None or built.config.get("model_type") != model_type:
        return None
    return _plain(json.loads(CONFIG_MAPPING[model_type](**stated).to_json_string(use_diff=False)))


def shrunk(model_type: str) -> dict[str, Any]:
    """Return changes that leave a model few experts and a small vocabulary, so that neither hides its layers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        defaults = CONFIG_MAPPING[model_type](**OVERRIDES.get(model_type, {})).to_dict()
    except Exception:  # as above
        return {}
    text = defaults.get("text_config")
    own = text if isinstance(text, dict) else defaults
    small = dict.fromkeys(("vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input"), 1024)
    small |= dict.fromkeys(TOKENS, 0) | dict.fromkeys(EXPERTS, 4) | dict.fromkeys(ACTIVE, 2) | dict.fromkeys(GROUPS, 1)
    changes = {
        key: min(value, own[key]) for key, value in small.items() if type(own.get(key)) is int and own[key] >= value
    }
    changes = {key: value for key, value in changes.items() if key not in OVERRIDES.get(model_type, {})}
    return {"text_config": {**own, **changes}} if own is text else changes


def _plain(value: Any) -> Any:
    """Return a value with the numbers that JSON does not know, which are written as "__float__", as floats."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
