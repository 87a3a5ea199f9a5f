"""Keep files in a directory of this package within the host's temporary one. Only this user writes in it, and no link
in it is followed.

The temporary directory is everybody's. Whatever another user has put there under our name (a directory, a link, a file,
a FIFO) is left alone, and the next name is tried. Everything inside is reached through the open directory, so that
nobody can exchange it. Where no such directory can be had, processes do without it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from carbon_plugin.monitor.guard import passes

try:
    import fcntl
except ImportError:  # processes do not meet on a system without POSIX locks, such as Windows
    fcntl = None  # type: ignore[assignment]

NAMES_TRIED = 8
"""So many names are tried where other users have taken them. All processes of a user find the same one."""
MAX_BYTES = 1 << 20
"""At most this much of a file is read. Our own files hold kilobytes."""
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class Folder:
    """One open directory that belongs to this user. Every name is a plain name inside of it. Methods raise
    `OSError`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def sub(self, name: str) -> Folder:
        """Return a folder inside of this one, which is created if it is absent. Raises `OSError` if it is not a
        directory of this user.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._fd)
        return Folder(_own_directory(name, self._fd))

    def names(self) -> list[str]:
        """Return the names in the folder, sorted."""
        return sorted(os.listdir(self._fd))

    def age_s(self, name: str, now_unix_s: float) -> float:
        """Return the seconds since a file, or the content of a folder, has changed."""
        return now_unix_s - os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mtime

    def changed_unix_ns(self) -> int:
        """Return when a name was last added to the folder, replaced or removed, in Unix nanoseconds."""
        return os.fstat(self._fd).st_mtime_ns

    def read(self, name: str) -> bytes | None:
        """Return the content of a regular file, or None if there is none or something else has its name."""
        try:
            fd = os.open(name, os.O_RDONLY | _CAREFUL, dir_fd=self._fd)
        except OSError:
            return None
        try:
            return os.read(fd, MAX_BYTES) if _is_own_file(fd) else None
        finally:
            os.close(fd)

    def publish(self, name: str, content: bytes) -> None:
        """Write a file so that it is there as a whole or not at all. It replaces a file of that name."""
        with self._written(content) as temporary:
            os.replace(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def propose(self, name: str, content: bytes) -> None:
        """Write a file as a whole unless one of that name exists."""
        with self._written(content) as temporary, contextlib.suppress(FileExistsError):
            os.link(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def create(self, name: str) -> bool:
        """Make an empty file, and return whether there was none before."""
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o600, dir_fd=self._fd))
        except FileExistsError:
            return False
        return True

    def lock(self, name: str) -> int | None:
        """Return a descriptor that holds the lock of a file, or None if another process holds it.

        The kernel frees the lock when the descriptor is closed, and so the moment its holder dies.
        """
        fd = os.open(name, os.O_RDWR | os.O_CREAT | _CAREFUL, 0o600, dir_fd=self._fd)
        try:
            if not _is_own_file(fd):
                raise OSError(errno.EINVAL, f"{name} is not a regular file of this user")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in _HELD:
                return None
            raise
        return fd

    def locked(self, name: str) -> bool:
        """Return whether a living process holds the lock of a file."""
        try:
            fd = os.open(name, os.O_RDWR | _CAREFUL, dir_fd=self._fd)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _HELD
        finally:
            os.close(fd)
        return False

    def remove(self, name: str) -> None:
        """Remove a file or a link of this folder, or a folder of files in it, but nothing that a link points to."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=self._fd)
                return
            inside = self.sub(name)
            try:
                for file in inside.names():
                    os.unlink(file, dir_fd=inside._fd)
            finally:
                inside.close()
            os.rmdir(name, dir_fd=self._fd)

    def same_as(self, name: str, of: Folder) -> bool:
        """Return whether the folder `of` still contains this folder under that name."""
        try:
            there, here = os.stat(name, dir_fd=of._fd, follow_symlinks=False), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def close(self) -> None:
        """Close the directory. A second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextlib.contextmanager
    def _written(self, content: bytes) -> Iterator[str]:
        temporary = f".{uuid.uuid4().hex}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o600, dir_fd=self._fd)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._fd)


def open_scratch(temporary: Path | None = None) -> Folder | None:
    """Return our directory for this user in the host's temporary directory, or None where it cannot be created. Raises
    `OSError` where no file can be opened at this moment."""
    if fcntl is None or not hasattr(os, "geteuid"):
        return None
    try:
        top = os.open(temporary or tempfile.gettempdir(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if passes(error):
            raise
        return None
    try:
        for number in range(NAMES_TRIED):
            name = f"carbon-plugin-{os.geteuid()}" + (f"-{number}" if number else "")
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=top)
                return Folder(_own_directory(name, top))
            except OSError as error:
                if passes(error):
                    raise
                continue  # the name belongs to another user, or is no directory
    finally:
        os.close(top)
    return None


class Holder(Protocol):
    """Defines an object that holds open files of our directory."""

    def forget(self) -> None:
        """Close them, and leave everything on disk to the process that opened them."""
        ...


def forget_in_child(holder: Holder) -> None:
    """Let `holder` forget its files in a forked child, so that the locks of the parent end with the parent."""
    _HOLDERS.add(holder)


def _forget_all() -> None:
    for holder in list(_HOLDERS):
        holder.forget()


_HOLDERS: weakref.WeakSet[Holder] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _is_own_file(fd: int) -> bool:
    state = os.fstat(fd)
    return stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid()


def _own_directory(name: str, parent: int) -> int:
    """Return a descriptor of a directory that belongs to this user and that nobody else may write in."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _CAREFUL, dir_fd=parent)
    state = os.fstat(fd)
    if state.st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(errno.EPERM, f"{name} belongs to user {state.st_uid}")
    if state.st_mode & 0o077:
        os.fchmod(fd, 0o700)
    return fd


_CAREFUL: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""With these flags a link is an error and is not followed, and opening a FIFO waits for nobody."""
