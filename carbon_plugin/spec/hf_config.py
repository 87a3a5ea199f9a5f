"""The shape of a model from a Hugging Face `config.json`, without transformers.

A saved config leaves out what equals the default of its class, and one key means different things in different
families; both are resolved here, once. What had to be assumed is said in the model's `source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.decoding import decode
from carbon_plugin.spec.document import Document
from carbon_plugin.spec.model import TransformerModel
from carbon_plugin.spec.reading import UNREADABLE, reason_of

NESTED = ("text_config", "llm_config", "language_config")
"""Where multimodal configs keep their language model."""

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads")
FFN = ("intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts", "moe_k")
FIRST_DENSE = ("first_k_dense_replace", "moe_layer_start_index")
EVERY = ("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_interval", "moe_layer_freq")


def _families(names: str) -> frozenset[str]:
    return frozenset(names.split())


UNGATED = _families("bloom falcon gpt2 gpt_bigcode gpt_neox gptj mpt nemotron opt phi starcoder2")
"""Families whose feed-forward layer has two matrices."""

GATED = _families(
    "cohere cohere2 deepseek_v2 deepseek_v3 ernie4_5 ernie4_5_moe gemma gemma2 gemma3 gemma3_text glm glm4 glm4_moe "
    "gpt_oss granite granitemoe llama llama4 llama4_text mistral mistral3 mixtral olmo olmo2 olmo3 olmoe phi3 phimoe "
    "qwen2 qwen2_moe qwen3 qwen3_moe smollm3 stablelm"
)
"""Families whose feed-forward layer has a gate; for any other the gate is assumed and said in `source`."""

TIED = _families(
    "bloom cohere cohere2 ernie4_5 ernie4_5_moe falcon gemma gemma2 gemma3 gemma3_text gpt2 gpt_bigcode mpt opt "
    "smollm3 starcoder2"
)
"""Families that share input and output embedding unless the config says otherwise (defaults of transformers)."""

BIASED = _families("bloom glm gpt2 gpt_bigcode gpt_neox gpt_oss opt phi qwen2 qwen2_moe starcoder2")
"""Families with biased query, key and value projections unless the config says otherwise."""

POSITIONS = {"gpt2": (1024, 0), "gpt_bigcode": (1024, 0), "opt": (2048, 2)}
"""Families with learned positions: default length of their table, and rows beyond the length."""

ALTERNATING = {"gemma2": 2, "gpt_oss": 2}
"""Families of whose layers every second has a sliding window, where the config does not list its layers."""

MIXERS = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention"})
"""Layer types that are modelled; chunked attention counts as sliding."""

NOT_DECODERS = _families("albert bert deberta deberta-v2 distilbert electra modernbert roberta vit xlm-roberta")

OTHER_MIXERS = ("mamba_d_state", "ssm_state_size", "state_size", "linear_num_key_heads", "lru_width", "rescale_every")
"""Keys that only configs with state-space or linear-attention layers have."""


def load_hf_config(path: Path, name: str | None = None) -> TransformerModel:
    """The model of a `config.json`, or of the directory that holds one. Raises `SpecError` naming file and key."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        raise SpecError(f"{file}: no such file, expected a Hugging Face config.json") from None
    except OSError as error:
        raise SpecError(f"{file}: cannot be read: {reason_of(error)}") from error
    except UNREADABLE as error:
        raise SpecError(f"{file}: not valid JSON: {reason_of(error)}") from error
    if not isinstance(config, dict):
        raise SpecError(f"{file}: expected a mapping, got {type(config).__name__}")
    stated = str(config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2]
    fallback = file.resolve().parent.name if file.name == "config.json" else file.stem
    return model_from_hf_config(config, name or stated or fallback, origin=str(file))


def model_from_hf_config(config: Mapping[str, Any], name: str, *, origin: str = "config.json") -> TransformerModel:
    """The shape that a config describes.

    Args: the parsed config, the model's name, and what errors call the config. Raises `SpecError` naming the key
    if one is missing or holds what this package does not model (encoders, state-space and linear-attention layers).
    """
    text = _language_model(config)
    keys = _Keys({**config, **text}, origin)
    family = str(text.get("model_type") or config.get("model_type") or "unknown")
    _refuse_other_kinds(keys, family)
    window, notes = _window(keys, family)
    if family not in GATED | UNGATED:
        notes.append("gated feed-forward assumed")
    mtp = keys.optional("num_nextn_predict_layers") or 0
    if mtp:
        notes.append("with its multi-token-prediction layers, which transformers does not train")
    fields: dict[str, Any] = {
        "name": name,
        "layers": keys.integer(*LAYERS),
        "hidden": keys.integer(*HIDDEN),
        "heads": keys.integer(*HEADS),
        "kv_heads": _kv_heads(keys, family),
        "vocab": keys.integer("vocab_size"),
        "ffn": _ffn(keys, family),
        "gated": family not in UNGATED,
        "tied_embeddings": keys.flag("tie_word_embeddings", default=family in TIED),
        "learned_positions": _positions(keys, family),
        "qkv_bias": keys.flag("attention_bias", "qkv_bias", "enable_bias", "use_bias", default=family in BIASED),
        "mtp_layers": mtp,
        "source": f"{origin} ({'; '.join([family, *notes])})",
    }
    fields |= _attention(keys) | window
    if moe := _experts(keys, family):
        fields["moe"] = moe
    return decode(Document(fields, origin, {}), TransformerModel)


