"""Read the shape of a Megatron decoder from its configuration, because its linears are local to a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carbon_plugin.detect.job import StatedShape
from carbon_plugin.spec.models.model import MixtureOfExperts

if TYPE_CHECKING:
    from torch import nn


def decoder_shape(model: nn.Module, config: Any) -> StatedShape | None:
    """Return the shape that a TransformerConfig states, as fields of a `TransformerModel`.

    Returns None without a decoder, and for a decoder with latent attention, windows, or an order of dense and sparse
    layers that those fields cannot state.
    """
    decoder: Any = next((module for module in model.modules() if _is_decoder(module, config)), None)
    sparse = config.num_moe_experts is not None
    mixture = _mixture(config) if sparse else None
    windowed = getattr(config, "window_size", None) is not None
    if decoder is None or config.multi_latent_attention or windowed or (sparse and mixture is None):
        return None
    positions = getattr(decoder, "position_embedding_type", None) == "learned_absolute"
    fields = {
        "layers": int(config.num_layers),
        "hidden": int(config.hidden_size),
        "heads": int(config.num_attention_heads),
        "kv_heads": int(config.num_query_groups or config.num_attention_heads),
        "head_dim": int(config.kv_channels),
        "ffn": int(config.ffn_hidden_size),
        "vocab": int(decoder.vocab_size),
        "gated": bool(config.gated_linear_unit),
        "tied_embeddings": bool(getattr(decoder, "share_embeddings_and_output_weights", False)),
        "learned_positions": int(decoder.max_sequence_length) if positions else 0,
        "qkv_bias": bool(config.add_qkv_bias or config.add_bias_linear),
        "mtp_layers": int(getattr(config, "mtp_num_layers", None) or 0),
        "moe": mixture,
    }
    name = type(decoder).__name__
    return StatedShape(name=name, fields=fields, source=f"config of {name}, a {type(config).__name__}")


def _is_decoder(module: nn.Module, config: Any) -> bool:
    return hasattr(module, "vocab_size") and getattr(module, "config", None) is config


def _mixture(config: Any) -> MixtureOfExperts | None:
    order = config.moe_layer_freq
    every, first = (order, 0) if isinstance(order, int) else (1, order.index(1) if 1 in order else len(order))
    if not isinstance(order, int) and list(order) != [0] * first + [1] * (len(order) - first):
        return None
    return MixtureOfExperts(
        experts=int(config.num_moe_experts),
        top_k=int(config.moe_router_topk),
        expert_ffn=int(config.moe_ffn_hidden_size or config.ffn_hidden_size),
        shared_ffn=int(config.moe_shared_expert_intermediate_size or 0),
        every=every,
        first_dense_layers=first,
        bias=bool(config.add_bias_linear),
    )
