"""Keep live values on disk, so that all processes and nodes of one user together ask a provider once an interval.

Only this user can read the files, because most providers do not allow their values to be passed on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from carbon_plugin.footprint.live.provider import LiveSample
from carbon_plugin.spec.parsing.home import cache_folder

CACHE_VARIABLE = "CARBON_PLUGIN_CACHE"


def cache_dir(environ: Mapping[str, str]) -> Path | None:
    """Return the folder for live values: that of CARBON_PLUGIN_CACHE if it is set, else one in the user's cache, None
    where the user has none.
    """
    stated = environ.get(CACHE_VARIABLE)
    if stated:
        return Path(stated)
    base = cache_folder(environ)
    return None if base is None else base / "carbon_plugin"


class DiskCache:
    """Keeps the newest value of one zone of one provider in a file. No folder, or one that cannot be used, counts as an
    empty cache.
    """

    def __init__(self, folder: Path | None, provider: str, zone: str) -> None:
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in f"{provider}-{zone}")
        self._folder = folder
        self._name = f"{safe}.json"
        self._claims = f"{safe}.asked-"

    def read(self) -> LiveSample | None:
        """Return the value that any process fetched last, or None if there is none that can be read."""
        if self._folder is None:
            return None
        try:
            return msgspec.json.decode((self._folder / self._name).read_bytes(), type=LiveSample)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, sample: LiveSample) -> None:
        """Write a value. A failure raises nothing: the other processes then ask the provider themselves."""
        if self._folder is None:
            return
        file = self._folder / self._name
        partial = file.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.touch(mode=0o600)
            partial.write_bytes(msgspec.json.encode(sample))
            os.replace(partial, file)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()

    def claim(self, slot: int) -> bool:
        """Claim the interval number `slot`, and return whether this process is the one that asks the provider in it."""
        if self._folder is None:
            return True
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
        with contextlib.suppress(OSError):  # another process may delete the same files
            for old in self._folder.glob(f"{self._claims}*"):
                if old.name != name:
                    old.unlink()
        return True
