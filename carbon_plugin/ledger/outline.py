"""What a ledger is about, from its two ends: who wrote it, from when to when, and how far it got. Not for its sums."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.claims import TOLERANCE_S
from carbon_plugin.ledger.codec import decode_opening, decoder_for
from carbon_plugin.ledger.records import LEDGER_VERSION, Close, Event, Manifest, Record, Window

RANK_0_FILES = "node-0."
"""How the names of files begin that the node of rank 0 has written."""

SKEW_EVENT = "clock_skew"
"""Event of rank 0 when clocks of other nodes disagree with its own: data {"offsets_s": {file name: seconds}}, positive
where the other one is ahead, 0 when they agree again."""

_TAIL_BYTES = 1 << 16
"""Some forty windows of eight GPUs; read further back where they hold no window."""


class Outline(Struct, frozen=True, kw_only=True):
    """A file as its first line and its last windows tell it. `devices` are those of the first manifest."""

    path: Path
    size_bytes: int
    node: int
    attempt: int
    started_unix_s: float
    ended_unix_s: float
    host_key: str
    last_step: int
    devices: tuple[str, ...]

    @property
    def place(self) -> tuple[str, int]:
        """Whose clock the file was written by: a host, and a node on it."""
        return self.host_key, self.node


def outline_of(path: Path) -> Outline | None:
    """The outline of a file; None if it does not begin with a manifest that can be read.

    Raises `LedgerError` for a file that cannot be opened or is of an unknown version.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            parts = chain.split_line(file.readline().rstrip(b"\n"))
            opening = decode_opening(parts[1]) if parts else None
            if parts is None or opening is None:
                return None
            decoder = decoder_for(opening.version, str(path))
            manifest = _decoded(parts[1], decoder)
            tail = _tail(file, size, decoder)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not isinstance(manifest, Manifest):
        return None
    return Outline(
        path=path,
        size_bytes=size,
        node=manifest.node,
        attempt=manifest.attempt,
        started_unix_s=manifest.started_unix_s,
        ended_unix_s=max([manifest.started_unix_s, *map(_end_of, tail)]),
        host_key=manifest.host_key,
        last_step=max((record.last_step for record in tail if isinstance(record, Window)), default=0),
        devices=tuple(device.key for device in manifest.devices),
    )


def find_events(path: Path, kind: str) -> Iterator[Event]:
    """Events of a kind, found by how the line of an event begins, so that hardly any other line is decoded.

    Raises `LedgerError` for a file that cannot be read.
    """
    decoder = decoder_for(LEDGER_VERSION, str(path))
    try:
        with path.open("rb") as file:
            for line in file:
                if line.startswith(b'{"type":"event"', chain.HEX_DIGITS + 1):
                    record = _decoded(line[chain.HEX_DIGITS + 1 :], decoder)
                    if isinstance(record, Event) and record.kind == kind:
                        yield record
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror or error}") from error


def clock_offsets(outlines: Sequence[Outline]) -> dict[str, float]:
    """By how much the clock that each file was written by was ahead of that of rank 0, s, by file name; 0 where rank 0
    has noticed nothing. What it noticed of one attempt of a node on a host goes for the others too."""
    noticed: dict[str, float] = {}
    for outline in outlines:
        if outline.path.name.startswith(RANK_0_FILES):
            for event in find_events(outline.path, SKEW_EVENT):
                stated = event.data.get("offsets_s")
                if isinstance(stated, Mapping):
                    noticed |= {str(file): float(s) for file, s in stated.items() if isinstance(s, int | float)}
    of_place = {outline.place: noticed[outline.path.name] for outline in outlines if outline.path.name in noticed}
    return {outline.path.name: noticed.get(outline.path.name, of_place.get(outline.place, 0.0)) for outline in outlines}


def earlier_steps(outlines: Sequence[Outline], offsets_s: Mapping[str, float]) -> dict[str, int]:
    """How many optimizer steps earlier attempts had done when each file began, by file name.

    On the same node attempts follow each other by their number. A file of another node is earlier if it had ended
    before; `offsets_s` say, by file name, how far the clock of its writer was ahead.
    """

    def by_common_clock(outline: Outline, moment_unix_s: float) -> float:
        return moment_unix_s - offsets_s[outline.path.name]

    ended = sorted((by_common_clock(outline, outline.ended_unix_s), outline.last_step) for outline in outlines)
    moments = [moment for moment, _ in ended]
    furthest = [0, *accumulate((step for _, step in ended), max)]
    nodes: dict[int, list[Outline]] = {}
    for outline in outlines:
        nodes.setdefault(outline.node, []).append(outline)
    found = {}
    for outline in outlines:
        began = by_common_clock(outline, outline.started_unix_s)
        elsewhere = furthest[bisect_right(moments, began + TOLERANCE_S)]
        here = [other.last_step for other in nodes[outline.node] if other.attempt < outline.attempt]
        found[outline.path.name] = max([elsewhere, *here])
    return found


def _tail(file: BinaryIO, size: int, decoder: msgspec.json.Decoder[Record]) -> list[Record]:
    """The last records, from the last few windows on; all of them where there is no window."""
    back = _TAIL_BYTES
    while True:
        start = max(0, size - back)
        file.seek(start)
        # What precedes the first newline is part of a line; what follows the last one was never completed.
        lines = file.read(size - start).split(b"\n")[1 if start else 0 : -1]
        parts = (chain.split_line(line) for line in lines)
        records = [record for part in parts if part and (record := _decoded(part[1], decoder))]
        if start == 0 or any(isinstance(record, Window) for record in records):
            return records
        back *= 4


def _decoded(payload: bytes, decoder: msgspec.json.Decoder[Record]) -> Record | None:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # the verification names it


def _end_of(record: Record) -> float:
    """The moment up to which a record speaks, Unix s; what only predicts speaks of none."""
    if isinstance(record, Window):
        return record.start_unix_s + record.duration_s
    return record.at_unix_s if isinstance(record, Event | Close) else -math.inf
