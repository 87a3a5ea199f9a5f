"""Access directories and object stores by one set of functions, whose errors are one line each.

A local path is a path. An address with a protocol ("s3://bucket/runs", "gs://...", "memory://...") goes through fsspec
and the package that serves the protocol.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.extra import needed
from carbon_plugin.printable import in_unicode
from carbon_plugin.spec.parsing.home import expanded
from carbon_plugin.spec.parsing.opening import open_ending

EXTRAS = {"s3": "s3fs (pip install 'carbon-plugin[fleet,s3]')", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}
TRIES = 3
"""A read from an object store is tried so often before its error counts."""


class AccessError(FleetError):
    """An object store refuses access: credentials are missing, wrong or expired. Any other object would fail too."""


class Location(Struct, frozen=True):
    """A directory, or a prefix of an object store.

    `url` is the address as a user writes it, by which a store names the place, and `path` is the one that the file
    system `fs` uses. `fs` is None for a local directory.
    """

    url: str
    path: str
    fs: Any = None

    @property
    def is_local(self) -> bool:
        """Return whether this is a directory of this machine."""
        return self.fs is None

    @property
    def is_of_this_process(self) -> bool:
        """Return whether the place lies in the memory of this process, so that no other process can reach it."""
        return self.fs is not None and "memory" in self.fs.protocol

    def below(self, *parts: str) -> Location:
        """Return a place below this one."""
        tail = "/".join(parts)
        return Location(f"{self.url.rstrip('/')}/{tail}", f"{self.path.rstrip('/')}/{tail}", self.fs)


def local_place(path: str) -> Location:
    """Return a directory of this machine. Its name may hold bytes that are no UTF-8, which its address has as
    escapes."""
    return Location(in_unicode(path), path)


def open_place(text: str) -> Location:
    """Return the place that a user names.

    Raises `FleetError` for a protocol that no installed package serves, `SpecError` for the home directory of nobody.
    """
    protocol, found, _ = text.partition("://")
    if not found or protocol == "file":
        path = str(expanded(text.removeprefix("file://")).absolute())
        return local_place(path)
    fsspec = needed("fsspec", f"{text}: an object store", "fleet,s3")
    try:
        fs, path = fsspec.core.url_to_fs(text, use_listings_cache=False)
    except ImportError:
        raise FleetError(f"{text}: needs {EXTRAS.get(protocol, f'a package for {protocol}://')}") from None
    except ValueError:
        raise FleetError(
            f"{text}: {protocol}:// is no known protocol; expected a directory or s3://bucket/..."
        ) from None
    return Location(text, path, fs)


@contextmanager
def reaching(place: Location, doing: str) -> Iterator[None]:
    """Turn any error of a file system inside the block into one line that names the place."""
    try:
        yield
    except FleetError:
        raise
    except FileNotFoundError:
        raise FleetError(f"{place.url}: cannot be {doing}: there is nothing of that name") from None
    except Exception as error:  # every fsspec package has errors of its own, of many bases
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise (AccessError if _is_refused(error) else FleetError)(f"{place.url}: cannot be {doing}: {reason}") from None


def _is_refused(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, PermissionError) or bool(names & {"NoCredentialsError", "PartialCredentialsError"})


def read(place: Location) -> bytes:
    """Return the content of a file or object."""
    with reaching(place, "read"):
        if place.is_local:
            with open_ending(place.path) as file:
                return file.read()
        content: bytes = place.fs.cat_file(place.path)
        return content


def names_in(place: Location) -> list[str]:
    """Return the names in a directory or below a prefix, sorted. The list is empty where the place does not
    exist yet.
    """
    with reaching(place, "listed"):
        try:
            if place.is_local:
                return sorted(os.listdir(place.path))
            return sorted(path.rpartition("/")[2] for path in place.fs.ls(place.path, detail=False))
        except FileNotFoundError:
            return []


def publish(local: Path, place: Location) -> None:
    """Put a finished local file at a place in one step, so that a reader sees the whole file or none."""
    with reaching(place, "written"):
        if place.is_local:
            Path(place.path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(local, place.path)
        else:
            place.fs.put_file(str(local), place.path)
            local.unlink()


def create(content: bytes, place: Location, scratch: Path) -> bool:
    """Write a file that must not exist yet, in one step. Return False, and write nothing, if it exists."""
    with reaching(place, "written"):
        if place.is_local:
            temporary = scratch / "manifest"
            temporary.write_bytes(content)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            try:
                os.link(temporary, place.path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
            return True
        try:
            place.fs.pipe_file(place.path, content, mode="create")
        except FileExistsError:
            return False
        return True


def remove(place: Location) -> None:
    """Remove a file or object if it exists."""
    with reaching(place, "removed"):
        try:
            if place.is_local:
                os.unlink(place.path)
            else:
                place.fs.rm_file(place.path)
        except FileNotFoundError:
            return
