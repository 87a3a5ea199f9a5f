"""Compute the plain fields of equal layers that stand for layers which differ.

The equal layers have the same widths in sum and the same attention in the mean. For a model whose layers are alike
these are the model's own fields. For others they say what a layout may split (heads, widths, number of layers); the
step is priced by the kinds of layers (`predict.case.kinds`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carbon_plugin.spec.huggingface.feeds import latent_width
from carbon_plugin.spec.huggingface.keys import HIDDEN, ConfigKeys
from carbon_plugin.spec.huggingface.mixers import mla_of
from carbon_plugin.spec.models.blocks import Block, FeedForward, Mixer

STATE_WINDOW = 256
"""The number of tokens that a layer with a state works on at once: the chunk of Mamba-2 and of gated delta rules. Such
a layer costs as much as attention over a window of that width.
"""
ROUND = 64
"""The number of which widths of the equivalent layers are multiples, so that tensor parallelism can divide them."""

QUADRATIC = ("attention", "latent_attention")


def is_hybrid(blocks: Sequence[Block]) -> bool:
    """Return whether some layers mix tokens by anything but attention to one another, or lack one of the two parts of a
    layer.
    """
    mixers = [mixer for block in blocks for mixer in block.mixers]
    if any(block.passes > 1 for block in blocks):
        return True
    if any(mixer.kind not in QUADRATIC or mixer.of_input for mixer in mixers):
        return True
    return any(not block.mixers or block.feed_forward is None for block in blocks)


def hybrid_note(blocks: Sequence[Block]) -> str:
    """Return a note that says which kinds of layers a model has, and how they are priced."""
    counts: dict[str, int] = {}
    for block in blocks:
        name = " beside ".join(dict.fromkeys(mixer.name for mixer in block.mixers)) or "feed-forward alone"
        if block.passes > 1:
            name += f" (passed {block.passes} times)"
        counts[name] = counts.get(name, 0) + block.layers
    total = sum(block.layers for block in blocks)
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"of {total} layers {listed}; its step is priced kind by kind, which few measurements have validated"


def equivalent_fields(blocks: Sequence[Block], keys: ConfigKeys) -> dict[str, Any]:
    """Return the fields of a `TransformerModel` with equal layers: heads, widths, window, experts and the number of
    layers.
    """
    mixing = sum(block.layers * block.passes for block in blocks if block.mixers)
    feeding = sum(block.layers * block.passes for block in blocks if block.feed_forward)
    layers = max(mixing, feeding, 1)
    mixers = [(block.layers * block.passes, mixer) for block in blocks for mixer in block.mixers]
    return {
        "layers": layers,
        **_heads(mixers, keys),
        **_window(mixers, layers, layers - mixing),
        **_widths(blocks, layers, keys),
    }


def _heads(mixers: Sequence[tuple[int, Mixer]], keys: ConfigKeys) -> dict[str, Any]:
    """Return the head counts and the head width of the attention that most layers have, or of another mixer if none has
    attention.
    """
    attending = [pair for pair in mixers if pair[1].kind in QUADRATIC] or list(mixers)
    main = max(attending, key=lambda pair: pair[0])[1]
    heads, kv = max(main.heads, 1), max(main.kv_heads, 1)
    if main.kind not in QUADRATIC and heads % kv:
        kv = heads
    fields: dict[str, Any] = {"heads": heads, "kv_heads": kv, "head_dim": max(main.qk_dim, 1)}
    if main.kind == "latent_attention":
        fields["mla"] = mla_of(keys)
    return fields


def _window(mixers: Sequence[tuple[int, Mixer]], layers: int, without: int) -> dict[str, Any]:
    """Return one window for all layers that do not see the whole sequence, and how many these are.

    `without` layers have no mixer and are taken to see one token.
    """
    spans: list[tuple[int, int]] = [(without, 1)] if without else []
    spans += [
        (count, (mixer.window or 0) if mixer.kind in QUADRATIC else STATE_WINDOW)
        for count, mixer in mixers
        if mixer.window is not None or mixer.kind not in QUADRATIC
    ]
    narrow = min(layers, sum(count for count, _ in spans))
    if not narrow:
        return {}
    width = sum(count * span for count, span in spans) // sum(count for count, _ in spans)
    return {"sliding_window": max(width, 1), "sliding_window_layers": narrow if narrow < layers else None}


def _widths(blocks: Sequence[Block], layers: int, keys: ConfigKeys) -> dict[str, Any]:
    feeds = [(block.layers * block.passes, block.feed_forward) for block in blocks if block.feed_forward]
    dense = [(count, feed) for count, feed in feeds if not feed.experts]
    sparse = [(count, feed) for count, feed in feeds if feed.experts]
    sparse_layers = sum(count for count, _ in sparse)
    fields: dict[str, Any] = {"ffn": _mean_width(dense, layers - sparse_layers) or _stated_width(sparse, keys)}
    if not sparse:
        return fields
    main = max(sparse, key=lambda pair: pair[0])[1]
    hidden, latent = keys.integer(*HIDDEN), latent_width(keys)
    fields["moe"] = {
        "experts": main.experts,
        "top_k": main.top_k,
        "expert_ffn": main.width * latent // hidden if latent else main.width,
        "shared_ffn": main.shared,
        "first_dense_layers": layers - sparse_layers,
        **_groups(keys),
        "bias": keys.text("model_type") == "gpt_oss",
    }
    return fields


def _groups(keys: ConfigKeys) -> dict[str, int]:
    """Return the groups of experts and how many of them a token may use, where the config limits a token to some."""
    groups, allowed = keys.optional("n_group"), keys.optional("topk_group")
    return {"groups": groups, "groups_per_token": allowed} if groups and allowed and allowed <= groups else {}


def _mean_width(dense: Sequence[tuple[int, FeedForward]], layers: int) -> int:
    """Return the width of the dense layers, or their mean over all layers that are not sparse; 0 without any."""
    if not dense or layers < 1:
        return 0
    widths = {feed.width for _, feed in dense}
    if len(widths) == 1 and sum(count for count, _ in dense) == layers:
        return dense[0][1].width
    mean = sum(count * feed.width for count, feed in dense) / layers
    return max(ROUND, round(mean / ROUND) * ROUND)


def _stated_width(sparse: Sequence[tuple[int, FeedForward]], keys: ConfigKeys) -> int:
    """Return the width of a dense layer where no layer is dense: the stated one, else that of the widest expert.

    It is 1 for a model without feed-forward parts.
    """
    stated = keys.config.get("intermediate_size_mlp", keys.config.get("intermediate_size"))
    if type(stated) is int and stated > 0:
        return stated
    return max((feed.width for _, feed in sparse), default=1)
