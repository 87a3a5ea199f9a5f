"""Read which matrices of a layer have low-rank adapters, from the names of the modules that hold them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from carbon_plugin.detect.shape.parameters import is_adapter
from carbon_plugin.spec.models.adapters import Adapters

if TYPE_CHECKING:
    from torch import nn

FEED_FORWARD = re.compile(
    r"(?i)mlp|ffn|feed_?forward|expert|^(gate|up|down)_|^(w[123]|fc\w*|dense_h_to_4h|dense_4h_to_h)$"
)
"""The names of feed-forward blocks and of their matrices in transformers, torchtune and Megatron."""
OUTPUT = re.compile(r"(?i)^(o|out|output|c)_?proj\w*$|^(wo|o|out|dense|linear_proj|out_lin)$")
"""The names of the output projection of an attention."""
QUERY_OR_VALUE = re.compile(r"(?i)^(q|v|query|value|wq|wv)(_?proj\w*|_lin)?$")
"""The names of the projections to queries alone and to values alone."""


def adapted_matrices(model: nn.Module) -> Adapters | None:
    """Return which matrices of a layer have low-rank adapters, or None without any adapter.

    An adapter on any matrix of a feed-forward block stands for adapters on all matrices, one on an output projection
    for adapters on the four of the attention. Where queries and values have projections and adapters of their own,
    keys may have none.
    """
    holders = _holders(model)
    if not holders:
        return None
    if any(FEED_FORWARD.search(part) for holder in holders for part in holder):
        return "all_matrices"
    if any(OUTPUT.match(holder[-1]) for holder in holders):
        return "attention"
    return "query_value" if all(QUERY_OR_VALUE.match(holder[-1]) for holder in holders) else "query_key_value"


def adapter_dropout(model: nn.Module) -> float:
    """Return the largest dropout of the inputs of adapters, 0 without any (`lora_dropout` of PEFT)."""
    shares = [getattr(part, "p", 0.0) for name, part in model.named_modules() if "lora_dropout" in name.split(".")]
    return max(map(float, shares), default=0.0)


def _holders(model: nn.Module) -> set[tuple[str, ...]]:
    """Return the paths of the modules that have an adapter, each as the names on the way to it."""
    found = set()
    for name, _ in model.named_parameters():
        if is_adapter(name):
            parts = name.split(".")
            first = next(index for index, part in enumerate(parts) if "lora_" in part)
            if first:
                found.add(tuple(parts[:first]))
    return found
