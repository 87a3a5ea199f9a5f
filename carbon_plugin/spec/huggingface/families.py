"""Look up facts about a model family that only its code states and not its `config.json`.

The tables are in `spec/huggingface/data/families.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from msgspec import Struct

from carbon_plugin.spec.parsing.document import read_document

KINDS_OF_TOWERS = ("plain", "gated", "conformer", "convnext", "mobilenet", "frames")


class Family(Struct, frozen=True, kw_only=True):
    """One instance holds what the code of a model family states.

    `gated` is None where it is not known whether the feed-forward layer has a gate; `refused` says why the family is
    not read. `positions` are the default length of a learned position table, the number of rows beyond it, and the
    number of rows that no token of a sequence uses. `linear` is the module of the layers that have no attention, and
    `without_attention` says that all layers are such. `floored_heads` says that the width of a head is rounded down,
    `shared_out_values` that value heads of latent attention share out the hidden width where theirs is not stated,
    `full_rank_gates` that the gates of Kimi Delta Attention have one matrix each, `doubled_in_windows` that layers with
    a window have twice the key/value heads where the config does not state how many,
    `never_tied` that the output head is separate whatever the config says. `pooler` says that the class of an encoder
    without a head has a dense layer for whole texts, and `bare_head` that its language-model head has none before the
    vocabulary. `shared` says that layers share their weights, `qk_norm` that queries and keys
    pass a norm.
    """

    name: str
    gated: bool | None = None
    tied: bool = False
    biased: bool = False
    positions: tuple[int, int, int] | None = None
    encoder: bool = False
    floored_heads: bool = False
    shared_out_values: bool = False
    full_rank_gates: bool = False
    doubled_in_windows: bool = False
    never_tied: bool = False
    output_gate: bool = False
    qk_norm: bool = False
    linear: str | None = None
    without_attention: bool = False
    cross_attention: bool = False
    pooler: bool = True
    bare_head: bool = False
    shared: bool = False
    refused: str | None = None


def family_of(name: str) -> Family:
    """Return the family of a `model_type`. A family that is not known has its name and defaults for all else."""
    table = _table()
    positions = table["positions"]["families"].get(name)
    return Family(
        name=name,
        gated=_gated(name),
        tied=name in _names("tied"),
        biased=name in _names("biased"),
        positions=tuple(positions) if positions else None,
        encoder=name in _names("encoders"),
        floored_heads=name in _names("floored_heads"),
        shared_out_values=name in _names("shared_out_values"),
        full_rank_gates=name in _names("full_rank_gates"),
        doubled_in_windows=name in _names("doubled_in_windows"),
        never_tied=name in _names("never_tied"),
        output_gate=name in _names("output_gates"),
        qk_norm=name in _names("qk_norms"),
        linear=table["linear_layers"]["families"].get(name),
        without_attention=name in _names("without_attention"),
        cross_attention=name in _names("cross_attention"),
        pooler=name not in _names("without_pooler"),
        bare_head=name in _names("bare_heads"),
        shared=name in _names("shared_layers"),
        refused=table["refused"]["families"].get(name),
    )


def text_model_of(whole: str) -> str:
    """Return the `model_type` of a nested language model whose config states none, from that of the whole model."""
    nested = _table()["text_models"]["families"]
    return next((str(name) for name, wholes in nested.items() if whole in wholes.split()), whole)


class PatchEncoder(Struct, frozen=True):
    """One instance holds what the code of an encoder of patches states.

    `tokens` is the number of tokens beside patches and registers, `table` says that positions are a learned table, and
    `pooler` that the class without a head has a dense layer for the whole input.
    """

    tokens: int
    table: bool = False
    pooler: bool = False


def patch_encoder_of(name: str) -> PatchEncoder | None:
    """Return the facts of an encoder of patches, or None for another `model_type`."""
    found = _table()["patch_encoders"]["families"].get(name)
    return None if found is None else PatchEncoder(**found)


def is_wave_encoder(name: str) -> bool:
    """Return whether a `model_type` is an encoder of sound waves."""
    return name in _names("wave_encoders")


def with_nested_parts(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config with the keys of those parts that its `model_type` nests, under the names of other families."""
    found = dict(config)
    for part, renamed in _table()["nested_parts"]["families"].get(name, {}).items():
        own = config.get(part)
        if isinstance(own, Mapping):
            found |= {renamed.get(key, key): value for key, value in own.items() if key != "model_type"}
    return found


def derived_defaults(name: str) -> dict[str, Any]:
    """Return the values that the code of a `model_type` computes where its config lacks a key, without those of class
    attributes.
    """
    found: dict[str, Any] = _table()["derived_defaults"]["families"].get(name, {})
    return found


def tower_of(name: str) -> str | None:
    """Return the kind of a tower's layers, or None for a tower that is not known.

    It is "plain" or "gated" by the feed-forward layers, or another of `KINDS_OF_TOWERS`.
    """
    groups = _table()["towers"]
    return next((kind for kind in KINDS_OF_TOWERS if name in groups[kind].split()), None)


def has_position_table(tower: str) -> bool:
    """Return whether a tower adds a table of positions to its patches."""
    return tower not in _table()["towers"]["without_positions"].split()


def _gated(name: str) -> bool | None:
    groups = _table()["feed_forward"]
    for group, gated in (("gated", True), ("gated_elsewhere", True), ("plain", False)):
        if name in groups[group]["families"].split():
            return gated
    return None


@cache
def _names(group: str) -> frozenset[str]:
    return frozenset(_table()[group]["families"].split())


@cache
def _table() -> dict[str, Any]:
    path = Path(str(files("carbon_plugin.spec.huggingface"))) / "data" / "families.yaml"
    table: dict[str, Any] = read_document(path).value
    return table
