"""Live values on disk, so that all processes and nodes of a user ask a provider once an interval between them.

Values are kept for this user only: most providers do not allow them to be passed on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from carbon_plugin.footprint.live.provider import LiveSample

CACHE_VARIABLE = "CARBON_PLUGIN_CACHE"


def cache_dir(environ: Mapping[str, str]) -> Path:
    """Where live values are kept: CARBON_PLUGIN_CACHE, else the user's cache directory."""
    stated = environ.get(CACHE_VARIABLE)
    if stated:
        return Path(stated)
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "carbon_plugin"


class DiskCache:
    """The newest value of one zone of one provider. A directory that cannot be used is as good as an empty one."""

    def __init__(self, folder: Path, provider: str, zone: str) -> None:
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in f"{provider}-{zone}")
        self._folder = folder
        self._file = folder / f"{safe}.json"
        self._claims = f"{safe}.asked-"

    def read(self) -> LiveSample | None:
        """The value that somebody fetched last, None if there is none that can be read."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=LiveSample)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, sample: LiveSample) -> None:
        """Keep a value; a failure costs the others a question, no more."""
        partial = self._file.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.touch(mode=0o600)
            partial.write_bytes(msgspec.json.encode(sample))
            os.replace(partial, self._file)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()

    def claim(self, slot: int) -> bool:
        """Whether this process is the one that asks in this interval (`slot` counts them)."""
        name = f"{self._claims}{slot}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            return True
        try:
            os.close(os.open(self._folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        except OSError:
            return True
        with contextlib.suppress(OSError):  # another process may tidy up at the same time
            for old in self._folder.glob(f"{self._claims}*"):
                if old.name != name:
                    old.unlink()
        return True
