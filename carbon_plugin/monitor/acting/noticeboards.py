"""Hold the messages by which ranks of a run agree on a stop or a pause: proposals, acknowledgements and decisions.

A board is a place that all ranks can reach: a folder of the run directory, or the store of torch.distributed where the
nodes share no directory. It keeps one promise: a decision is written once, and everybody reads the same one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from carbon_plugin.ledger.once import publish_once
from carbon_plugin.threads.own_thread import OwnThread

logger = logging.getLogger(__name__)

T = TypeVar("T")
STOP, GO_ON = b"stop\n", b"go on\n"
END = b"\n"
"""The content of a file that is complete ends with this."""
MOST_HALF_READ_S = 1.0
ANSWER_S = 2.0
"""The monitor thread waits at most this long for an answer of the store, s."""
DECISION_S = 60.0
"""A training thread that must know a decision waits at most this long for the store to tell it, s."""
MOST_MISSING = 9
"""At most this many missing ranks are looked for one by one."""


class Posted(NamedTuple):
    """Holds a proposal as it is on a board: its number there, and its content, which the board does not interpret."""

    number: int
    content: bytes


class Noticeboard(Protocol):
    """Defines the place where ranks agree. Each function raises `OSError` where the place cannot be reached."""

    @property
    def is_there(self) -> bool:
        """Return whether this process has such a place."""
        ...

    def newest(self) -> Posted | None:
        """Return the newest proposal of this launch, or None."""
        ...

    def publish(self, content: bytes) -> int:
        """Publish a proposal and return its number. Only rank 0 does this."""
        ...

    def acknowledge(self, number: int, rank: int) -> None:
        """Write that a rank knows a proposal and will obey its decision."""
        ...

    def missing(self, number: int, ranks: Sequence[int]) -> tuple[int, ...]:
        """Return ranks that have not acknowledged a proposal, or some of them where there are many."""
        ...

    def decision(self, number: int) -> bytes | None:
        """Return the decision about a proposal, or None."""
        ...

    def decide(self, number: int, wanted: bytes, within_s: float) -> bytes | None:
        """Write a decision unless there is one, and return the one that is there. This may take up to the given
        seconds.
        """
        ...

    def close(self, *, removes: bool) -> None:
        """End the use of the board. Rank 0 `removes` what only this launch needed."""
        ...


class FolderBoard:
    """Keeps proposals in a folder of the run directory. Proposals that were there before this object was made are of
    earlier attempts and count for nothing.

    Where the folder could not be listed then, those that are there when it first can be count for nothing either. A
    rank that so misses a proposal of its own launch has not acknowledged it, and the ranks agree on a later one.
    """

    is_there = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warned = False
        self._before: int | None = None
        with contextlib.suppress(OSError):
            self._before = self._last()

    def newest(self) -> Posted | None:
        """Return the newest proposal that appeared since this object was made, or None."""
        try:
            number = self._last()
        except OSError as error:
            self._warn(error)
            raise
        if self._before is None:
            self._before = number
        if number <= self._before:
            return None
        content = (self._folder / f"{number}.json").read_bytes()
        if not content.endswith(END):  # half of it is there, on a file system without hard links
            return None
        return Posted(number, content.removesuffix(END))

    def publish(self, content: bytes) -> int:
        """Publish a proposal under the number after the last one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        number = self._last() + 1
        publish_once(self._folder / f"{number}.json", content + END)
        return number

    def acknowledge(self, number: int, rank: int) -> None:
        """Make the empty file `NUMBER.ack.RANK`."""
        (self._folder / f"{number}.ack.{rank}").touch()

    def missing(self, number: int, ranks: Sequence[int]) -> tuple[int, ...]:
        """Return the ranks whose file is not there."""
        names = self._names()
        return tuple(rank for rank in ranks if f"{number}.ack.{rank}" not in names)

    def decision(self, number: int) -> bytes | None:
        """Read the file `NUMBER.decision`."""
        return self._read(number) if f"{number}.decision" in self._names() else None

    def decide(self, number: int, wanted: bytes, within_s: float) -> bytes | None:
        """Create the file `NUMBER.decision` unless it is there, and read it."""
        publish_once(self._folder / f"{number}.decision", wanted)
        return self._read(number)

    def close(self, *, removes: bool) -> None:
        """Remove the acknowledgements, if this is rank 0."""
        with contextlib.suppress(OSError):
            for name in self._names() if removes else ():
                if ".ack." in name:
                    (self._folder / name).unlink(missing_ok=True)

    def _read(self, number: int) -> bytes | None:
        end_s = time.monotonic() + MOST_HALF_READ_S
        path = self._folder / f"{number}.decision"
        while time.monotonic() < end_s:
            content = path.read_bytes()
            if content.endswith(END):
                return content
            time.sleep(0.01)
        return None

    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def _last(self) -> int:
        found = (name.removesuffix(".json") for name in self._names() if name.endswith(".json"))
        return max((int(number) for number in found if number.isdecimal()), default=0)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "carbon_plugin: %s cannot be listed (%s): as long as that lasts, this rank does not see there what the "
                "ranks agree on; training goes on",
                self._folder,
                error.strerror or error,
            )


