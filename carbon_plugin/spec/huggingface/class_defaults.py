"""Look up the meaning of a missing key of a `config.json`: the default of its family's class, or an error that names
the key.

No key of a family's own parts (experts, periods, key/value heads, ...) is ever read by a rule for models in general.
The defaults stand in `data/class-defaults.json`; those that the code of a class derives stand in `families.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.families import Family, derived_defaults
from carbon_plugin.spec.huggingface.feeds import EXPERT_WIDTH, SHARED, TOP_K
from carbon_plugin.spec.huggingface.json_text import read_config
from carbon_plugin.spec.huggingface.keys import FFN, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCAB, ConfigKeys
from carbon_plugin.spec.huggingface.layers import EVERY, EXPERTS, FIRST_DENSE, SPARSE_LISTS, SWITCHES
from carbon_plugin.spec.huggingface.mixers import CONV, HEAD_DIM

VERSION = "transformers 5.24"
POSITIONS = ("n_positions", "max_position_embeddings")
WINDOW = ("sliding_window", "sliding_window_size", "attention_window_size")
ALIKE = (
    LAYERS, HIDDEN, HEADS, KV_HEADS, FFN, EXPERTS, TOP_K, SHARED, FIRST_DENSE, EVERY, CONV, HEAD_DIM, POSITIONS, WINDOW,
)  # fmt: skip
"""The groups of names for the same thing: where the config states one name of a group, the default of another name is
not used.
"""
OUTLINE = frozenset((*LAYERS, *HIDDEN, *HEADS, *VOCAB, "encoder_layers", "encoder_ffn_dim"))
"""The keys whose defaults are not used: a file that does not state them is not the whole config of a model, and is
refused.
"""
UNREMARKED = frozenset(POSITIONS)
OF_EXPERTS = (*TOP_K, *EXPERT_WIDTH[:-1])
"""The keys that only a model with experts uses."""


@cache
def class_defaults(name: str) -> dict[str, Any]:
    """Return the defaults of the class of a `model_type` for the keys that are read here, empty if it is unknown."""
    return {**_table().get(name, {}), **derived_defaults(name)}


def left_out(name: str, stated: Mapping[str, Any], *, nested: bool = False) -> dict[str, Any]:
    """Return the class defaults of what a config does not state.

    `name` is its `model_type` and `stated` what it states. `nested` says that it is nested in another config; such a
    config leaves out even the outline of the model where that equals the default.
    """
    defaults = class_defaults(name)
    windowed = {**defaults, **stated}.get("use_sliding_window", True)
    return {
        key: value
        for key, value in defaults.items()
        if (windowed or key not in WINDOW)
        and key not in stated
        and (nested or key not in OUTLINE)
        and not _is_stated_otherwise(key, stated, defaults)
    }


def defaults_note(name: str, filled: Mapping[str, Any]) -> str:
    """Return a note on which class defaults of a `model_type` are used where its config is silent, empty if none makes
    a difference.
    """
    named = [f"{key} {value}" for key, value in filled.items() if value and key[0] != "_" and key not in UNREMARKED]
    if not named:
        return ""
    return f"class defaults of {name} for {', '.join(named)} ({VERSION}), which the config leaves out"


def check_complete(keys: ConfigKeys, family: Family, filled: Mapping[str, Any]) -> None:
    """Raise `SpecError` if a config has keys of a part without the key that says how many of it there are.

    `keys` are the config with its class defaults, and `filled` are those defaults alone.
    """
    if not all(keys.flag(key, default=True) for key in SWITCHES):
        return
    if not any(key in keys.config for key in EXPERTS):
        found = next((key for key in OF_EXPERTS if keys.config.get(key)), None)
        if found:
            raise _missing(keys, family, EXPERTS, f"{found} says that its layers have experts")
    for key in set(EXPERTS) & set(filled):
        if filled[key] < (active := keys.optional(*TOP_K) or 0):
            raise _missing(
                keys, family, (key,), f"its default {filled[key]} is less than the {active} that a token uses"
            )


def _missing(keys: ConfigKeys, family: Family, looked_for: Sequence[str], why: str) -> SpecError:
    first, *others = looked_for
    also = f" (also looked for {', '.join(others)})" if others else ""
    return SpecError(
        f"{keys.origin}: key {first} is missing{also}, and {why}; add it as it stands in the code of {family.name}, or "
        "count the model (`carbon-plugin count`)"
    )


def _is_stated_otherwise(key: str, stated: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Return whether the config states the same thing by another name, or lists it layer by layer."""
    if key in FIRST_DENSE and (
        any(stated.get(name) for name in SPARSE_LISTS) or any(isinstance(stated.get(name), list) for name in EVERY)
    ):
        return True
    group = next((group for group in ALIKE if key in group), ())
    return any(name in stated and name not in defaults for name in group)


@cache
def _table() -> dict[str, dict[str, Any]]:
    path = Path(str(files("carbon_plugin.spec.huggingface"))) / "data" / "class-defaults.json"
    table: dict[str, dict[str, Any]] = read_config(path)["families"]
    return table
