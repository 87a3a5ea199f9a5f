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

CACHE_VARIABLE = "CARBON_PLUGIN_CACHE"


def cache_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder for live values: that of CARBON_PLUGIN_CACHE if it is set, else one in the user's cache."""
    stated = environ.get(CACHE_VARIABLE)
    if stated:
        return Path(stated)
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "carbon_plugin"


class DiskCache:
    """Keeps the newest value of one zone of one provider in a file. A folder that cannot be used counts as an empty
    cache.
    """

    def __init__(self, folder: Path, provider: str, zone: str) -> None:
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in f"{provider}-{zone}")
        self._folder = folder
        self._file = folder / f"{safe}.json"
        self._claims = f"{safe}.asked-"

    def read(self) -> LiveSample | None:
        """Return the value that any process fetched last, or None if there is none that can be read."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=LiveSample)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, sample: LiveSample) -> None:
        """Write a value. A failure raises nothing: the other processes then ask the provider themselves."""
        partial = self._file.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.touch(mode=0o600)
            partial.write_bytes(msgspec.json.encode(sample))
            os.replace(partial, self._file)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()

    def claim(self, slot: int) -> bool:
        """Claim the interval number `slot`, and return whether this process is the one that asks the provider in it."""
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