@dataclass(frozen=True, slots=True)
class _Keys:
    """Typed reads of a config; the first of several keys that is there and not null counts."""

    config: Mapping[str, Any]
    origin: str

    def optional(self, *keys: str) -> int | None:
        """A count or width, 0 or more."""
        key = next((key for key in keys if self.config.get(key) is not None), None)
        if key is None:
            return None
        value = self.config[key]
        whole = value.is_integer() if isinstance(value, float) else type(value) is int
        if not whole or value < 0:
            raise SpecError(f"{self.origin}: {key}: expected a whole number, got {value!r}")
        return int(value)

    def integer(self, *keys: str) -> int:
        """As `optional`, and it must be there and above 0."""
        value = self.optional(*keys)
        if value is None:
            others = f" (also looked for {', '.join(keys[1:])})" if len(keys) > 1 else ""
            raise SpecError(f"{self.origin}: key {keys[0]} is missing{others}")
        if value == 0:
            raise SpecError(f"{self.origin}: {keys[0]} is 0, expected a positive integer")
        return value

    def flag(self, *keys: str, default: bool) -> bool:
        """True or false."""
        return next((bool(self.config[key]) for key in keys if self.config.get(key) is not None), default)

    def names(self, key: str) -> list[str]:
        """A list of words; empty where there is none."""
        value = self.config.get(key)
        return [str(item) for item in value] if isinstance(value, list) else []


def _language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((config[key] for key in NESTED if isinstance(config.get(key), dict)), config)


def _refuse_other_kinds(keys: _Keys, family: str) -> None:
    if keys.flag("is_encoder_decoder", default=False) or family in NOT_DECODERS:
        raise SpecError(
            f"{keys.origin}: model_type {family} is not a decoder-only transformer, which is what is modelled"
        )
    others = sorted(set(keys.names("layer_types")) - MIXERS)
    others += [key for key in OTHER_MIXERS if keys.config.get(key) is not None]
    if others:
        raise SpecError(f"{keys.origin}: model_type {family} has layers that are not modelled: {', '.join(others)}")


def _kv_heads(keys: _Keys, family: str) -> int:
    grouped = keys.flag("new_decoder_architecture", default=False)
    if family in ("falcon", "gpt_bigcode") and keys.flag("multi_query", default=True) and not grouped:
        return 1
    nested = keys.config.get("attn_config")
    if isinstance(nested, dict):
        keys = _Keys({**keys.config, **nested}, keys.origin)
    return keys.optional("kv_n_heads", "num_key_value_heads", "num_kv_heads") or keys.integer(*HEADS)


def _ffn(keys: _Keys, family: str) -> int:
    if family in UNGATED:
        return keys.optional(*FFN) or (keys.optional("expansion_ratio") or 4) * keys.integer(*HIDDEN)
    return keys.integer(*FFN)


def _positions(keys: _Keys, family: str) -> int:
    if family not in POSITIONS:
        return 0
    default, extra = POSITIONS[family]
    return (keys.optional("n_positions", "max_position_embeddings") or default) + extra


def _attention(keys: _Keys) -> dict[str, Any]:
    """Head width, or low-rank attention; there `head_dim` of the config is only the rotary part."""
    if keys.optional("kv_lora_rank"):
        widths = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        mla: dict[str, int | None] = {key: keys.integer(key) for key in widths}
        mla["q_lora_rank"] = keys.optional("q_lora_rank")
        return {"mla": mla, "head_dim": keys.integer("qk_nope_head_dim") + keys.integer("qk_rope_head_dim")}
    stated, hidden, heads = keys.optional("head_dim"), keys.integer(*HIDDEN), keys.integer(*HEADS)
    if stated:
        return {"head_dim": stated}
    if hidden % heads:
        raise SpecError(
            f"{keys.origin}: {HIDDEN[0]} {hidden} is not a multiple of {HEADS[0]} {heads}, and head_dim is missing"
        )
    return {"head_dim": hidden // heads}


def _window(keys: _Keys, family: str) -> tuple[dict[str, Any], list[str]]:
    """Sliding window where it is switched on, and what had to be left out."""
    width = keys.optional("sliding_window") or keys.optional("attention_chunk_size")
    if not width or not keys.flag("use_sliding_window", default=not family.startswith("qwen")):
        return {}, []
    layers = keys.integer(*LAYERS)
    windowed = _windowed_layers(keys, family, layers)
    if windowed == 0:
        return {}, []
    return {"sliding_window": width, "sliding_window_layers": windowed if windowed < layers else None}, []


def _windowed_layers(keys: _Keys, family: str, layers: int) -> int:
    if kinds := keys.names("layer_types"):
        return sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    if family.startswith("llama4"):
        return layers - layers // 4
    if pattern := keys.optional("sliding_window_pattern"):  # the last layer of each group is full
        return layers - layers // pattern
    if full := keys.optional("max_window_layers"):
        return max(0, layers - full)
    return layers // ALTERNATING.get(family, 1)


def _experts(keys: _Keys, family: str) -> dict[str, Any] | None:
    experts = keys.optional(*EXPERTS) or 0
    if experts <= 1:
        return None
    width = keys.integer("moe_intermediate_size", "intermediate_size")
    return {
        "experts": experts,
        "top_k": keys.integer(*TOP_K),
        "expert_ffn": width,
        "shared_ffn": _shared_width(keys, family, width),
        "first_dense_layers": keys.optional(*FIRST_DENSE) or len(keys.names("mlp_only_layers")),
        "every": keys.optional(*EVERY) or 1,
        "bias": family == "gpt_oss",
    }


def _shared_width(keys: _Keys, family: str, expert_width: int) -> int:
    """Summed width of the experts that every token passes."""
    if family.startswith("llama4"):
        return expert_width
    summed = keys.optional("shared_expert_intermediate_size", "shared_intermediate_size")
    if summed is not None:
        return summed
    return (keys.optional("n_shared_experts", "num_shared_experts", "moe_num_shared_experts") or 0) * expert_width
