"""Count what DeBERTa's attention holds and computes beside that of BERT: scores of contents against positions.

Each head scores the content of a token against the distance to every other one, and the reverse ("c2p" and "p2c" of He
et al. 2021, arXiv 2006.03654 section 3.1). Distances are embedded in one table that all layers share.
"""

from __future__ import annotations

from carbon_plugin.spec.huggingface.keys import HIDDEN, ConfigKeys
from carbon_plugin.spec.huggingface.layers import layer_count
from carbon_plugin.spec.models.blocks import ModelPart

FAMILIES = ("deberta", "deberta-v2")
NOTE = (
    "its scores of positions are counted as products, and what gathers them takes no time here; transformers runs its "
    "attention as single operations (stack.attention_kernel: eager)"
)
KINDS = ("c2p", "p2c")


def position_projections(keys: ConfigKeys) -> int:
    """Return the parameters with which one layer projects positions: none where it uses those of its contents."""
    if keys.flag("share_att_key", default=False):
        return 0
    return len(_kinds(keys)) * keys.integer(*HIDDEN) ** 2


def disentangled_parts(keys: ConfigKeys) -> list[ModelPart]:
    """Return the table of distances with the scores against it, and the convolution beside the first layer."""
    hidden, found = keys.integer(*HIDDEN), []
    if keys.flag("relative_attention", default=False):
        rows = 2 * _span(keys)
        scores = layer_count(keys) * len(_kinds(keys)) * rows * hidden
        found.append(ModelPart(name="relative positions", parameters=rows * hidden, products=scores))
    if kernel := keys.optional("conv_kernel_size"):
        count = kernel * hidden * hidden
        found.append(ModelPart(name="convolution of the tokens", parameters=count, products=count))
    return found


def _kinds(keys: ConfigKeys) -> list[str]:
    """Return which of the two scores are computed; configs list them or join them with a bar."""
    if not keys.flag("relative_attention", default=False):
        return []
    stated = keys.config.get("pos_att_type")
    words = stated.lower().split("|") if isinstance(stated, str) else stated or []
    return [kind for kind in KINDS if kind in words]


def _span(keys: ConfigKeys) -> int:
    """Return how far distances reach; -1 stands for no limit of its own."""
    limits = ["max_relative_positions"] if keys.text("model_type") == "deberta" else ["position_buckets"]
    for key in (*limits, "max_relative_positions"):
        value = keys.config.get(key)
        if type(value) is int and value > 0:
            return value
    return keys.integer("max_position_embeddings")
