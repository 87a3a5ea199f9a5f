"""One meter process a host and run: who it is, and what the other ranks of the host tell it. Files and a lock, no talk.

The directory is local to the host (and to its container: ranks that share no temporary directory each lead their
own, and meter what they see). The lock is the kernel's, so it is free the moment its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from hashlib import blake2b
from pathlib import Path

import msgspec
from msgspec import Struct

from carbon_plugin.detect.stages import StagePart
from carbon_plugin.monitor.rundir import scratch_dir

LOCK = "leader.lock"
LEAD, END, METERED = "leads", "ended", "metered.json"
KEPT_S = 7 * 86_400.0


class Claim(Struct, frozen=True, kw_only=True):
    """What a rank tells the leader of its host: which GPUs CUDA shows it, which ones it computes on, and which stages
    of a pipelined model it holds."""

    rank: int
    local_rank: int
    pid: int
    cuda_visible_devices: str | None = None
    uuids: list[str] = []
    stages: list[StagePart] = []


class _Announcement(Struct, frozen=True):
    pid: int
    keys: list[str]


class Election:
    """The meeting place of a run's ranks on one host. Not thread-safe: the monitor thread owns it."""

    def __init__(self, run_id: str, host_key: str, scratch: Path | None = None) -> None:
        name = blake2b(f"{host_key}/{run_id}".encode(), digest_size=10).hexdigest()
        folder = scratch or scratch_dir()
        _forget_old_runs(folder)
        self._dir = folder / name
        self._dir.mkdir(mode=0o700, exist_ok=True)
        self._lock_fd = -1
        self._old_end, self._old_lead = self._mark(END), self._mark(LEAD)
        self._met_a_leader = self.announced() is not None
        self.follows = False
        """Whether this leader follows another of the same launch, whose ledger has what was before."""

    @property
    def leads(self) -> bool:
        """Whether this process is the leader."""
        return self._lock_fd >= 0

    def try_lead(self) -> bool:
        """Become the leader if nobody is. After an orderly end of the leader nobody follows it."""
        if self.leads:
            return True
        fd = _locked(self._dir / LOCK)
        if fd is None:
            return False
        if self._mark(END) != self._old_end:
            os.close(fd)
            return False
        self._lock_fd = fd
        self.follows = self.had_a_leader()
        self._publish(LEAD, uuid.uuid4().bytes)
        return True

    def had_a_leader(self) -> bool:
        """Whether another process has led in this launch."""
        if not self._met_a_leader:  # one that led before this object was made is known when it says what it meters
            self._met_a_leader = self._mark(LEAD) != self._old_lead or self.announced() is not None
        return self._met_a_leader

    def claim(self, claim: Claim) -> None:
        """Tell the leader about this rank; a later claim of the rank replaces the one before."""
        self._publish(f"rank-{claim.rank}.json", msgspec.json.encode(claim))

    def claims(self) -> list[Claim]:
        """Claims of ranks that are alive, by rank."""
        found = []
        for path in self._dir.glob("rank-*.json"):
            try:
                claim = msgspec.json.decode(path.read_bytes(), type=Claim)
            except (OSError, msgspec.MsgspecError):
                continue  # replaced or written by another version at this moment
            if _alive(claim.pid):
                found.append(claim)
        return sorted(found, key=lambda claim: claim.rank)

    def announce(self, keys: list[str]) -> None:
        """Tell the other ranks which GPUs the leader meters."""
        self._publish(METERED, msgspec.json.encode(_Announcement(os.getpid(), keys)))

    def announced(self) -> list[str] | None:
        """GPUs that a living leader meters; None if there is no such news yet."""
        try:
            news = msgspec.json.decode((self._dir / METERED).read_bytes(), type=_Announcement)
        except (OSError, msgspec.MsgspecError):
            return None
        return news.keys if _alive(news.pid) else None

    def end(self) -> None:
        """Give up leading for good, in an orderly way."""
        if self.leads:
            self._publish(END, uuid.uuid4().bytes)
            (self._dir / METERED).unlink(missing_ok=True)  # its process may live on, and measure another training
            self.forget()

    def forget(self) -> None:
        """Close the lock's file; in a forked child the parent goes on leading."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _mark(self, name: str) -> bytes | None:
        """What the last leader left behind when it began to lead, or at its orderly end; a mark from before this object
        is of an earlier launch, unless its leader was met alive."""
        try:
            return (self._dir / name).read_bytes()
        except OSError:
            return None

    def _publish(self, name: str, content: bytes) -> None:
        temporary = self._dir / f".{name}.{uuid.uuid4().hex}"
        temporary.write_bytes(content)
        temporary.replace(self._dir / name)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock of a file, None if another process holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _forget_old_runs(folder: Path) -> None:
    """Remove meeting places that nobody has touched for a week and nobody leads."""
    for lock in folder.glob(f"*/{LOCK}"):
        try:
            if time.time() - lock.parent.stat().st_mtime < KEPT_S:
                continue
            fd = _locked(lock)
        except OSError:
            continue  # another process is tidying up as well
        if fd is not None:
            shutil.rmtree(lock.parent, ignore_errors=True)
            os.close(fd)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
