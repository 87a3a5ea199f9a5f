"""Open files that somebody else names, so that none of them keeps a reader waiting without an end."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Without `O_NONBLOCK`, opening a pipe waits until somebody opens it for writing."""


def open_ending(path: str | os.PathLike[str], *, pipes: bool = False, buffering: int = -1) -> BinaryIO:
    """Return a file that is open for reading, and that has an end.

    A device such as `/dev/zero` has none, nor has a pipe whose writer says nothing. With `pipes` a pipe is taken, as
    `<(command)` of a shell is one, and so is a terminal; a pipe that nobody writes to is empty. Raises `OSError` with
    the reason for anything else.
    """
    fd = os.open(path, _FLAGS)
    try:
        _check(fd, pipes)
        return os.fdopen(fd, "rb", buffering)
    except BaseException:
        os.close(fd)
        raise


def _check(fd: int, pipes: bool) -> None:
    """Raise `OSError` where an open file may have no end, and let reads from it wait for what comes."""
    kind = os.fstat(fd).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(kind):
        if not (pipes and (stat.S_ISFIFO(kind) or os.isatty(fd))):
            what = "a pipe" if stat.S_ISFIFO(kind) else "a device"
            raise OSError(errno.EINVAL, f"it is {what}, expected a file")
        os.set_blocking(fd, True)
