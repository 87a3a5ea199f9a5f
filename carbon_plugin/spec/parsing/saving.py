"""Write files that a user names as the place of a result, so that none of them is lost, replaced or waited for by
mistake.

Every command and function that writes a result to a named place uses this module. A file is replaced in one step, so
that a reader never sees half of one. A link stays a link, and a pipe or a device stays what it is.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from pathlib import Path

NO_READER = "it is a pipe that no program reads, and writing would wait for one"
_IN_PLACE = ("/dev/", "/proc/")
"""Names below these folders stand for what is open elsewhere (`/dev/stdout`, `/dev/fd/63`), and are never replaced."""


def save(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write the whole content of a file, text as UTF-8. A file that exists is replaced and keeps its permissions.

    Raises `OSError` with the reason and the path where that cannot be done. A pipe is written if a program reads it.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        target = _replaced(path)
        if target is None:
            _write_in_place(Path(path), data)
        else:
            _replace(target, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    except ValueError as error:  # a path may hold a NUL character
        raise OSError(errno.EINVAL, str(error), str(path)) from None


def _replaced(path: str | os.PathLike[str]) -> Path | None:
    """Return the file that is to be replaced, with links followed, or None where it is to be written in place.

    Raises `OSError` where the path is a folder, or lies in a folder that does not exist. Nothing is changed.
    """
    target = Path(os.path.realpath(path))
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        os.stat(target.parent)
        if not target.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        return target
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    elsewhere = os.path.abspath(path).startswith(_IN_PLACE)
    if elsewhere or not stat.S_ISREG(kind) or not os.access(target.parent, os.W_OK):
        return None
    return target


def _write_in_place(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, flags)  # without O_NONBLOCK, opening a pipe waits until a program reads it
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, NO_READER) from None
        raise
    with os.fdopen(fd, "wb") as file:
        os.set_blocking(fd, True)
        file.write(data)


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
