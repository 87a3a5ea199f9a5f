"""Read the two ends of a ledger: who wrote it, from when to when, and which step it reached. Its sums are not read
here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.codec import Opening, decode_opening, decode_record, decoder_for
from carbon_plugin.ledger.files import is_own_name, writer_name
from carbon_plugin.ledger.held.clocks import TimedFile
from carbon_plugin.ledger.held.copies import first_fingerprint
from carbon_plugin.ledger.held.expected import HANDED_OVER
from carbon_plugin.ledger.possible import MOST_COUNT
from carbon_plugin.ledger.reader import read_opening
from carbon_plugin.ledger.records import LEDGER_VERSION, Event, Record
from carbon_plugin.spec.parsing.boundary import LATEST_UNIX_S, UNREADABLE, too_deep
from carbon_plugin.spec.parsing.limits import MOST_RUN_S
from carbon_plugin.spec.parsing.opening import open_ending

_TAIL_BYTES = 1 << 16
"""Some forty windows of eight GPUs; read further back where no step ended in them."""
_PIECE_BYTES = 1 << 20
_EVENT, _WINDOW = b'{"type":"event"', b'{"type":"window"'
"""The JSON of an event and of a window begins so."""


class _Device(Struct, frozen=True):
    key: str


class _Manifest(Struct, frozen=True, tag="manifest"):
    """Holds the few fields that are needed here, because documents of tens of kB are not worth reading twice."""

    node: int
    attempt: int
    host_key: str
    started_unix_s: float
    devices: list[_Device]
    started_boot_s: float | None = None
    file: str = ""
    follows: list[str] = []


class _Window(Struct, frozen=True, tag="window"):
    """Holds the time of a window and the steps that ended in it. The energies are skipped, which is much faster."""

    start_unix_s: float
    duration_s: float
    steps: int = 0
    last_step: int = 0

    @property
    def possible(self) -> bool:
        return (
            0.0 <= self.start_unix_s <= LATEST_UNIX_S
            and 0.0 <= self.duration_s <= MOST_RUN_S
            and 0 <= self.steps <= MOST_COUNT
            and 0 <= self.last_step <= MOST_COUNT
        )


class _Close(Struct, frozen=True, tag="close"):
    """Holds the reason why a file ends."""

    reason: str


_close_decoder = msgspec.json.Decoder(_Close)
_manifest_decoder = msgspec.json.Decoder(_Manifest)
_window_decoder = msgspec.json.Decoder(_Window)


class Outline(Struct, frozen=True, kw_only=True):
    """Holds the outline of a file by its first line and its last windows.

    `devices` are those of the first manifest, `fingerprint` is that of the first window;
    `trained_until_unix_s` is the end of the last window with a step, or of the file where there is none. `left` says
    that the writer handed its GPUs over to a file that begins where this one ends, so that it trained until then.
    `follows` are the names of files of the same launch that this one goes on from.
    """

    path: Path
    size_bytes: int
    node: int
    started_unix_s: float
    trained_until_unix_s: float
    host_key: str
    last_step: int
    devices: tuple[str, ...]
    fingerprint: str | None = None
    started_boot_s: float | None = None
    left: bool = False
    follows: tuple[str, ...] = ()

    @property
    def timed(self) -> TimedFile:
        """Return the times of the file by which clocks are compared."""
        return TimedFile(
            name=self.path.name,
            host_key=self.host_key,
            node=self.node,
            started_unix_s=self.started_unix_s,
            end_unix_s=self.trained_until_unix_s,
            started_boot_s=self.started_boot_s,
        )

    @property
    def series(self) -> tuple[int, str]:
        """Return a key that is the same for files of writers that follow each other. It sorts by node, with the
        leader's files first.
        """
        return self.node, writer_name(self.path.name)

    @property
    def place(self) -> tuple[str, int]:
        """Return the clock that the file was written by, named by its host and a node on it."""
        return self.host_key, self.node


def own_opening(path: Path) -> Opening | None:
    """Return who wrote a file and when it starts; None if it does not begin with a manifest that can be read, or is a
    copy of another one.

    Raises `LedgerError` for a file that cannot be opened.
    """
    opening = read_opening(path)
    return opening if opening is not None and _is_own(path, opening) else None


def _is_own(path: Path, opening: Opening) -> bool:
    """Return whether a file has the name that its writer gave it, and a possible start."""
    possible = 0 <= opening.started_unix_s <= LATEST_UNIX_S
    return possible and is_own_name(path.name, stated=opening.file, node=opening.node, attempt=opening.attempt)


def outline_of(path: Path) -> Outline | None:
    """Return the outline of a file; None if it does not begin with a manifest that can be read, or is a copy of another
    one.

    Raises `LedgerError` for a file that cannot be opened or is of an unknown version.
    """
    try:
        with open_ending(path) as file:
            size = os.fstat(file.fileno()).st_size
            parts = chain.split_line(file.readline().rstrip(b"\n"))
            opening = decode_opening(parts[1]) if parts else None
            if parts is None or opening is None:
                return None
            manifest = _manifest(parts[1])
            decoder_for(opening.version, path)
            windows = _tail(file, size)
            left = _has_left(file, size)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror or error}") from error
    if manifest is None or not _is_own(path, opening):
        return None
    trained = windows if left else [window for window in windows if window.steps] or windows
    return Outline(
        path=path,
        size_bytes=size,
        node=manifest.node,
        started_unix_s=manifest.started_unix_s,
        trained_until_unix_s=max([manifest.started_unix_s, *(w.start_unix_s + w.duration_s for w in trained)]),
        host_key=manifest.host_key,
        last_step=max((window.last_step for window in windows), default=0),
        devices=tuple(device.key for device in manifest.devices),
        fingerprint=first_fingerprint(path),
        started_boot_s=manifest.started_boot_s,
        left=left,
        follows=tuple(manifest.follows),
    )


def find_events(path: Path, kind: str, *, edge_bytes: int | None = None) -> Iterator[Event]:
    """Return the events of a kind, found by how the line of an event begins, so that hardly any other line is decoded;
    with `edge_bytes` only those in so many bytes at the beginning and at the end.

    Raises `LedgerError` for a file that cannot be read.
    """
    decoder = decoder_for(LEDGER_VERSION, path)
    try:
        with open_ending(path) as file:
            for piece in _pieces(file) if edge_bytes is None else _edges(file, edge_bytes):
                if _EVENT not in piece:
                    continue
                for line in piece.split(b"\n"):
                    if line.startswith(_EVENT, chain.HEX_DIGITS + 1):
                        record = _decoded(line[chain.HEX_DIGITS + 1 :], decoder)
                        if isinstance(record, Event) and record.kind == kind:
                            yield record
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror or error}") from error


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file in pieces of whole lines, which are searched faster than line by line."""
    while piece := file.read(_PIECE_BYTES):
        yield piece + file.readline()


