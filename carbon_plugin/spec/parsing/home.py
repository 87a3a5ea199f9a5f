"""Find home directories and the user's cache, also where there are none.

A container may run under any user id, without HOME and without an entry in its table of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.errors import SpecError

CACHE_VARIABLE = "XDG_CACHE_HOME"


def expanded(path: str) -> Path:
    """Return a path with the home directory that a leading ~ stands for. Raises `SpecError` where none is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SpecError(
            f"{path}: the home directory of this ~ is not known (HOME is not set, or there is no such user); expected "
            "the path in full"
        ) from None


def cache_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the folder of the user's caches, or None where neither XDG_CACHE_HOME nor a home directory is known."""
    stated = environ.get(CACHE_VARIABLE)
    if stated:
        return Path(stated)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None
