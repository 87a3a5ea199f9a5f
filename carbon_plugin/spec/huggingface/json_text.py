"""Read a `config.json` as Python's json writes it, with Infinity and NaN, which are no part of JSON itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.boundary import UNREADABLE, read_text, reason_of


def read_config(file: Path) -> dict[str, Any]:
    """Return the mapping in a file. Raises `SpecError` naming the file if it is missing or holds no mapping."""
    if not os.path.lexists(file):
        raise SpecError(f"{file}: no such file, expected a Hugging Face config.json")
    text = read_text(file, SpecError)
    try:
        config = json.loads(text)
    except UNREADABLE as error:
        raise SpecError(f"{file}: not valid JSON: {reason_of(error)}") from error
    if not isinstance(config, dict):
        raise SpecError(f"{file}: expected a mapping, got {type(config).__name__}")
    return config
