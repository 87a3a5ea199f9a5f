"""Configs of classes with one key taken out, and what transformers builds from the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from carbon_plugin.spec.huggingface.class_defaults import OUTLINE, class_defaults
from tests.spec.huggingface.transformers_classes import Built, build_from

PLAIN_WIDTHS = frozenset({"max_position_embeddings", "n_positions", "sliding_window"})
"""Keys that change no layer."""
DERIVED = (
    "layer_types",
    "layers_block_type",
    "attn_layer_indices",
    "full_attention_interval",
    "mlp_layer_types",
    "hybrid_override_pattern",
)
"""Keys that a class derives where they are missing."""


def structural_keys(name: str, config: dict[str, Any]) -> list[str]:
    """Return the keys of a config that say what its layers hold."""
    known = [key for key in class_defaults(name) if key not in OUTLINE | PLAIN_WIDTHS]
    return [key for key in (*known, *DERIVED) if key in config]


def trimmed(table: str, model_type: str, whole: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Built | None]]:
    """Yield (key, config without it, what transformers builds from that) for each structural key of a flat config."""
    for key in structural_keys(model_type, whole):
        rest = {name: value for name, value in whole.items() if name != key}
        yield key, rest, build_from(table, model_type, rest)
