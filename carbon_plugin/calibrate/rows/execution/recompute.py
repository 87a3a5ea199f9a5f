"""Read what a published row computed again in its backward pass."""

from __future__ import annotations

import re

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.frameworks import Conventions
from carbon_plugin.spec.layout import Recompute, RecomputedModule

PARTLY = re.compile(r"\d+ (?:layers|blocks)|\bexcept\b|\bnot\b")
"""Words that take something of a kind of recompute away, or give it to some layers alone."""
CHECKPOINTED = ("checkpointing", "gradient checkpointing", "activation checkpointing")
"""What transformers and PyTorch call recompute of whole layers, where nothing says that it is selective."""
ORDINALS = {"other": 2, "second": 2, "third": 3, "fourth": 4}
"""Strides in words, by which a row says that every n-th layer is recomputed."""
RECOMPUTED_PARTS: dict[str, RecomputedModule] = {
    "core_attn": "core_attn",
    "layernorm": "layernorm",
    "norm": "layernorm",
    "act": "moe_act",
    "moe_act": "moe_act",
    "mla_up_proj": "mla_up_proj",
    "moe": "moe",
    "mlp": "mlp",
    "shared_experts": "shared_experts",
}
"""The parts in a list of recomputed modules, as Megatron-core and torchtitan's relatives write them."""
NOTHING_KEPT = re.compile(r"\b(nothing_saveable|save_nothing)\b")
"""JAX's and Paxml's names for the policy that repeats all of a layer (`jax.checkpoint_policies`, praxis'
`AutodiffCheckpointType`)."""


def recompute_of(
    row: Fields, layers: int, conventions: Conventions, assumed: list[str]
) -> tuple[Recompute, tuple[RecomputedModule, ...], float]:
    """Return the kind of recompute, the modules that it repeats where they are listed, and the share of the layers."""
    if number := _recomputed_layers(row.text("recompute").lower(), layers):
        return "full", (), number / layers
    words = re.split(r"[\s,+/]+", row.text("recompute").lower())
    if parts := dict.fromkeys(RECOMPUTED_PARTS[word] for word in words if word in RECOMPUTED_PARTS):
        return "selective", tuple(parts), 1.0
    return _recompute_kind(row, conventions, assumed), (), 1.0


def _recomputed_layers(text: str, layers: int) -> int | None:
    """Return how many whole layers are recomputed where a phrase says so: "every second layer", "8 of 32 layers", or
    torchtitan's "selective ac 2", whose wrapper takes the layers whose number from 1 on is a multiple of 2.

    Raises `SpecError` where the model has fewer layers.
    """
    counted = re.search(r"(\d+) of (\d+) layers", text)
    stride = re.search(r"every ([a-z]+|\d+)(?:nd|rd|th)? layers?\b|selective ac (\d+)\b", text)
    if counted is None and stride is None:
        return None
    if counted is not None:
        number = int(counted.group(1))
        if int(counted.group(2)) != layers or not 0 < number <= layers:
            raise SpecError(f"recompute {text!r} does not match the {layers} layers of the model")
        return number
    word = stride.group(1) or stride.group(2) if stride else ""
    step = ORDINALS.get(word) or (int(word) if word.isdigit() else 0)
    if not 0 < step <= layers:
        raise SpecError(f"recompute {text!r} does not match the {layers} layers of the model")
    return layers // step


def _recompute_kind(row: Fields, conventions: Conventions, assumed: list[str]) -> Recompute:
    text = row.text("recompute").lower()
    if not text:
        assumed.append(f"recompute {conventions.recompute}")
        return conventions.recompute
    if PARTLY.search(text):
        raise SpecError(
            f"recompute {row.text('recompute')!r} is not understood; expected such words as full, none, 8 of 32 layers"
        )
    # No policy of torchtitan is of the attention core alone, as Megatron's "selective" is.
    by_operation = r"selective( ac|$)" if conventions.name == "torchtitan" else r"selective ac"
    if re.search(rf"per[- ]op|{by_operation}|operators|\bminimal|\bdots", text):
        return "operators"
    if text in ("no", "off", "disabled", "false"):
        return "none"
    if NOTHING_KEPT.search(text):
        return "full"
    kinds: tuple[Recompute, ...] = ("none", "full", "selective")
    for word in kinds:
        if word in text:
            return word
    if text in ("yes", "on", "enabled", "true", *CHECKPOINTED):
        assumed.append("recompute full")
        return "full"
    raise SpecError(f"recompute {row.text('recompute')!r} is none of none, selective, operators, full")
