"""Typed reads of a `config.json`: the first of several names that is there counts, and every error names the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.boundary import shown
from carbon_plugin.spec.parsing.limits import MOST_WIDTH

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "emb_dim", "embed_dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
KV_HEADS = ("kv_n_heads", "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
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
)
SQUARE = ("patch_size", "image_size")
PER_LAYER = ("intermediate_size", "num_attention_heads", "num_key_value_heads", "ffn_hidden_size")
"""Keys that may hold one value a layer, also as `<key>_per_layer`."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A config and what errors call it."""

    config: Mapping[str, Any]
    origin: str

    def optional(self, *keys: str) -> int | None:
        """A count or width, 0 or more; None where no key is there."""
        key = next((key for key in keys if self.config.get(key) is not None), None)
        if key is None:
            return None
        value = self.config[key]
        if key in SQUARE and isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # height and width of a square
        whole = value.is_integer() if isinstance(value, float) else type(value) is int
        if not whole or value < 0:
            raise SpecError(f"{self.origin}: {key}: expected a whole number, got {shown(value)}")
        if value > MOST_WIDTH:
            raise SpecError(f"{self.origin}: {key}: expected at most {MOST_WIDTH:,}, got {shown(value)}")
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

    def number(self, key: str, default: float) -> float:
        """A number."""
        value = self.config.get(key)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 <= value < 1e15:
            raise SpecError(f"{self.origin}: {key}: expected a number, got {shown(value)}")
        return float(value)

    def flag(self, *keys: str, default: bool) -> bool:
        """True or false."""
        return next((bool(self.config[key]) for key in keys if self.config.get(key) is not None), default)

    def names(self, key: str) -> list[str]:
        """A list of words; empty where there is none."""
        value = self.config.get(key)
        if isinstance(value, str):
            raise SpecError(f"{self.origin}: {key}: expected a list with a word a layer, got {value!r}")
        return [str(item) for item in value] if isinstance(value, list) else []

    def indices(self, key: str) -> list[int] | None:
        """A list of whole numbers, None where there is none."""
        value = self.config.get(key)
        if not isinstance(value, list):
            return None
        if not all(type(item) is int for item in value):
            raise SpecError(f"{self.origin}: {key}: expected a list of whole numbers")
        return value

    def text(self, key: str) -> str:
        """A word, empty where there is none."""
        value = self.config.get(key)
        return value if isinstance(value, str) else ""

    def inner(self, key: str) -> Keys | None:
        """The config nested under a key, None where there is none."""
        value = self.config.get(key)
        return Keys(value, f"{self.origin}: {key}") if isinstance(value, Mapping) else None

    def with_changes(self, changes: Mapping[str, Any]) -> Keys:
        """The config with other values for some keys."""
        return Keys({**self.config, **changes}, self.origin)

    def at(self, layer: int) -> Keys:
        """The config of one layer: its own values where the config lists them by layer."""
        changes: dict[str, Any] = {}
        for key in PER_LAYER:
            for listed in (f"{key}_per_layer", key):
                value = self.config.get(listed)
                if isinstance(value, list) and layer < len(value):
                    changes[key] = value[layer]
                    break
        own = self.config.get("per_layer_config")
        if isinstance(own, Mapping):
            found = next((own[key] for key in (f"{layer:02d}", str(layer), layer) if key in own), None)
            changes |= found if isinstance(found, Mapping) else {}
        return self.with_changes(changes) if changes else self
