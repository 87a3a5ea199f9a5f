"""Read or make the secret that the nodes of a run share, so that nobody else's reports count. It is in a file of the
run, or the launcher sets it.

The id of a run is no secret, because it is in `run.json`, which others may read.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from carbon_plugin.errors import SpecError

KEY_VARIABLE = "CARBON_PLUGIN_RUN_KEY"
KEY_FILE = "run.key"
MIN_CHARACTERS = 16
MAX_BYTES = 1024
_CAREFUL: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def run_key(run_dir: Path, run_id: str, environ: Mapping[str, str], *, make: bool) -> bytes | None:
    """Return the key of this run, 32 bytes: from the environment, else from its directory. With `make`, a missing key
    file is made.

    Return None if there is no key yet. Raises `SpecError` for a key that is no secret, and `OSError` for a file that
    cannot be read or made.
    """
    secret = environ.get(KEY_VARIABLE, "").strip()
    if secret and len(secret) < MIN_CHARACTERS:
        raise SpecError(f"{KEY_VARIABLE} has {len(secret)} characters, expected at least {MIN_CHARACTERS} random ones")
    secret = secret or _from_file(run_dir / KEY_FILE, make=make) or ""
    return hashlib.blake2b(run_id.encode(), digest_size=32, key=_digest(secret)).digest() if secret else None


def forget_key(run_dir: Path) -> None:
    """Remove the key file, after which the reports of this launch count no more. Raises `OSError`."""
    (run_dir / KEY_FILE).unlink(missing_ok=True)


def _from_file(path: Path, *, make: bool) -> str | None:
    if make:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
    try:
        fd = os.open(path, os.O_RDONLY | _CAREFUL)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        state = os.fstat(fd)
        # Where files have no owner and no mode, nothing tells who has made them.
        others = hasattr(os, "geteuid") and (state.st_uid != os.geteuid() or state.st_mode & 0o077)
        if not stat.S_ISREG(state.st_mode) or others:
            raise SpecError(
                f"{path}: others may read or have made this key; remove the file, or give all nodes a key in "
                f"{KEY_VARIABLE}"
            )
        return file.read(MAX_BYTES).decode("ascii", errors="replace").strip() or None


def _digest(secret: str) -> bytes:
    return hashlib.blake2b(secret.encode(), digest_size=32).digest()