def _edges(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """Yield the lines at the beginning of a file, and then those at its end that were not among them, in pieces."""
    yield file.read(size_bytes) + file.readline()
    begun, end = file.tell(), file.seek(0, os.SEEK_END)
    if end > begun:
        start = max(begun, end - size_bytes)
        file.seek(start)
        if start > begun:
            file.readline()  # part of a line
        yield from _pieces(file)


def _tail(file: BinaryIO, size: int) -> list[_Window]:
    """Return the last windows, back to one with a step, or all windows where no step ended."""
    back = _TAIL_BYTES
    while True:
        start = max(0, size - back)
        file.seek(start)
        # What precedes the first newline is part of a line; what follows the last one was never completed.
        lines = file.read(size - start).split(b"\n")[1 if start else 0 : -1]
        parts = (chain.split_line(line) for line in lines if line.startswith(_WINDOW, chain.HEX_DIGITS + 1))
        windows = [window for part in parts if part and (window := _window(part[1])) is not None]
        if start == 0 or any(window.steps for window in windows):
            return windows
        back *= 4


def _has_left(file: BinaryIO, size: int) -> bool:
    """Return whether the file ends with a closing record whose reason is that another file continues it."""
    file.seek(max(0, size - _TAIL_BYTES))
    parts = chain.split_line(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    try:
        return parts is not None and _close_decoder.decode(parts[1]).reason in HANDED_OVER
    except UNREADABLE:
        return False  # it ends with another record


def _window(payload: bytes) -> _Window | None:
    try:
        window = _window_decoder.decode(payload)
    except UNREADABLE:
        return None  # the verification names it
    return window if window.possible else None


def _manifest(payload: bytes) -> _Manifest | None:
    try:
        return None if too_deep(payload) else _manifest_decoder.decode(payload)
    except UNREADABLE:
        return None  # the verification names it


def _decoded(payload: bytes, decoder: msgspec.json.Decoder[Record]) -> Record | None:
    try:
        return decode_record(payload, decoder)
    except LedgerError:
        return None  # the verification names it
