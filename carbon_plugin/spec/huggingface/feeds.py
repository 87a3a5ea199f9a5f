"""Read the feed-forward part of a layer from the keys of its `config.json`.

It is dense, or it has experts and what every token passes beside them.
"""

from __future__ import annotations

from carbon_plugin.spec.huggingface.families import Family
from carbon_plugin.spec.huggingface.keys import EXPERT_WIDTHS, FFN, HIDDEN, ConfigKeys
from carbon_plugin.spec.huggingface.layers import EXPERTS, FeedPlace, layer_count
from carbon_plugin.spec.models.blocks import FeedForward

TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_top_k",
    "moe_topk",
    "moe_k",
    "top_k_experts",
)
EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim")
SHARED_EACH = ("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size")
ONE_SHARED = frozenset({"deepseek_v4", "nemotron_h"})
"""The families that build one shared expert however many are stated."""
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
LATENT = ("routed_expert_hidden_size", "moe_latent_size", "moe_hidden_size")
"""The keys of a narrower hidden width of the routed experts, with a projection down to it and one up from it."""
BESIDE = frozenset({"gemma4_text", "hunyuan_v1_moe"})
"""The families whose sparse layers keep a dense feed-forward part beside the experts."""


def feed_at(keys: ConfigKeys, family: Family, place: FeedPlace, gated: bool, layer: int) -> FeedForward | None:
    """Return the feed-forward part of one layer, or None where it has none; `keys` are those of the layer."""
    if place == "none":
        return None
    hidden, matrices = keys.integer(*HIDDEN), 3 if gated else 2
    if place == "sparse":
        return _experts(keys, family, hidden, matrices)
    width = dense_width(keys, family, gated)
    shared = keys.optional("num_kv_shared_layers") or 0
    if keys.flag("use_double_wide_mlp", default=False) and layer >= layer_count(keys) - shared:
        width *= 2  # layers of Gemma 4 without keys and values of their own
    count = matrices * hidden * width
    if family.name == "rwkv":  # it adds the receptance of channel mixing
        count += hidden * hidden
    if family.name == "xmod":  # it adds an adapter for each language, by default of half the hidden width
        languages = len(keys.names("languages"))
        count += languages * 2 * hidden * (hidden // (keys.optional("adapter_reduction_factor") or 2))
    return FeedForward(width=width, parameters=count, active_parameters=count, gated=gated)


def dense_width(keys: ConfigKeys, family: Family, gated: bool) -> int:
    """Return the width of a dense feed-forward layer."""
    hidden = keys.integer(*HIDDEN)
    if family.name == "xlstm":
        multiple = keys.optional("ffn_round_up_to_multiple_of") or 1
        return -(-int(hidden * keys.number("ffn_proj_factor", 2.667)) // multiple) * multiple
    if gated:
        stated = keys.integer(*FFN)
    else:
        times = keys.optional("expansion_ratio", "intermediate_multiple_size") or 4
        stated = keys.optional(*FFN) or times * hidden
    if family.name in ("qwen", "recurrent_gemma"):
        return stated // 2  # each of their two first matrices has half of the stated width
    if family.name == "lfm2" and keys.flag("block_auto_adjust_ff_dim", default=True):
        multiple = keys.optional("block_multiple_of") or 256
        wanted = int(keys.number("block_ffn_dim_multiplier", 1.0) * int(2 * stated / 3))
        return -(-wanted // multiple) * multiple
    return stated


def expert_width(keys: ConfigKeys) -> int:
    """Return the width of one routed expert. Where images have their own experts, it is that of the experts
    for text.
    """
    listed = (
        keys.indices("moe_intermediate_size") if isinstance(keys.config.get("moe_intermediate_size"), list) else None
    )
    return listed[0] if listed else keys.integer(*EXPERT_WIDTH)


def image_experts(keys: ConfigKeys, gated: bool) -> int:
    """Return the parameters of those experts of one sparse layer that only images pass (ERNIE 4.5 VL)."""
    widths = keys.at(0).indices(EXPERT_WIDTHS) or []
    return sum((3 if gated else 2) * keys.integer(*HIDDEN) * width * keys.integer(*EXPERTS) for width in widths[1:])


def shared_width(keys: ConfigKeys, family: Family) -> int:
    """Return the summed width of what every token of a sparse layer passes beside the routed experts."""
    width = expert_width(keys)
    if family.name.startswith("llama4"):
        return width
    if family.name in BESIDE:
        return keys.integer("intermediate_size")
    if family.name == "arctic":  # a dense part as wide as the model runs beside its experts
        return keys.integer(*HIDDEN) if keys.flag("use_residual", "parallel_attn_mlp_res", default=False) else 0
    summed = keys.optional(*SHARED_WIDTH)
    if summed is not None:
        return summed
    shared = keys.optional(*SHARED) or 0
    if family.name in ONE_SHARED:
        shared = min(shared, 1)
    return shared * (keys.optional(*SHARED_EACH) or width)


def latent_width(keys: ConfigKeys) -> int | None:
    """Return the hidden width of the routed experts, or None where it is that of the model."""
    return keys.optional(*LATENT) or None


def _experts(keys: ConfigKeys, family: Family, hidden: int, matrices: int) -> FeedForward:
    experts, width, shared = keys.integer(*EXPERTS), expert_width(keys), shared_width(keys, family)
    top_k = keys.integer(*TOP_K)
    latent = latent_width(keys)
    one = matrices * (latent or hidden) * width
    router = hidden * experts
    if inner := keys.optional("router_hidden_size"):  # the router of Zaya has several layers
        router = hidden * inner + 2 * inner * inner + inner * experts
    around = matrices * hidden * shared + router + (2 * hidden * latent if latent else 0)
    return FeedForward(
        width=width,
        parameters=experts * one + around,
        active_parameters=top_k * one + around,
        gated=matrices == 3,
        experts=experts,
        top_k=top_k,
        shared=shared,
        latent=latent or 0,
    )
