"""Find the model that a run names: a preset, a Hugging Face config, explicit fields, or fields that replace those of
one of the two.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.huggingface.config import load_hf_config
from carbon_plugin.spec.huggingface.keys import NAMES_OF_FIELDS
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.models.presets import find_preset, load_preset, with_implied_fields
from carbon_plugin.spec.parsing.boundary import Keys
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document, overlay
from carbon_plugin.spec.parsing.home import expanded

MODEL: Keys = ("model",)
BASES = ("preset", "config")
"""The keys of a model mapping that name the model over which its other fields are laid."""
KINDS = ("transformer", "counted")


def choose_model(document: Document, base: Path) -> TransformerModel | CountedModel:
    """Return the model that a run document states by name, path or mapping; paths are relative to `base`.

    Raises `SpecError` that names the place in the document.
    """
    stated = document.value["model"]
    if isinstance(stated, Mapping):
        return _from_fields(document, stated, base)
    with document.located(MODEL, field=True):
        return _named(stated, base)


def _named(name: str, base: Path) -> TransformerModel:
    """Return the preset of this name, else the model of the Hugging Face config at this path."""
    path = base / expanded(name)
    # Functions of os.path: a method of the path raises for a name that is too long for a file.
    there = os.path.exists(path)
    if path.suffix.lower() in (".yaml", ".yml") and os.path.isfile(path):
        raise SpecError(
            f"{path}: is a spec (YAML), and a model is a preset or a Hugging Face config.json: give the spec as the "
            f"argument, carbon-plugin plan {name} --accelerator ... (`count -o` writes such files)"
        )
    if there and ("/" in name or name.endswith(".json")):
        return load_hf_config(path)
    try:
        return load_preset(name)
    except SpecError:
        if there:
            return load_hf_config(path)
        if name.endswith(".json") or name.startswith((".", "/", "~")):
            raise SpecError(f"{path}: no such file, expected a Hugging Face config.json or its directory") from None
        raise


def _from_fields(document: Document, stated: Mapping[str, Any], base: Path) -> TransformerModel | CountedModel:
    """Return a model by its fields, laid over those of a preset or a config if one is named.

    A field that follows from the shape may be left out: `kv_heads` (as many as heads), `head_dim` (hidden over heads).
    """
    own = {key: value for key, value in stated.items() if key not in BASES}
    kind = own.get("type", "transformer")
    if kind not in KINDS:
        raise document.error((*MODEL, "type"), f"expected one of {', '.join(KINDS)}, got {kind!r}")
    with document.located(MODEL, field=True):
        below = _base_fields(stated, base)
        if below and "source" not in own:
            below["source"] = f"{below['source']}, with other {', '.join(own)}" if own else below["source"]
        fields = overlay(Document(below, "", {}), own, "").value
        counted = kind == "counted"
        fields = fields if counted else with_implied_fields(fields)
    plain = {"name": "custom", "source": "explicit fields"}
    complete = Document({"model": plain | fields}, document.origin, document.places)
    if counted:
        return decode(complete, CountedModel, MODEL)
    return decode(complete, TransformerModel, MODEL, NAMES_OF_FIELDS)


def _base_fields(stated: Mapping[str, Any], base: Path) -> dict[str, Any]:
    if all(key in stated for key in BASES):
        raise SpecError(f"give {' or '.join(BASES)}, not both")
    if "preset" in stated:
        name, preset = find_preset(str(stated["preset"]))
        return preset.model | {"name": name, "source": f"preset {name}: {preset.source}"}
    if "config" in stated:
        fields: dict[str, Any] = msgspec.to_builtins(
            load_hf_config(base / expanded(str(stated["config"])), stated=stated)
        )
        return fields
    return {}