class StoreBoard:
    """Keeps proposals in the store of the job's default process group, of which `open_store` returns the present one or
    None.

    Only such operations are used as the server answers at once: `check`, `get` of a key that is there, `set`, `add` and
    `compare_set`. They run on a thread of their own, so that no other thread waits for longer than stated. The
    connection is the one that the job has: another one a rank would be scarce in jobs of thousands of ranks. `name`
    begins every key, and is the same on all ranks. A store that fails once is not asked again.
    """

    def __init__(self, open_store: Callable[[], Any | None], name: str) -> None:
        self._open_store = open_store
        self._name = name
        self._thread: OwnThread | None = None
        self._failed = False
        self._published = 0

    @property
    def is_there(self) -> bool:
        """Return whether the job has a store that has not failed."""
        return not self._failed and self._open_store() is not None

    def newest(self) -> Posted | None:
        """Return the last proposal of rank 0, or None."""

        def ask(store: Any) -> Posted | None:
            key = self._key("proposal")
            if not store.check([key]):
                return None
            number, _, content = bytes(store.get(key)).partition(END)
            return Posted(int(number), content)

        return self._ask(ask) if self.is_there else None

    def publish(self, content: bytes) -> int:
        """Put a proposal in the place of the last one. Numbers begin anew with each launch, as the store does."""
        self._published += 1
        number = self._published
        self._ask(lambda store: store.set(self._key("proposal"), f"{number}\n{content.decode()}"))
        return number

    def acknowledge(self, number: int, rank: int) -> None:
        """Set a key of the rank, and count it."""

        def ask(store: Any) -> None:
            store.set(self._key(number, "rank", rank), "1")
            store.add(self._key(number, "ranks"), 1)

        self._ask(ask)

    def missing(self, number: int, ranks: Sequence[int]) -> tuple[int, ...]:
        """Return some of the ranks that have not acknowledged, or none once all are counted."""

        def ask(store: Any) -> tuple[int, ...]:
            if store.add(self._key(number, "ranks"), 0) >= len(ranks):
                return ()
            found: list[int] = []
            self._find_missing(store, number, ranks, found)
            return tuple(found)

        return self._ask(ask)

    def decision(self, number: int) -> bytes | None:
        """Return the decision about a proposal, or None."""

        def ask(store: Any) -> bytes | None:
            key = self._key(number, "decision")
            return bytes(store.get(key)) if store.check([key]) else None

        return self._ask(ask)

    def decide(self, number: int, wanted: bytes, within_s: float) -> bytes | None:
        """Set the decision unless there is one, and return the one that is there."""
        key = self._key(number, "decision")
        return self._ask(lambda store: bytes(store.compare_set(key, "", wanted.decode())), within_s)

    def close(self, *, removes: bool) -> None:
        """End the thread. What the store holds ends with the job."""
        if self._thread is not None:
            self._thread.end()
            self._thread = None

    def _find_missing(self, store: Any, number: int, ranks: Sequence[int], found: list[int]) -> None:
        """Halve the ranks until those without a key are alone, because `check` says only whether all keys are there."""
        if len(found) >= MOST_MISSING or store.check([self._key(number, "rank", rank) for rank in ranks]):
            return
        if len(ranks) == 1:
            found.append(ranks[0])
            return
        half = len(ranks) // 2
        self._find_missing(store, number, ranks[:half], found)
        self._find_missing(store, number, ranks[half:], found)

    def _ask(self, question: Callable[[Any], T], within_s: float | None = None) -> T:
        def work() -> T:
            store = self._open_store()
            if store is None:
                raise ConnectionError("the process group of the job has ended")
            return question(store)

        if self._failed:
            raise ConnectionError("the store of the job has failed before")
        if self._thread is None:
            self._thread = OwnThread("carbon-plugin-store")
        try:
            return self._thread.call(work, ANSWER_S if within_s is None else within_s)
        except OSError:  # no answer in time, or no process group any more: another look may find one
            raise
        except Exception as error:  # each kind of store raises its own
            self._failed = True
            raise ConnectionError(f"the store of the job failed: {error}") from error

    def _key(self, *parts: str | int) -> str:
        return "/".join(map(str, ("carbon_plugin", self._name, *parts)))
