"""Find the shapes of well-known models by name, in `spec/data/models-*.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document, read_document
from carbon_plugin.spec.parsing.names import normalized, unknown_name


class Preset(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One preset holds a well-known model as its file states it.

    `model` holds the fields of `TransformerModel` that do not follow from its shape. `published_parameters` is the
    count that the model's makers give; the count of our fields lies within the fraction `published_within` of it.
    """

    model: dict[str, Any]
    source: str
    published_parameters: float
    published_within: float = 0.01
    aliases: list[str] = []
    note: str | None = None


def load_preset(name: str) -> TransformerModel:
    """Return the preset model of this name or alias. Raises `SpecError` listing the nearest names if there is none."""
    return preset_model(*find_preset(name))


def find_preset(name: str) -> tuple[str, Preset]:
    """Return the preset of this name or alias, with its name. Errors are those of `load_preset`."""
    wanted = normalized(name)
    for path in _preset_files():
        if wanted not in normalized(path.read_text(encoding="utf-8")):
            continue
        for known, preset in _presets_in(path).items():
            if wanted in map(normalized, (known, *preset.aliases)):
                return known, preset
    aliases = {known: preset.aliases for known, preset in list_presets().items()}
    raise unknown_name("model", name, aliases, aliases)


def list_presets() -> dict[str, Preset]:
    """Return every preset by name."""
    return {name: preset for path in _preset_files() for name, preset in _presets_in(path).items()}


def preset_model(name: str, preset: Preset) -> TransformerModel:
    """Return the model that a preset describes."""
    fields = with_implied_fields(preset.model) | {"name": name, "source": f"preset {name}: {preset.source}"}
    return decode(Document(fields, f"preset {name}", {}), TransformerModel)


def with_implied_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a transformer with those that follow from its shape where they are not stated.

    These are as many key/value heads as heads, and heads that share the hidden width equally. Raises `SpecError` if
    they cannot share it, or if there is no head.
    """
    hidden, heads, mla = fields.get("hidden"), fields.get("heads"), fields.get("mla")
    implied: dict[str, Any] = {"kv_heads": heads} if heads is not None else {}
    if isinstance(mla, Mapping) and "qk_nope_head_dim" in mla and "qk_rope_head_dim" in mla:
        implied["head_dim"] = mla["qk_nope_head_dim"] + mla["qk_rope_head_dim"]
    elif isinstance(hidden, int | float) and isinstance(heads, int | float):
        if heads <= 0:
            raise SpecError(f"heads is {heads:g}, expected a positive integer")
        if hidden % heads and fields.get("head_dim") is None:
            raise SpecError(f"hidden {hidden} is not a multiple of heads {heads}; give head_dim")
        implied["head_dim"] = hidden // heads
    return implied | {key: value for key, value in fields.items() if value is not None or key not in implied}


def _preset_files() -> Iterator[Path]:
    folder = Path(str(files("carbon_plugin.spec"))) / "data"
    return iter(sorted(folder.glob("models-*.yaml")))


@cache
def _presets_in(path: Path) -> dict[str, Preset]:
    document = read_document(path)
    return {name: decode(document, Preset, (name,)) for name in document.value}
