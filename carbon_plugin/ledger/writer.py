"""Append records to one ledger file. This module does not read, and does not decide what to record."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from threading import Lock

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.codec import encode_record
from carbon_plugin.ledger.files import ledger_name
from carbon_plugin.ledger.records import Record

# Processes that the training starts do not inherit the file, and Windows does not change its line breaks.
_PLAIN: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
_MAX_ATTEMPTS = 100_000
_SYNC_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EROFS})


class LedgerWriter:
    """Owns one file `node-<node>.attempt-<attempt>.jsonl` that no other process writes.

    Each record is one `write` call on a file opened for appending, so it reaches the kernel whole or not at all. A
    process killed at any moment loses at most the record that it was writing. Only a machine that loses power can lose
    more, up to `sync_interval_s` seconds, because the file is not synced to disk at every record. If somebody removes
    the file, it is put back with all that it held, where the system lets a removed file be read (Linux).

    `attempt` is the first number that is free, counted from `attempt`. `rank` distinguishes the files of ranks of one
    node that each meter their own GPU. The class is thread-safe. In a forked child every method does nothing. Raises
    `LedgerError` when the file cannot be created or written. After a failed `write` the file holds what it held before,
    and a later `write` may succeed.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        run_id: str,
        node: int,
        rank: int | None = None,
        attempt: int = 0,
        sync_interval_s: float = 60.0,
    ) -> None:
        self.run_id = run_id
        self._lock = Lock()
        self._pid = os.getpid()
        self._sync_interval_s = sync_interval_s
        self._synced_s = time.monotonic()
        self._end = (chain.seed(run_id), 0)  # chain and size in bytes after the last whole record
        self._torn = False
        self.records = 0
        self.path, self.attempt, self._fd = _create_file(Path(run_dir), node, rank, attempt)

    @property
    def head(self) -> str:
        """Return the chain after the last record, 32 hex digits. It is the anchor to keep outside of the run
        directory."""
        return self._end[0].hex()

    @property
    def has_moved(self) -> bool:
        """Return whether the open file is no longer the one at `path`, although it was not removed: somebody has moved
        it, or the directory that holds it."""
        try:
            opened = os.fstat(self._fd)
            return opened.st_nlink > 0 and not os.path.samestat(opened, os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # it is closed, or its file system does not answer
            return False

    def write(self, record: Record) -> None:
        """Append one record."""
        if os.getpid() != self._pid:
            return
        payload = encode_record(record)
        with self._lock:
            if self._fd < 0:
                raise LedgerError(f"{self.path}: closed; a {type(record).__name__} came too late")
            try:
                self._append(payload)
                if time.monotonic() - self._synced_s >= self._sync_interval_s:
                    self._sync()
            except OSError as error:
                raise LedgerError(f"{self.path}: cannot write: {error.strerror or error}") from error

    def close(self) -> None:
        """Sync to disk and close. A second call does nothing."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._fd < 0:
                return
            try:
                self._sync()
            except OSError as error:
                raise LedgerError(f"{self.path}: cannot sync to disk: {error.strerror or error}") from error
            finally:
                os.close(self._fd)
                self._fd = -1

    def _append(self, payload: bytes) -> None:
        if os.fstat(self._fd).st_nlink == 0:
            self._put_back()
        previous, size = self._end
        if self._torn:
            os.ftruncate(self._fd, size)
        # If a full disk or a Ctrl-C interrupts this record, the next one removes what is left of it.
        self._torn = True
        following = chain.extend(previous, payload)
        line = chain.join_line(following, payload)
        written = os.write(self._fd, line)
        if written != len(line):  # a full disk takes the part that fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._end = (following, size + written)
        self._torn = False
        self.records += 1

    def _put_back(self) -> None:
        """Write the content of a removed file to a new one of the same name, and go on there."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(f"/proc/self/fd/{self._fd}", "rb") as removed, temporary.open("xb") as copy:
                shutil.copyfileobj(removed, copy)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_APPEND | _PLAIN)
            try:
                os.link(temporary, self.path)
            except OSError:
                os.close(descriptor)
                raise
        finally:
            temporary.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = descriptor

    def _sync(self) -> None:
        self._synced_s = time.monotonic()
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno not in _SYNC_NOT_SUPPORTED:
                raise


def _create_file(run_dir: Path, node: int, rank: int | None, attempt: int) -> tuple[Path, int, int]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | _PLAIN
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for number in range(attempt, attempt + _MAX_ATTEMPTS):
            path = run_dir / ledger_name(node, number, rank)
            try:
                return path, number, os.open(path, flags, 0o644)
            except FileExistsError:
                continue
    except OSError as error:
        raise LedgerError(f"{run_dir}: cannot create a ledger here: {error.strerror or error}") from error
    raise LedgerError(f"{run_dir}: {_MAX_ATTEMPTS} ledgers of node {node} exist already")
