"""Describe each kind of layer of a model whose layers differ, by the numbers with which `case.Shape` describes a layer.

A layer of one kind may lack a mixer or a feed-forward part, and it may mix tokens by attention, by a scan, or by both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carbon_plugin.spec.models.blocks import Block, FeedForward, Indexer, Mixer, ModelPart
from carbon_plugin.spec.models.model import TransformerModel

ATTENTION = ("attention", "latent_attention")
DELTA = ("gated_delta", "kimi_delta")
"""Linear attention that subtracts what its state already holds."""
STEPS = ("mamba", "recurrent", "rwkv", "short_conv", "linear")
"""Recurrences that cannot be written as products of chunks, and mixers without a state."""
CHUNK, DELTA_CHUNK = 256, 64
"""Tokens per chunk where the config does not say: the defaults of mamba_ssm (arXiv 2405.21060 section 6) and of
flash-linear-attention (arXiv 2412.06464)."""

Numbers = dict[str, float]


_NO_EXPERTS: Numbers = {"moe_layers": 0, "first_dense": 0}


def plain_kind() -> Numbers:
    """Return the numbers of this module for a plain transformer layer, which has both parts and no scan."""
    return {
        "parts": 1.0,
        "passes": 1.0,
        "more_columns": 0.0,
        "scan_heads": 0.0,
        "scan_groups": 0.0,
        "scan_key": 0.0,
        "scan_value": 0.0,
        "scan_chunk": 1.0,
        "scan_delta": 0.0,
        "scan_steps": 0.0,
        "of_input": 0.0,
        "cross_heads": 0.0,
        "cross_kv_heads": 0.0,
        "cross_dim": 0.0,
        **index_numbers(None),
    }


def index_numbers(indexer: Indexer | None) -> Numbers:
    """Return the numbers of what chooses the tokens that one attends to, or of attention to all of them."""
    if indexer is None:
        return {"index_heads": 0.0, "index_dim": 0.0, "chosen": np.inf}
    return {"index_heads": indexer.heads, "index_dim": indexer.head_dim, "chosen": indexer.top_k}


def kind_numbers(model: TransformerModel) -> list[Numbers]:
    """Return one set of numbers for each kind of layer. Equal layers form one kind, and `layers` is their number.

    Towers come first. The list is empty for a model that consists of equal layers only.
    """
    towers = [_tower(part) for part in model.parts if part.layers]
    if not model.blocks:
        return [*towers, {"mtp": 0}] if towers else []
    found: dict[Block, int] = {}
    for block in model.blocks:
        one = _single(block)
        found[one] = found.get(one, 0) + block.layers * block.passes
    return [*towers, *(_numbers(model, block, layers) for block, layers in found.items())]


def _tower(part: ModelPart) -> Numbers:
    """Return the numbers of a tower as equal layers of its own widths, which together hold all its parameters."""
    layer = part.parameters / part.layers
    inner = part.inner or 4 * part.hidden
    heads = part.heads or max(1, part.hidden // 64)
    return {
        **plain_kind(),
        **_NO_EXPERTS,
        "layers": part.layers,
        "hidden": part.hidden,
        "heads": heads,
        "kv_heads": heads,
        "qk_dim": part.hidden / heads,
        "v_dim": part.hidden / heads,
        "ffn": inner,
        "gated": 0.0,
        "mla": 0.0,
        "window": np.inf,
        "windowed_share": 0.0,
        "mtp": 0,
        "beside": 0,
        "attention_params": layer - 2 * part.hidden * inner - 2 * part.hidden,
        "bidirectional": 1.0,
        "of_input": 1.0,
    }


def _single(block: Block) -> Block:
    """Return a block that holds one layer of the given block."""
    return Block(
        layers=1,
        mixers=block.mixers,
        feed_forward=block.feed_forward,
        other_parameters=block.other_parameters,
        of_input=block.of_input,
        passes=block.passes,
    )


def _numbers(model: TransformerModel, block: Block, layers: int) -> Numbers:
    attending = [mixer for mixer in block.mixers if mixer.kind in ATTENTION and not mixer.of_input]
    crossing = [mixer for mixer in block.mixers if mixer.of_input]
    scanning = [mixer for mixer in block.mixers if mixer.kind not in ATTENTION]
    halves = bool(block.mixers) + (block.feed_forward is not None)
    numbers: Numbers = {
        **plain_kind(),
        "layers": layers,
        "parts": halves / 2,
        "passes": block.passes,
        "attention_params": sum(mixer.parameters for mixer in block.mixers),
        "mtp": 0,
        "beside": 0,
        "bidirectional": float(block.of_input or not model.causal),
        "of_input": float(block.of_input),
        "cross_heads": sum(mixer.heads for mixer in crossing),
        "cross_kv_heads": sum(mixer.kv_heads for mixer in crossing),
        "cross_dim": crossing[0].qk_dim if crossing else 0,
        **_attention(attending),
        **_scan(scanning),
        **_feed_forward(model, block.feed_forward, layers),
    }
    numbers["more_columns"] = _more_columns(model, numbers)
    return numbers


def _attention(mixers: Sequence[Mixer]) -> Numbers:
    """Return the numbers of a layer's attention.

    Several attentions side by side count as one that has all their heads.
    """
    first = mixers[0] if mixers else None
    window = first.window if first else None
    return {
        "heads": sum(mixer.heads for mixer in mixers),
        "kv_heads": sum(mixer.kv_heads for mixer in mixers),
        "qk_dim": first.qk_dim if first else 0,
        "v_dim": first.v_dim if first else 0,
        "window": window or np.inf,
        "windowed_share": float(window is not None),
        "mla": float(first is not None and first.kind == "latent_attention"),
        **index_numbers(first.indexer if first else None),
    }


def _scan(mixers: Sequence[Mixer]) -> Numbers:
    if not mixers:
        return {}
    first = mixers[0]
    delta = first.name in DELTA
    return {
        "scan_heads": max(first.heads, 1),
        "scan_groups": max(first.kv_heads, 1),
        "scan_key": first.qk_dim,
        "scan_value": first.v_dim,
        "scan_chunk": first.chunk or (DELTA_CHUNK if delta else CHUNK),
        "scan_delta": float(delta),
        "scan_steps": float(first.name in STEPS),
    }


def _feed_forward(model: TransformerModel, feed: FeedForward | None, layers: int) -> Numbers:
    """Return feed-forward widths that give the part its number of parameters, whatever matrices it really has."""
    nothing: Numbers = {**_NO_EXPERTS, "ffn": 0, "gated": float(model.gated)}
    if feed is None:
        return nothing
    matrices = 3 if feed.gated else 2
    per_width = matrices * model.hidden
    if not feed.experts:
        return {**nothing, "gated": float(feed.gated), "ffn": feed.parameters / per_width}
    return {
        **nothing,
        "gated": float(feed.gated),
        "moe_layers": layers,
        "experts": feed.experts,
        "top_k": feed.top_k,
        "expert_ffn": feed.width,
        "expert_hidden": feed.latent or model.hidden,
        # The projections down to the latent width and up again count as width that every token passes.
        "shared_ffn": feed.shared + 2 * feed.latent / matrices,
    }


def _more_columns(model: TransformerModel, numbers: Numbers) -> float:
    """Return the columns of a mixer's first products beyond queries, keys and values: gates and inputs of a scan."""
    if numbers["mla"]:
        return 0.0
    query = numbers["heads"] * numbers["qk_dim"]
    columns = query + numbers["kv_heads"] * (numbers["qk_dim"] + numbers["v_dim"])
    crossed = numbers["cross_heads"] * numbers["cross_dim"]
    columns += 2 * numbers["cross_kv_heads"] * numbers["cross_dim"]
    rows = numbers["heads"] * numbers["v_dim"] + numbers["scan_heads"] * numbers["scan_value"] + crossed
    return max(0.0, numbers["attention_params"] / model.hidden - columns - rows)
