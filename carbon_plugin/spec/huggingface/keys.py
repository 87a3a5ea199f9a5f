"""Read typed values of a `config.json`: of several names the first that is there counts, and every error
names the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.boundary import shown
from carbon_plugin.spec.parsing.limits import MOST_WIDTH

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "emb_dim", "embed_dim", "n_embed", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
KV_HEADS = ("kv_n_heads", "num_key_value_heads", "num_kv_heads", "multi_query_group_num", "num_attention_groups")
FFN = (
    "intermediate_size_mlp",
    "dense_intermediate_size",
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "dff",
    "dim_ff",
    "d_inner",
    "hidden_dim",
)
VOCAB = ("vocab_size", "padded_vocab_size")
NAMES_OF_FIELDS = {
    "layers": LAYERS,
    "hidden": HIDDEN,
    "heads": HEADS,
    "kv_heads": KV_HEADS,
    "ffn": FFN,
    "vocab": VOCAB,
    "learned_positions": ("max_position_embeddings", "n_positions"),
    "tied_embeddings": ("tie_word_embeddings",),
    "head_dim": ("head_size", "kv_channels"),
    "moe": ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"),
}
"""The keys under which users of Hugging Face know the fields of a model of ours."""
SQUARE = ("patch_size", "image_size")
EXPERT_WIDTHS = "moe_intermediate_size"
"""The key whose list holds a width a layer where it is as long as there are layers (Hunyuan), and else a width for
experts of text and one for experts of images (ERNIE 4.5 VL).
"""
PER_LAYER = (
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "ffn_hidden_size",
    "moe_topk",
    EXPERT_WIDTHS,
)
"""The keys that may hold one value a layer, also under the name `<key>_per_layer`."""


@dataclass(frozen=True, slots=True)
class ConfigKeys:
    """One instance holds a config, and `origin`, which is what errors call it."""

    config: Mapping[str, Any]
    origin: str

    def optional(self, *keys: str) -> int | None:
        """Return a count or width of 0 or more, or None where no key is there. Raises `SpecError` for any
        other value.
        """
        key = next((key for key in keys if self.config.get(key) is not None), None)
        if key is None:
            return None
        value = self.config[key]
        if key in SQUARE and isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # height and width of a square are equal
        whole = value.is_integer() if isinstance(value, float) else type(value) is int
        if not whole or value < 0:
            raise SpecError(f"{self.origin}: {key}: expected a whole number, got {shown(value)}")
        if value > MOST_WIDTH:
            raise SpecError(f"{self.origin}: {key}: expected at most {MOST_WIDTH:,}, got {shown(value)}")
        return int(value)

    def integer(self, *keys: str) -> int:
        """Return a count or width above 0. Raises `SpecError` where no key is there, and for any other value."""
        value = self.optional(*keys)
        if value is None:
            others = f" (also looked for {', '.join(keys[1:])})" if len(keys) > 1 else ""
            raise SpecError(f"{self.origin}: key {keys[0]} is missing{others}")
        if value == 0:
            raise SpecError(f"{self.origin}: {keys[0]} is 0, expected a positive integer")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a number of 0 or more. Raises `SpecError` for any other value."""
        value = self.config.get(key)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 <= value < 1e15:
            raise SpecError(f"{self.origin}: {key}: expected a number, got {shown(value)}")
        return float(value)

    def flag(self, *keys: str, default: bool) -> bool:
        """Return the first value that is there as true or false. Raises `SpecError` for a word or a list, of which
        Python would take "false" for true.
        """
        key = next((key for key in keys if self.config.get(key) is not None), None)
        if key is None:
            return default
        value = self.config[key]
        if type(value) not in (bool, int, float):
            raise SpecError(f"{self.origin}: {key}: expected true or false, got {shown(value)}")
        return bool(value)

    def names(self, key: str) -> list[str]:
        """Return a list of words, empty where there is none. Raises `SpecError` for a single word."""
        value = self.config.get(key)
        if isinstance(value, str):
            raise SpecError(f"{self.origin}: {key}: expected a list with a word a layer, got {value!r}")
        return [str(item) for item in value] if isinstance(value, list) else []

    def indices(self, key: str) -> list[int] | None:
        """Return a list of whole numbers, or None where there is no list. Raises `SpecError` for a list of anything
        else.
        """
        value = self.config.get(key)
        if not isinstance(value, list):
            return None
        if not all(type(item) is int for item in value):
            raise SpecError(f"{self.origin}: {key}: expected a list of whole numbers")
        return value

    def text(self, key: str) -> str:
        """Return a word, empty where there is none."""
        value = self.config.get(key)
        return value if isinstance(value, str) else ""

    def inner(self, key: str) -> ConfigKeys | None:
        """Return the config nested under a key, or None where there is none."""
        value = self.config.get(key)
        return ConfigKeys(value, f"{self.origin}: {key}") if isinstance(value, Mapping) else None

    def with_changes(self, changes: Mapping[str, Any]) -> ConfigKeys:
        """Return the config with other values for some keys."""
        return ConfigKeys({**self.config, **changes}, self.origin)

    def _is_by_layer(self, key: str) -> bool:
        return key != EXPERT_WIDTHS or len(self.config[key]) == self.optional(*LAYERS)

    def at(self, layer: int) -> ConfigKeys:
        """Return the config of one layer, which has the layer's own values where the config lists them by layer."""
        changes: dict[str, Any] = {}
        for key in PER_LAYER:
            for listed in (f"{key}_per_layer", key):
                value = self.config.get(listed)
                if isinstance(value, list) and layer < len(value) and self._is_by_layer(listed):
                    changes[key] = value[layer]
                    break
        own = self.config.get("per_layer_config")
        if isinstance(own, Mapping):
            found = next((own[key] for key in (f"{layer:02d}", str(layer), layer) if key in own), None)
            changes |= found if isinstance(found, Mapping) else {}
        return self.with_changes(changes) if changes else self


def shared_out_heads(
    keys: ConfigKeys, of: Sequence[str] = HIDDEN, names: Sequence[str] = HEADS, *, unless: str = ""
) -> int:
    """Return the number of heads of a model whose width they share out evenly.

    `of` are the names of the width and `names` those of the number of heads. Raises `SpecError` where they do not share
    it out, and the key `unless`, which would say how wide a head is, is missing.
    """
    hidden, heads = keys.integer(*of), keys.integer(*names)
    if hidden % heads:
        missing = f", and {unless} is missing" if unless else ""
        raise SpecError(f"{keys.origin}: {of[0]} {hidden} is not a multiple of {names[0]} {heads}{missing}")
    return heads
