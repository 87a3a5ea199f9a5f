"""Read the parts that mix the tokens of a layer from the keys of its `config.json`: widths and parameters.

There is one function for each kind of module. Sources: the classes of transformers 5.24 and the papers named beside
each function. Norms are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from carbon_plugin.spec.huggingface.disentangled import FAMILIES as DISENTANGLED
from carbon_plugin.spec.huggingface.disentangled import position_projections
from carbon_plugin.spec.huggingface.families import Family, family_of
from carbon_plugin.spec.huggingface.keys import HEADS, HIDDEN, KV_HEADS, ConfigKeys, shared_out_heads
from carbon_plugin.spec.huggingface.layers import MixerPlace, layer_count, layer_names
from carbon_plugin.spec.models.blocks import Indexer, Mixer

HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels", "dim_head", "d_head")
CHUNK = ("mamba_chunk_size", "chunk_size")
CROSS = "cross-attention"
CONV = ("mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim", "conv1d_width", "conv_L_cache")


def mixers_at(keys: ConfigKeys, family: Family, layer: int, place: MixerPlace, window: int | None) -> tuple[Mixer, ...]:
    """Return the mixers of one layer; `keys` are those of the layer."""
    if layer in (keys.indices("cross_attention_layers") or []):  # Llama 3.2 looks at the image there, and at no text
        return (msgspec.structs.replace(_attention(keys, family, layer, None, False), of_input=True, name=CROSS),)
    found: list[Mixer] = []
    if place in ("full", "sliding", "both"):
        found.append(_attention(keys, family, layer, window if place == "sliding" else None, place == "sliding"))
    if family.cross_attention:
        found.append(_cross_attention(keys))
    if place in ("other", "both"):
        assert family.linear is not None  # `layers` refuses such layers of other families
        found.append(OTHERS[family.linear](keys))
    return tuple(found)


def kv_heads_of(keys: ConfigKeys, family: Family) -> int:
    """Return the number of key/value heads, which is that of the heads where it is missing."""
    grouped = keys.flag("new_decoder_architecture", default=False)
    if family.name in ("falcon", "gpt_bigcode") and keys.flag("multi_query", default=True) and not grouped:
        return 1
    nested = keys.config.get("attn_config")
    if isinstance(nested, dict):
        keys = keys.with_changes(nested)
    return keys.optional(*KV_HEADS) or keys.integer(*HEADS)


def head_dim_of(keys: ConfigKeys, family: Family) -> int:
    """Return the width of a head: the stated one, else hidden over heads. Raises `SpecError` if they do not divide."""
    if stated := keys.optional(*HEAD_DIM):
        return stated
    heads = keys.integer(*HEADS) if family.floored_heads else shared_out_heads(keys, unless=HEAD_DIM[0])
    return keys.integer(*HIDDEN) // heads


def mla_of(keys: ConfigKeys) -> dict[str, Any]:
    """Return the ranks and widths of low-rank attention; `head_dim` of such a config is only the rotary part."""
    rope = keys.optional("qk_rope_head_dim")
    if rope is None:
        whole = keys.optional("qk_head_dim") or 0
        rope = max(0, whole - keys.integer("qk_nope_head_dim")) if whole else keys.integer("head_dim")
    return {
        "q_lora_rank": keys.optional("q_lora_rank"),
        "kv_lora_rank": keys.integer("kv_lora_rank"),
        "qk_nope_head_dim": keys.integer("qk_nope_head_dim"),
        "qk_rope_head_dim": rope,
        "v_head_dim": keys.optional("v_head_dim") or _value_width(keys),
        "indexer": None if (chosen := _indexer(keys, 0)) is None else msgspec.structs.asdict(chosen),
    }


def _indexer(keys: ConfigKeys, layer: int) -> Indexer | None:
    """Return what chooses the tokens that a layer attends to, in DeepSeek-V3.2 and its relatives, else None."""
    heads = keys.optional("index_n_heads")
    if not heads:
        return None
    shared = keys.names("indexer_types")[layer : layer + 1] == ["shared"]
    return Indexer(
        heads=0 if shared else heads, head_dim=keys.integer("index_head_dim"), top_k=keys.integer("index_topk")
    )


def _value_width(keys: ConfigKeys) -> int:
    """Return the width of a value head where a config of latent attention leaves it out. Raises `SpecError` for a
    family that always states it.
    """
    if not family_of(keys.text("model_type")).shared_out_values:
        return keys.integer("v_head_dim")
    return keys.integer(*HIDDEN) // keys.integer(*HEADS)


def is_biased(keys: ConfigKeys, family: Family) -> bool:
    """Return whether queries, keys and values have biases."""
    if keys.flag("no_bias", default=False) and family.name == "qwen":
        return True  # Qwen 1 keeps these three biases when it drops all others (modeling_qwen.py)
    return keys.flag("attention_bias", "qkv_bias", "enable_bias", "use_bias", "use_qkv_bias", default=family.biased)


def _attention(keys: ConfigKeys, family: Family, layer: int, window: int | None, sliding: bool) -> Mixer:
    hidden = keys.integer(*HIDDEN)
    if sliding:
        keys = _of_the_window(keys)
    if keys.optional("o_lora_rank"):
        return _compressed(keys, hidden, layer, window)
    if keys.optional("kv_lora_rank"):
        return _latent(keys, family, layer, window)
    heads, kv, dim = keys.integer(*HEADS), kv_heads_of(keys, family), head_dim_of(keys, family)
    if not sliding and keys.optional("global_head_dim") and "per_layer_config" not in keys.config:
        dim = keys.integer("global_head_dim")  # in Gemma 4 layers that see everything have wider heads
    same = keys.flag("attention_k_eq_v", default=False) and not sliding
    if same:
        kv = keys.optional("num_global_key_value_heads") or kv
    value = keys.optional("v_head_dim") or dim
    shared = keys.optional("num_kv_shared_layers") or 0
    own_kv = layer < layer_count(keys) - shared
    query, output = heads * dim, heads * value
    matrices = hidden * query + output * hidden
    if own_kv:
        matrices += hidden * kv * (dim if same else dim + value)
    if family.output_gate:
        matrices += hidden * output
    if family.name == "laguna" and keys.config.get("gating", True) not in (True, "per-head"):
        matrices += hidden * output  # a gate for each element in place of one a head
    if family.name == "jetmoe":  # its queries and outputs are experts (arXiv 2404.07413)
        matrices = 2 * hidden * kv * dim + keys.integer("num_local_experts") * 2 * hidden * kv * dim
    matrices += _positions_and_biases(keys, family, heads, kv, dim)
    return Mixer(
        kind="attention",
        name="attention",
        parameters=matrices,
        heads=heads,
        kv_heads=kv,
        qk_dim=dim,
        v_dim=value,
        window=window,
    )


def _positions_and_biases(keys: ConfigKeys, family: Family, heads: int, kv: int, dim: int) -> int:
    """Return the number of parameters that an attention holds beside its projections."""
    hidden, count = keys.integer(*HIDDEN), 0
    if family.name == "xlnet":  # it projects relative positions
        count += hidden * heads * dim
    if family.name in DISENTANGLED:
        count += position_projections(keys)
    if relative := keys.optional("d_rel"):  # each head computes relative positions from the token
        count += hidden * heads * relative
    if times := keys.optional("cca_time1"):  # Zaya convolves queries and keys, grouped by head
        count += (heads + kv) * dim * dim * times
    if is_biased(keys, family):
        count += heads * dim + 2 * kv * dim
    return count + (hidden if family.encoder else 0)


def _cross_attention(keys: ConfigKeys) -> Mixer:
    """Return the attention of a layer to the output of a tower."""
    hidden, heads = keys.integer(*HIDDEN), keys.integer(*HEADS)
    seen = keys.optional("encoder_hidden_size") or hidden
    return Mixer(
        kind="attention",
        name=CROSS,
        parameters=2 * hidden * (hidden + seen),
        heads=heads,
        kv_heads=heads,
        qk_dim=hidden // heads,
        v_dim=hidden // heads,
    )


def _of_the_window(keys: ConfigKeys) -> ConfigKeys:
    """Return the keys with the values that layers with a window have for themselves (`swa_...`)."""
    own = {key[4:]: value for key, value in keys.config.items() if key.startswith("swa_") and value is not None}
    if family_of(keys.text("model_type")).doubled_in_windows:
        own.setdefault(KV_HEADS[1], 2 * keys.integer(*KV_HEADS))
    return keys.with_changes(own) if own else keys


def _latent(keys: ConfigKeys, family: Family, layer: int, window: int | None) -> Mixer:
    """Return the latent attention of DeepSeek-V2 (arXiv 2405.04434 section 2.1).

    It includes the indexer of DeepSeek-V3.2 and an output gate where the config has them.
    """
    hidden, heads, mla = keys.integer(*HIDDEN), keys.integer(*HEADS), mla_of(keys)
    nope, rope, value = mla["qk_nope_head_dim"], mla["qk_rope_head_dim"], mla["v_head_dim"]
    rank, kv_rank = mla["q_lora_rank"], mla["kv_lora_rank"]
    query = heads * (nope + rope)
    count = hidden * rank + rank * query if rank else hidden * query
    count += hidden * (kv_rank + rope) + kv_rank * heads * (nope + value) + heads * value * hidden
    indexer = _indexer(keys, layer) if window is None else None
    count += indexer.parameters(hidden, rank) if indexer else 0
    if rank and keys.optional("gated_norm_rank"):  # A.X K2 has queries and gates from a doubled rank
        count += rank * query + 2 * rank * heads * value
    if family.output_gate or keys.flag("mla_use_output_gate", default=False):
        count += hidden * heads * value
    return Mixer(
        kind="latent_attention",
        name="latent attention",
        parameters=count,
        heads=heads,
        kv_heads=heads,
        qk_dim=nope + rope,
        v_dim=value,
        window=window,
        indexer=indexer,
    )


def _compressed(keys: ConfigKeys, hidden: int, layer: int, window: int | None) -> Mixer:
    """Return the attention of DeepSeek-V4.

    It has one key/value head, low-rank queries and a grouped low-rank output. A compressor of earlier tokens is added;
    in the layers that compress little it is twice as wide and has an indexer.
    """
    heads, dim = keys.integer(*HEADS), keys.integer("head_dim")
    rank, groups, out = keys.integer("q_lora_rank"), keys.integer("o_groups"), keys.integer("o_lora_rank")
    count = hidden * rank + rank * heads * dim + hidden * dim
    count += groups * out * (heads * dim // groups) + hidden * groups * out
    if layer_names(keys)[layer : layer + 1] == ["compressed_sparse_attention"]:
        index_heads, width = keys.integer("index_n_heads"), keys.integer("index_head_dim")
        count += 4 * hidden * dim + 4 * hidden * width + rank * index_heads * width + hidden * index_heads
    elif layer_names(keys)[layer : layer + 1] == ["heavily_compressed_attention"]:
        count += 2 * hidden * dim
    return Mixer(
        kind="attention",
        name="compressed attention",
        parameters=count,
        heads=heads,
        kv_heads=1,
        qk_dim=dim,
        v_dim=dim,
        window=window,
    )


def _inner(keys: ConfigKeys, *stated: str) -> int:
    """Return the width inside a state-space module: the stated one, or a multiple of the hidden width."""
    expand = keys.optional("mamba_expand", "expand") or 2
    return keys.optional(*stated) or expand * keys.integer(*HIDDEN)


def _mamba(keys: ConfigKeys) -> Mixer:
    """Return the state-space module of Mamba (arXiv 2312.00752 section 3.4).

    A config of nothing but such modules may state their inner width, which counts before `expand` (Falcon Mamba states
    an `expand` of 16 and a width of 2). In Jamba the same key is the width of its feed-forward layers.
    """
    hidden = keys.integer(*HIDDEN)
    inner = _inner(keys) if "mamba_expand" in keys.config else _inner(keys, "intermediate_size")
    state = keys.integer("mamba_d_state", "state_size")
    rank = keys.config.get("mamba_dt_rank", keys.config.get("time_step_rank", "auto"))
    steps = math.ceil(hidden / 16) if rank == "auto" else keys.integer("mamba_dt_rank", "time_step_rank")
    conv = keys.optional(*CONV) or 4
    count = 2 * hidden * inner + inner * hidden + inner * (steps + 2 * state) + steps * inner + inner * (state + conv)
    return Mixer(kind="state_space", name="mamba", parameters=count, heads=1, qk_dim=state, v_dim=inner)


def _mamba2(keys: ConfigKeys) -> Mixer:
    """Return the state-space module of Mamba-2 (arXiv 2405.21060 section 7)."""
    hidden = keys.integer(*HIDDEN)
    heads = keys.integer("mamba_n_heads", "mamba_num_heads", "num_heads")
    width = keys.optional("mamba_d_head", "mamba_head_dim", "head_dim")
    inner = keys.optional("mamba_d_ssm") or (heads * width if width else _inner(keys))
    state = keys.integer("mamba_d_state", "ssm_state_size", "state_size")
    groups = keys.optional("mamba_n_groups", "n_groups") or 1
    conv = keys.optional(*CONV) or 4
    mixed = inner + 2 * groups * state
    count = hidden * (inner + mixed + heads) + mixed * conv + inner * hidden
    return Mixer(
        kind="state_space",
        name="mamba2",
        parameters=count,
        heads=heads,
        kv_heads=groups,
        qk_dim=state,
        v_dim=inner // heads,
        chunk=keys.optional(*CHUNK),
    )


def _gated_delta(keys: ConfigKeys) -> Mixer:
    """Return the linear attention of Gated DeltaNet (arXiv 2412.06464)."""
    hidden = keys.integer(*HIDDEN)
    key_heads, value_heads = keys.integer("linear_num_key_heads"), keys.integer("linear_num_value_heads")
    key_dim, value_dim = keys.integer("linear_key_head_dim"), keys.integer("linear_value_head_dim")
    key, value = key_heads * key_dim, value_heads * value_dim
    conv = keys.optional(*CONV) or 4
    count = hidden * (2 * key + 2 * value + 2 * value_heads) + value * hidden + (2 * key + value) * conv
    return Mixer(
        kind="linear_attention",
        name="gated_delta",
        parameters=count,
        heads=value_heads,
        kv_heads=key_heads,
        qk_dim=key_dim,
        v_dim=value_dim,
    )


def _kimi_delta(keys: ConfigKeys) -> Mixer:
    """Return Kimi Delta Attention (arXiv 2510.26692), whose gates are of low rank unless the config or the family says
    otherwise.
    """
    hidden = keys.integer(*HIDDEN)
    own = keys.inner("linear_attn_config") or keys
    heads = own.integer("linear_num_heads", "num_heads", "num_attention_heads")
    dim = own.integer("linear_head_dim", "head_dim")
    conv = own.optional("short_conv_kernel_size", "linear_conv_kernel_dim") or 4
    wide = heads * dim
    low, full = hidden * dim + dim * wide, hidden * wide
    whole = family_of(keys.text("model_type")).full_rank_gates
    decay = full if whole else low
    gate = full if own.flag("use_full_rank_gate", default=whole) else low
    count = 3 * full + 3 * wide * conv + decay + gate + hidden * heads + wide * hidden
    return _linear("kimi_delta", count, heads, dim, dim)


def _linear(name: str, parameters: int, heads: int, key_dim: int, value_dim: int) -> Mixer:
    """Return a linear attention with as many heads of keys as of values."""
    return Mixer(
        kind="linear_attention",
        name=name,
        parameters=parameters,
        heads=heads,
        kv_heads=heads,
        qk_dim=key_dim,
        v_dim=value_dim,
    )


def _lightning(keys: ConfigKeys) -> Mixer:
    """Return the lightning attention of MiniMax-01 (arXiv 2501.08313)."""
    hidden, heads = keys.integer(*HIDDEN), keys.integer(*HEADS)
    dim = keys.optional("head_dim") or hidden // heads
    return _linear("lightning", 5 * hidden * heads * dim, heads, dim, dim)


def _short_conv(keys: ConfigKeys) -> Mixer:
    """Return the gated short convolution of LFM2."""
    hidden = keys.integer(*HIDDEN)
    count = 4 * hidden * hidden + hidden * (keys.optional(*CONV) or 3)
    return Mixer(kind="convolution", name="short_conv", parameters=count, v_dim=hidden)


def _recurrent(keys: ConfigKeys) -> Mixer:
    """Return the RG-LRU block of Griffin (arXiv 2402.19427 section 2.4)."""
    hidden, heads = keys.integer(*HIDDEN), keys.integer(*HEADS)
    width = keys.optional("lru_width") or hidden
    count = 3 * hidden * width + 2 * width * width // heads + width * (keys.optional(*CONV) or 4)
    return Mixer(kind="state_space", name="recurrent", parameters=count, heads=heads, v_dim=width // heads)


def _rwkv(keys: ConfigKeys) -> Mixer:
    """Return the time mixing of RWKV-4 (arXiv 2305.13048 section 3)."""
    hidden = keys.integer(*HIDDEN)
    width = keys.optional("attention_hidden_size") or hidden
    return Mixer(kind="linear_attention", name="rwkv", parameters=4 * hidden * width, heads=1, qk_dim=1, v_dim=width)


def _xlstm(keys: ConfigKeys) -> Mixer:
    """Return the matrix LSTM of xLSTM 7B (arXiv 2503.13427)."""
    hidden, heads = keys.integer(*HIDDEN), keys.integer(*HEADS)
    key, value = int(hidden * keys.number("qk_dim_factor", 0.5)), int(hidden * keys.number("v_dim_factor", 1.0))
    return _linear("mlstm", hidden * (2 * key + 3 * value + 2 * heads), heads, key // heads, value // heads)


OTHERS: dict[str, Callable[[ConfigKeys], Mixer]] = {
    "gated_delta": _gated_delta,
    "kimi_delta": _kimi_delta,
    "lightning": _lightning,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "recurrent": _recurrent,
    "rwkv": _rwkv,
    "short_conv": _short_conv,
    "xlstm": _xlstm,
}
"""The modules by the name that they have under `linear_layers` in `families.yaml`."""
