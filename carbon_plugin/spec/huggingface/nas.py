"""Read the layers of a model that a search shaped one by one (Nemotron-NAS, DeciLM): each has its own heads
and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.keys import HEADS, HIDDEN, ConfigKeys
from carbon_plugin.spec.models.blocks import Block, FeedForward, Mixer

MULTIPLE = 256
"""The number to a multiple of which widths are rounded up (modeling_decilm.py, find_multiple)."""


def nas_blocks(keys: ConfigKeys) -> tuple[Block, ...]:
    """Return the layers under `block_configs`, with those alike counted together; empty where the config has none.

    The width of a layer is stated, or is 2/3 of the hidden width times `ffn_mult`, rounded up to `MULTIPLE`. Raises
    `SpecError` naming an entry that is not understood.
    """
    listed = keys.config.get("block_configs")
    if not isinstance(listed, list):
        return ()
    found: dict[Block, int] = {}
    for number, entry in enumerate(listed):
        where = f"{keys.origin}: block_configs[{number}]"
        if not isinstance(entry, Mapping):
            raise SpecError(f"{where}: expected a mapping, got {entry!r}")
        block = Block(
            layers=1,
            mixers=_mixers(keys, _section(entry, "attention", where), where),
            feed_forward=_feed(keys, _section(entry, "ffn", where), where),
            other_parameters=2 * keys.integer(*HIDDEN),
        )
        found[block] = found.get(block, 0) + 1
    return tuple(msgspec.structs.replace(block, layers=count) for block, count in found.items())


def _section(entry: Mapping[str, Any], name: str, where: str) -> ConfigKeys:
    section = entry.get(name)
    if not isinstance(section, Mapping):
        raise SpecError(f"{where}: {name}: expected a mapping, got {section!r}")
    return ConfigKeys(section, f"{where}: {name}")


def _mixers(keys: ConfigKeys, own: ConfigKeys, where: str) -> tuple[Mixer, ...]:
    hidden, heads = keys.integer(*HIDDEN), keys.integer(*HEADS)
    if own.flag("no_op", default=False):
        return ()
    if own.flag("replace_with_linear", default=False):
        return (Mixer(kind="convolution", name="linear", parameters=hidden * hidden, v_dim=hidden),)
    kv = heads // own.integer("n_heads_in_group")
    dim = keys.optional("head_dim") or hidden // heads
    return (
        Mixer(
            kind="attention",
            name="attention",
            parameters=2 * hidden * (heads + kv) * dim,
            heads=heads,
            kv_heads=kv,
            qk_dim=dim,
            v_dim=dim,
            window=own.optional("window_length") or None,
        ),
    )


def _feed(keys: ConfigKeys, own: ConfigKeys, where: str) -> FeedForward | None:
    hidden = keys.integer(*HIDDEN)
    if own.flag("no_op", default=False):
        return None
    if own.flag("replace_with_linear", default=False):
        count = hidden * hidden
        return FeedForward(width=hidden, parameters=count, active_parameters=count, gated=False)
    width = own.optional("intermediate_size") or int(2 * own.number("ffn_mult", 0.0) * hidden / 3)
    width = -(-width // MULTIPLE) * MULTIPLE
    if not width:
        raise SpecError(f"{where}: ffn: key ffn_mult is missing (also looked for intermediate_size)")
    count = 3 * hidden * width
    return FeedForward(width=width, parameters=count, active_parameters=count)
