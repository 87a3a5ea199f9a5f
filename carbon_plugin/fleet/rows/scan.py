"""Find run directories in directories and object stores, with a signature of what lies in each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.store.places import TRIES, AccessError, Location, local_place, open_place, reaching
from carbon_plugin.ledger.files import node_of
from carbon_plugin.ledger.identity import IDENTITY_FILE
from carbon_plugin.spec.parsing.opening import open_ending

_PIECE_BYTES = 1 << 20


class FoundFile(Struct, frozen=True):
    """A file of a run: its name, its size in bytes, and a stamp that changes whenever its content changes."""

    name: str
    size: int
    stamp: str


class FoundRun(Struct, frozen=True):
    """A directory or prefix that holds ledgers, with its files in the order of their names."""

    place: Location
    files: list[FoundFile]

    @property
    def signature(self) -> str:
        """Return a digest of names, sizes and stamps. It changes with every change of a file."""
        digest = blake2b(digest_size=16)
        for file in self.files:
            digest.update(f"{file.name}\0{file.size}\0{file.stamp}\n".encode())
        return digest.hexdigest()


def find(sources: Iterable[str]) -> list[FoundRun]:
    """Return every run among and below some directories and object stores, in order and each once.

    Raises `FleetError` for a source that cannot be read or holds no run.
    """
    found: dict[str, FoundRun] = {}
    for source in sources:
        place = open_place(source)
        runs = list(_local(place) if place.is_local else _remote(place))
        if not runs:
            raise FleetError(f"{source}: no run directory here or below (no file node-*.attempt-*.jsonl)")
        found |= {run.place.url: run for run in runs}
    return [found[url] for url in sorted(found)]


def _local(place: Location) -> Iterator[FoundRun]:
    """Yield the runs below a directory. Links to directories are not followed, so that no run is found twice."""
    if not os.path.isdir(place.path):
        raise FleetError(f"{place.url}: no such directory")
    waiting = [os.path.realpath(place.path)]
    while waiting:
        directory = waiting.pop()
        with reaching(local_place(directory), "listed"), os.scandir(directory) as entries:
            names = list(entries)
        waiting += [entry.path for entry in names if entry.is_dir(follow_symlinks=False)]
        if any(node_of(entry.name) is not None for entry in names):
            files = [_local_file(entry) for entry in names if _is_of_run(entry.name)]
            yield FoundRun(local_place(directory), sorted(files, key=lambda file: file.name))


def _local_file(entry: os.DirEntry[str]) -> FoundFile:
    status = entry.stat()
    # The time of the last change of the inode moves even if somebody sets the other one back.
    return FoundFile(entry.name, status.st_size, f"{status.st_mtime_ns}/{status.st_ctime_ns}/{status.st_ino}")


def _remote(place: Location) -> Iterator[FoundRun]:
    with reaching(place, "listed"):
        details = place.fs.find(place.path, detail=True)
    runs: dict[str, list[FoundFile]] = {}
    for path, detail in details.items():
        directory, _, name = path.rpartition("/")
        if _is_of_run(name):
            stamp = next((str(detail[key]) for key in ("ETag", "etag", "LastModified", "mtime") if key in detail), "")
            runs.setdefault(directory, []).append(FoundFile(name, int(detail.get("size") or 0), stamp))
    for directory, files in runs.items():
        if any(node_of(file.name) is not None for file in files):
            tail = directory[len(place.path) :].strip("/")
            found = place.below(tail) if tail else place
            yield FoundRun(found, sorted(files, key=lambda file: file.name))


def _is_of_run(name: str) -> bool:
    return name == IDENTITY_FILE or node_of(name) is not None


@contextmanager
def on_disk(run: FoundRun) -> Iterator[Path]:
    """Provide the directory of a run on this machine. A copy from an object store exists until the block ends.

    Raises `AccessError` where the object store refuses access, and `FleetError` where it fails or delivers fewer bytes
    than it listed.
    """
    if run.place.is_local:
        yield Path(run.place.path)
        return
    with TemporaryDirectory(prefix="carbon-fleet-") as folder:
        for file in run.files:
            _download(run.place.below(file.name), Path(folder) / file.name, file.size)
        yield Path(folder)


def _download(place: Location, target: Path, size: int) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            with reaching(place, "read"):
                place.fs.get_file(place.path, str(target))
            here = target.stat().st_size
            if here != size:
                raise FleetError(f"{place.url}: cannot be read: {here:,} bytes came of {size:,}")
        except AccessError:
            raise
        except FleetError:
            if attempt == TRIES:
                raise
        else:
            return


def content_of(directory: Path, run: FoundRun) -> str:
    """Return a digest of the bytes of a run's files. Two runs with the same digest have the same content."""
    digest, folder = blake2b(digest_size=16), os.fspath(directory)
    for file in run.files:
        part = blake2b(digest_size=16)
        with reaching(run.place.below(file.name), "read"), open_ending(f"{folder}/{file.name}", buffering=0) as content:
            while chunk := content.read(_PIECE_BYTES):
                part.update(chunk)
        digest.update(file.name.encode() + b"\0" + part.digest())
    return digest.hexdigest()
