"""Decide which process meters what on a host. Each GPU, and the host itself, is metered by the one process that holds
its lock.

The processes of a launch meet in a folder of the host's temporary directory. A process meters what it sees and no other
process holds. Local rank 0 takes what it sees at once, and the others leave that to it for a while. The locks are the
kernel's, so they are free the moment their holder dies. Where processes cannot meet (no common temporary directory, no
locks), each one meters what it sees, and the audit counts it once.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from carbon_plugin.detect.stages import StagePart
from carbon_plugin.monitor.guard import passes
from carbon_plugin.monitor.processes.scratch import Folder, forget_in_child

HOST = "host"
"""The name of the lock for CPU, memory and network of the host. The process that holds it is the leader."""
MEETINGS = "meetings"
KEPT_S = 86_400.0
MOST_LAUNCHES = 64
"""The most launches of one shell or script in one run that run beside each other or were killed within a day."""
LATEST_S = 300.0
"""A rank comes at most this long after all others of its launch have left. Whoever comes later is of another launch."""
_ALIVE, _CLAIM, _LEFT, _HOLD, _SEAT = ".alive", ".claim", ".left", "hold-", "rank-"

_HOLD_BYTES = 256
"""So long is the content of a lock, so that a shorter one leaves nothing of a longer one."""
_RETRY_S = 0.002
"""After this many seconds a lock is tried again, because a process that only looks whether it is held holds it for some
microseconds."""

DYING_S = 1.0
"""A process that takes something over from one that was killed waits for the rest of it for at most this many seconds.
The kernel frees the locks of a killed process one after the other, and closes its GPUs in between."""

State = Literal["held", "ended"]
T = TypeVar("T")


class Claim(Struct, frozen=True, kw_only=True):
    """Holds what a process tells the others of its host.

    `sees` are the GPUs that it sees since `since_s` (the host's monotonic clock), `cuda_visible_devices` what CUDA
    shows it, `uuids` the GPUs that it computes on, and `stages` the stages of a pipelined model that it holds.
    `settled` says that it has taken what it meters, and `looked` that it has seen its first step. `file` is the name of
    the ledger that it writes, empty if it writes none, and None as long as that is open.
    """

    rank: int
    local_rank: int
    since_s: float = 0.0
    cuda_visible_devices: str | None = None
    sees: list[str] = []
    uuids: list[str] = []
    stages: list[StagePart] = []
    settled: bool = False
    looked: bool = False
    file: str | None = None


class Hold(Struct, frozen=True, kw_only=True):
    """Holds the content of a device's lock.

    `state` says whether the holder has ended in an orderly way. `since_s` says since when the holder meters the device,
    or since when it no longer does, by the host's monotonic clock. `file` is the name of its ledger, or empty as long
    as it has none.
    """

    state: State
    since_s: float
    rank: int
    file: str = ""


class _Lock(NamedTuple):
    """Holds the descriptor of a device's lock, -1 without one, and what an earlier holder has left in it."""

    fd: int
    before: Hold | None


_NO_LOCK = _Lock(-1, None)

# Made with the module: a type is looked through when its first decoder is made, and that takes longer than a turn.
_claim_decoder, _hold_decoder = msgspec.json.Decoder(Claim), msgspec.json.Decoder(Hold)


class Election:
    """One process's view of the meeting place of its launch on one host. It is not thread-safe; the monitor thread owns
    it.

    `meeting` names the launch: the run, the host, the node's number, and what tells launches apart. A launch has one
    process of each `rank`, and `ranks` of them on this host. A second one of a rank belongs to another launch of the
    same shell or script, and goes to the next folder; so does a process that comes long after all others have left.
    Without a `scratch` folder, or where it cannot be used, this process is alone and takes whatever it asks
    for. The `scratch` folder is closed here. Raises `OSError` where no file can be opened at this moment.
    """

    def __init__(self, meeting: str, scratch: Folder | None, rank: int, ranks: int = 1) -> None:
        self._ranks = ranks
        self._id = uuid.uuid4().hex
        self._name = ""
        self._top: Folder | None = None
        self._folder: Folder | None = None
        self._alive_fd = -1
        self._held: dict[str, int] = {}
        self._since_s: dict[str, float] = {}
        self._file = ""
        self._own: Claim | None = None
        self.follows = False
        """Whether this process took something from a process of its launch that was lost or has ended. What happened
        before is in that process's ledger."""
        self.followed: tuple[str, ...] = ()
        """The names of the ledgers of those processes."""
        forget_in_child(self)
        if scratch is not None:
            try:
                self._join(scratch, meeting, rank)
            except OSError as error:
                if passes(error):
                    self.forget()
                    raise
            finally:
                scratch.close()

    @property
    def alone(self) -> bool:
        """Return whether there is no meeting place."""
        return self._folder is None

    @property
    def held(self) -> tuple[str, ...]:
        """Return the devices that this process meters."""
        return tuple(self._held)

    def claim(self, claim: Claim) -> None:
        """Publish the claim of this process. A later claim replaces the one before."""
        self._own = claim
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.publish(self._id + _CLAIM, msgspec.json.encode(claim))

    def claims(self, *, living: bool = False) -> list[Claim]:
        """Return the claims of this launch's processes, this one's included, ordered by rank.

        They are those of living processes and, unless only the `living` are asked for, of those that have ended in an
        orderly way.
        """
        found = {} if self._own is None else {self._id: self._own}
        folder = self._folder
        if folder is not None:
            with contextlib.suppress(OSError):
                names = folder.names()
                for member in dict.fromkeys(name.partition(".")[0] for name in names if name.endswith((_CLAIM, _LEFT))):
                    claim = found.get(member)
                    if claim is None and folder.locked(member + _ALIVE):
                        claim = _decoded(folder.read(member + _CLAIM), _claim_decoder)
                    if claim is None and not living:
                        claim = _decoded(folder.read(member + _LEFT), _claim_decoder)
                    if claim is not None:
                        found[member] = claim
        return sorted(found.values(), key=lambda claim: claim.rank)

    def publish(self, suffix: str, content: bytes) -> None:
        """Publish a message for the other processes of the launch. It replaces the earlier message under that
        suffix.
        """
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.publish(self._id + suffix, content)

    def published(self, suffix: str) -> list[bytes]:
        """Return the messages of this launch's living processes under a suffix, including that of this process."""
        folder = self._folder
        if folder is None:
            return []
        try:
            names = [name for name in folder.names() if name.endswith(suffix)]
            living = [name for name in names if self._is_living(folder, name.removesuffix(suffix))]
            return [content for name in living if (content := folder.read(name)) is not None]
        except OSError:
            return []

    def _is_living(self, folder: Folder, member: str) -> bool:
        return member == self._id or folder.locked(member + _ALIVE)

    def take(
        self, keys: Iterable[str], since_s: float, *, left_s: float | None = None, only_left: bool = False
    ) -> tuple[str, ...]:
        """Take the devices that no process holds, and return those that were taken.

        A device that a process has given up in an orderly way is taken only if that was at least `left_s` seconds ago,
        and never without `left_s`. With `only_left` no other device is taken. What a process that was killed has held
        is taken together. Raises `OSError`, and takes nothing, where no file can be opened at this moment.
        """
        taken: dict[str, _Lock] = {}
        open_, end_s = [key for key in keys if key not in self._held], time.monotonic() + DYING_S
        while open_:
            for key in open_:
                try:
                    lock = self._locked(key, left_s, only_left)
                except OSError as error:
                    if passes(error):
                        _close(lock.fd for lock in taken.values())
                        raise
                    lock = _NO_LOCK  # locks do not work here, and metering twice is better than not at all
                if lock is not None:
                    taken[key] = lock
            open_ = self._dying(open_, taken) if time.monotonic() < end_s else []
        for key, (fd, before) in taken.items():
            self._held[key] = fd
            self._since_s[key] = since_s
            self.follows |= before is not None
            if before is not None and before.file and before.file not in self.followed:
                self.followed += (before.file,)
            self._write(key, "held", since_s)
        return tuple(taken)

    def tell_file(self, file: str) -> None:
        """Tell whoever takes something over from this process the name of its ledger."""
        if file != self._file:
            self._file = file
            for key in self._held:
                self._write(key, "held", self._since_s[key])

    def held_since(self, keys: Iterable[str]) -> dict[str, float]:
        """Return which of these devices another living process meters, and since when by the host's monotonic clock,
        s."""
        others = {}
        folder = self._folder
        for key in keys:
            if folder is None or key in self._held or not folder.locked(_lock_of(key)):
                continue
            hold = _decoded(folder.read(_lock_of(key)), _hold_decoder)
            if hold is not None and hold.state == "held":
                others[key] = hold.since_s
        return others

    def left_since(self, keys: Iterable[str]) -> dict[str, float]:
        """Return which of these devices were given up in an orderly way and are metered by nobody since, and since when
        by the host's monotonic clock, s."""
        left = {}
        folder = self._folder
        for key in keys:
            if folder is None or key in self._held or folder.locked(_lock_of(key)):
                continue
            hold = _decoded(folder.read(_lock_of(key)), _hold_decoder)
            if hold is not None and hold.state == "ended":
                left[key] = hold.since_s
        return left

    def end(self, until_s: float | None = None) -> None:
        """Give up everything for good, in an orderly way. The last process removes the meeting place, once all ranks of
        this host have been there: a rank that starts late must find out what was metered before it.

        The claim of this process stays until then, because the leader may read it only after a quick rank has ended.
        `until_s` is the monotonic moment up to which this process has metered, now by default.
        """
        for key in self._held:
            self._write(key, "ended", time.monotonic() if until_s is None else until_s)
        folder, top = self._folder, self._top
        if folder is not None and top is not None:
            with contextlib.suppress(OSError):
                if self._own is not None:
                    folder.publish(self._id + _LEFT, msgspec.json.encode(self._own))
                for suffix in (_CLAIM, _ALIVE):
                    folder.remove(self._id + suffix)
                if not _is_lived_in(folder) and _seats(folder) >= self._ranks:
                    top.remove(self._name)
        self.forget()

    def forget(self) -> None:
        """Close all files. In a forked child the parent goes on holding its locks."""
        _close((*self._held.values(), self._alive_fd))
        self._held, self._alive_fd = {}, -1
        for folder in (self._folder, self._top):
            if folder is not None:
                folder.close()
        self._folder = self._top = None

    def _join(self, scratch: Folder, meeting: str, rank: int) -> None:
        top = self._top = scratch.sub(MEETINGS)
        _forget_old_meetings(top)
        for number in range(MOST_LAUNCHES):
            name = blake2b(f"{meeting} {number}".encode(), digest_size=10).hexdigest()
            folder = top.sub(name)
            if top.age_s(name, time.time()) > LATEST_S and _seats(folder) and not _is_lived_in(folder):
                folder.close()
                continue
            try:
                fd = self._seated(folder, f"{_SEAT}{rank}")
            except OSError:
                folder.close()
                raise
            # The last process of a launch may remove the folder at this moment.
            if fd is not None and folder.same_as(name, top):
                self._name, self._folder, self._alive_fd = name, folder, fd
                return
            if fd is not None:
                os.close(fd)
            folder.close()

    def _seated(self, folder: Folder, seat: str) -> int | None:
        """Take a seat, and return the descriptor that says that this process is alive, or None if the seat is taken."""
        if not folder.create(seat):
            return None
        try:
            return folder.lock(self._id + _ALIVE)
        except OSError:
            folder.remove(seat)  # so that it can be taken again
            raise

    def _locked(self, key: str, left_s: float | None, only_left: bool) -> _Lock | None:
        """Return the lock of a device, or None if it cannot be had."""
        if self._folder is None:
            return _NO_LOCK
        fd = self._folder.lock(_lock_of(key))
        if fd is None:
            time.sleep(_RETRY_S)
            fd = self._folder.lock(_lock_of(key))
        if fd is None:
            return None
        before = _decoded(os.pread(fd, 4096, 0), _hold_decoder)
        if before is None or before.state == "held":
            refused = only_left
        else:  # such a lock says since when its holder has ended
            refused = left_s is None or time.monotonic() - before.since_s < left_s
        if refused:
            os.close(fd)
            return None
        return _Lock(fd, before)

    def _dying(self, keys: Iterable[str], taken: Mapping[str, _Lock]) -> list[str]:
        """Return the devices that are left with a process from which something was taken because it was lost."""
        lost = {before.rank for _, before in taken.values() if before is not None and before.state == "held"}
        folder = self._folder
        if folder is None or not lost:
            return []
        holds = {key: _decoded(folder.read(_lock_of(key)), _hold_decoder) for key in keys if key not in taken}
        return [key for key, hold in holds.items() if hold is not None and hold.state == "held" and hold.rank in lost]

    def _write(self, key: str, state: State, since_s: float) -> None:
        fd = self._held[key]
        if fd >= 0:
            rank = self._own.rank if self._own else 0
            content = msgspec.json.encode(Hold(state=state, since_s=since_s, rank=rank, file=self._file))
            with contextlib.suppress(OSError):  # on a full disk the lock itself still tells who meters the device
                os.pwrite(fd, content.ljust(_HOLD_BYTES), 0)


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)


def _is_lived_in(folder: Folder) -> bool:
    """Return whether any process of this meeting is alive."""
    return any(name.endswith(_ALIVE) and folder.locked(name) for name in folder.names())


def _seats(folder: Folder) -> int:
    """Return how many ranks have taken part in this meeting."""
    return sum(name.startswith(_SEAT) for name in folder.names())


def _lock_of(key: str) -> str:
    return _HOLD + blake2b(key.encode(), digest_size=10).hexdigest()


def _decoded(content: bytes | None, decoder: msgspec.json.Decoder[T]) -> T | None:
    try:
        return decoder.decode(content) if content else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # it is being written at this moment, or another version wrote it


def _forget_old_meetings(top: Folder) -> None:
    """Remove meeting places that were untouched for a day and in which no process lives, because all were killed."""
    now_s = time.time()
    for name in top.names():
        with contextlib.suppress(OSError):  # another process is tidying up as well
            if top.age_s(name, now_s) > KEPT_S:
                folder = top.sub(name)
                lived_in = _is_lived_in(folder)
                folder.close()
                if not lived_in:
                    top.remove(name)
