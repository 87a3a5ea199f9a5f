"""Read and commit the catalogue of a store, which lists the runs in the store and the files with their rows.

The catalogue with the highest number describes the store. Readers ignore files that it does not name, so that an ingest
that is killed at any moment changes nothing. A commit creates the catalogue with the next number, which only one
process can do.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from msgspec import Struct

import carbon_plugin
from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.store.places import Location, create, names_in, read, remove
from carbon_plugin.fleet.store.schema import STORE_VERSION
from carbon_plugin.spec.parsing.boundary import parse_json

_NAME = re.compile(r"catalogue-([0-9]{8})\.json")
KEPT = 2
"""So many catalogues before the newest stay, with their files, for readers that opened them."""


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run directory that was ingested, or that could not be ingested.

    `signature` is that of its files when it was read. `segment` names the segment with its rows. It is empty where the
    store has no rows of it, because of the `problem`, or because it is a copy of the run at `copy_of`.
    """

    place: str
    signature: str
    content: str
    run: int = 0
    run_id: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    records: int = 0
    fingerprints: list[str] = []
    segment: str = ""
    problem: str = ""
    copy_of: str = ""


class DataFile(Struct, frozen=True, kw_only=True):
    """A Parquet file of a segment: its table, its path below the store, its number of rows, and its month if it has
    one.
    """

    table: str
    path: str
    rows: int
    month: int | None = None


class Segment(Struct, frozen=True, kw_only=True):
    """The rows of the runs that one commit added."""

    name: str
    files: list[DataFile]


class Catalogue(Struct, frozen=True, kw_only=True):
    """One catalogue lists what a store holds."""

    version: int
    number: int
    plugin_version: str
    entries: list[Entry]
    segments: list[Segment]

    @property
    def problems(self) -> list[Entry]:
        """Return the entries that could not be ingested, or whose newest state could not be ingested."""
        return [entry for entry in self.entries if entry.problem]

    @property
    def copies(self) -> list[Entry]:
        """Return the entries that are copies of others."""
        return [entry for entry in self.entries if entry.copy_of]

    @property
    def held(self) -> list[Entry]:
        """Return the entries whose rows are in the store."""
        return [entry for entry in self.entries if entry.segment]

    def files(self, table: str, months: tuple[int, int] | None = None) -> list[DataFile]:
        """Return the files of a table. Of the table that is divided by month, only the files of the months from the
        first to the last are returned.
        """
        found = [file for segment in self.segments for file in segment.files if file.table == table]
        if months is None:
            return found
        return [file for file in found if file.month is None or months[0] <= file.month <= months[1]]


def read_catalogue(store: Location) -> Catalogue | None:
    """Return the newest catalogue of a store, or None where there is none yet.

    Raises `FleetError` for one that cannot be read or is of a later version.
    """
    numbers = _numbers(store)
    if not numbers:
        return None
    place = store.below(_name(numbers[-1]))
    content = read(place)
    version = parse_json(content, place.url, "not a catalogue of a fleet's store", FleetError)
    stated = version.get("version") if isinstance(version, dict) else None
    if isinstance(stated, int) and stated < STORE_VERSION:
        raise FleetError(
            f"{place.url}: version {stated}, but this carbon-plugin reads version {STORE_VERSION}; ingest the "
            "runs into a new store"
        )
    if stated != STORE_VERSION:
        raise FleetError(
            f"{place.url}: version {stated}, but this carbon-plugin reads version {STORE_VERSION}; upgrade it"
        )
    try:
        return msgspec.convert(version, type=Catalogue)
    except msgspec.ValidationError as error:
        raise FleetError(f"{place.url}: not a catalogue of a fleet's store: {error}") from None


def empty_catalogue() -> Catalogue:
    """Return the catalogue of a store that holds nothing."""
    return Catalogue(version=STORE_VERSION, number=0, plugin_version=carbon_plugin.__version__, entries=[], segments=[])


def commit(store: Location, catalogue: Catalogue, scratch: Path) -> None:
    """Make a catalogue the newest of a store.

    Raises `FleetError` if another process has committed a catalogue since the predecessor of this one was read.
    """
    content = msgspec.json.encode(catalogue)
    if not create(content, store.below(_name(catalogue.number)), scratch):
        raise FleetError(
            f"{store.url}: another ingest has written to this store meanwhile; nothing of this batch was added, run it "
            "again"
        )


def forget_old(store: Location, catalogue: Catalogue) -> None:
    """Remove all but the last few catalogues, and the files that only the removed ones name."""
    numbers = [number for number in _numbers(store) if number <= catalogue.number]
    old = numbers[: -KEPT - 1]
    if not old:
        return
    kept = {file.path for segment in catalogue.segments for file in segment.files}
    for number in numbers[-KEPT - 1 :]:
        kept |= _paths(store, number)
    for number in old:
        for path in sorted(_paths(store, number) - kept):
            remove(store.below(path))
        remove(store.below(_name(number)))


def _paths(store: Location, number: int) -> set[str]:
    found = msgspec.json.decode(read(store.below(_name(number))), type=Catalogue)
    return {file.path for segment in found.segments for file in segment.files}


def _numbers(store: Location) -> list[int]:
    return sorted(int(found[1]) for name in names_in(store) if (found := _NAME.fullmatch(name)))


def _name(number: int) -> str:
    return f"catalogue-{number:08d}.json"
