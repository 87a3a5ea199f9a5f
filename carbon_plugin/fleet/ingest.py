"""Compact the ledgers of many runs into a store, each run once, in batches that are committed one after the other.

A run whose files have not changed is not read again. A run that has grown replaces its earlier rows. A copy of a run
that the store holds adds nothing. A run that cannot be read is named and counted, and is tried again when its files
change.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec import Struct

import carbon_plugin
from carbon_plugin.errors import FleetError
from carbon_plugin.fleet.extra import needed
from carbon_plugin.fleet.rows.reading import ReadRun, RunToRead, read_run, read_runs
from carbon_plugin.fleet.rows.run_rows import RunRows
from carbon_plugin.fleet.rows.scan import FoundRun, find
from carbon_plugin.fleet.store.catalogue import (
    Catalogue,
    Entry,
    Segment,
    commit,
    empty_catalogue,
    forget_old,
    read_catalogue,
)
from carbon_plugin.fleet.store.places import AccessError, Location, open_place, reaching
from carbon_plugin.fleet.store.segments import SegmentWriter, without

BATCH_RUNS = 2000
BATCH_ROWS = 200_000
"""A batch is committed after so many runs, or so many rows by the hour: what a kill can lose, and what memory holds."""
SCRATCH_AGE_S = 86_400.0


class SkippedRun(Struct, frozen=True):
    """A run that is in no total, or whose newest state is in no total, and the reason."""

    place: str
    reason: str


class Ingested(Struct, frozen=True, kw_only=True):
    """One instance says what an ingest did and what the store holds now.

    `added` runs are new, `replaced` had changed, `unchanged` were not read. `copies` are runs that the store holds from
    another place. `skipped` are those of these sources that are in no total. `held` is the number of runs in the store.
    """

    found: int
    added: int
    replaced: int
    unchanged: int
    copies: int
    held: int
    skipped: list[SkippedRun]


def ingest(sources: Sequence[str], into: str, processes: int | None = None) -> Ingested:
    """Add the runs among and below some directories and object stores to the store at `into`.

    `processes` is the number of processes that read them; by default it follows from the number of runs. The store does
    not depend on it.

    Raises `FleetError` where a source or the store cannot be reached. What was committed until then stays, and the next
    ingest goes on from there. Without pyarrow the error is raised before anything is written.
    """
    needed("pyarrow", "a store of runs")
    store = open_place(into)
    catalogue = read_catalogue(store) or empty_catalogue()
    runs = find(sources)
    inside = [run for run in runs if f"{run.place.url}/".startswith(f"{store.url.rstrip('/')}/")]
    if inside:
        raise FleetError(
            f"--into {into}: run {inside[0].place.url} lies in it, expected a directory of the store's own"
        )
    with _scratch(store) as folder:
        return _Ingest(store, catalogue, Path(folder)).run(runs, processes)


def _scratch(store: Location) -> tempfile.TemporaryDirectory[str]:
    """Return a directory for unfinished files, on the disk of a local store, so that they can be renamed into it."""
    if not store.is_local:
        return tempfile.TemporaryDirectory(prefix="carbon-fleet-")
    with reaching(store, "written"):
        root = Path(store.path)
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(".writing-*"):  # of an ingest that was killed
            if time.time() - left.stat().st_mtime > SCRATCH_AGE_S:
                shutil.rmtree(left, ignore_errors=True)
        return tempfile.TemporaryDirectory(prefix=".writing-", dir=root)


class _Ingest:
    """One ingest into a store: the catalogue so far, and the batch that is being made."""

    def __init__(self, store: Location, catalogue: Catalogue, scratch: Path) -> None:
        self._store = store
        self._catalogue = catalogue
        self._scratch = scratch
        self._entries = {entry.place: entry for entry in catalogue.entries}
        self._held = _Held(catalogue.held)
        self._gone: set[int] = set()
        self._writer = SegmentWriter(store, scratch)
        self._batch = 0
        self._dirty = False
        self._added = self._replaced = 0
        self._unreached: list[SkippedRun] = []

    def run(self, runs: Sequence[FoundRun], processes: int | None) -> Ingested:
        changed = [run for run in runs if not self._is_known(run)]
        before = {entry.place: entry.content for entry in self._entries.values()}
        with closing(read_runs(changed, before, self._held.contents, processes)) as found:
            for read in found:
                if read.refused:
                    self._commit()  # what was read before the store refused is not read again
                    raise AccessError(read.unreached)
                self._take(read)
                if self._batch >= BATCH_RUNS or self._writer.waiting >= BATCH_ROWS:
                    self._commit()
        self._commit()
        mine = [self._entries[run.place.url] for run in runs if run.place.url in self._entries]
        return Ingested(
            found=len(runs),
            added=self._added,
            replaced=self._replaced,
            unchanged=len(runs) - len(changed),
            copies=sum(bool(entry.copy_of) for entry in mine),
            held=len(self._held),
            skipped=[*(SkippedRun(one.place, one.problem) for one in mine if one.problem), *self._unreached],
        )

    def _is_known(self, run: FoundRun) -> bool:
        entry = self._entries.get(run.place.url)
        return entry is not None and entry.signature == run.signature

    def _take(self, read: ReadRun) -> None:
        place, signature, content = read.run.place.url, read.run.signature, read.content
        before = self._entries.get(place)
        if read.unreached:  # nothing is noted, so that the next ingest tries again
            self._unreached.append(SkippedRun(place, read.unreached))
        elif before is not None and before.content == content:
            self._note(msgspec.structs.replace(before, signature=signature))
        elif (known := self._held.with_content(content)) is not None:
            self._note(Entry(place=place, signature=signature, content=content, copy_of=known.place))
        elif read.rows is None and not read.problem:  # what the store held of this content was replaced meanwhile
            self._take(read_run(RunToRead(read.run, ""), ()))
        elif read.rows is not None:
            self._add(read.rows, place, signature, content, before)
        else:
            held = before if before is not None and before.segment else None
            problem = f"{read.problem}; the store keeps what it held before" if held else read.problem
            new = Entry(place=place, signature=signature, content=content)
            self._note(msgspec.structs.replace(held or new, signature=signature, problem=problem))

    def _add(self, rows: RunRows, place: str, signature: str, content: str, before: Entry | None) -> None:
        entry = Entry(
            place=place,
            signature=signature,
            content=content,
            run=rows.run,
            run_id=rows.run_id,
            start_s=rows.start_s,
            end_s=rows.end_s,
            records=rows.records,
            fingerprints=rows.fingerprints,
            segment=self._writer.name,
        )
        others = self._held.same_as(entry)
        longest = max(others, key=lambda other: other.records, default=None)
        # A run that was read again replaces itself unless lines are gone; another place must have more of it.
        if longest is not None and longest.records + (longest.place != place) > entry.records:
            if longest.place == place:
                problem = (
                    f"it has {entry.records:,} lines and had {longest.records:,}; the store keeps what it held before"
                )
                self._note(msgspec.structs.replace(longest, signature=signature, problem=problem))
            else:
                self._note(msgspec.structs.replace(entry, segment="", copy_of=longest.place))
            return
        if any(other.segment == self._writer.name for other in others):
            self._commit()  # rows can be taken out of what is written only
            entry = msgspec.structs.replace(entry, segment=self._writer.name)
        for other in others:
            self._gone.add(other.run)
            self._held.remove(other)
            if other.place != place:
                self._note(msgspec.structs.replace(other, segment="", copy_of=place))
        self._writer.add(rows.tables, rows.hours)
        self._held.add(entry)
        self._note(entry)
        self._replaced, self._added = (
            (self._replaced + 1, self._added) if others or before else (self._replaced, self._added + 1)
        )

    def _note(self, entry: Entry) -> None:
        self._entries[entry.place] = entry
        self._batch += 1
        self._dirty = True

    def _commit(self) -> None:
        """Write the rows of the batch, and make them part of the store."""
        if not self._dirty:
            return
        segments = [_kept(self._store, one, self._gone, self._scratch) for one in self._catalogue.segments]
        new = self._writer.finish()
        catalogue = Catalogue(
            version=self._catalogue.version,
            number=self._catalogue.number + 1,
            plugin_version=carbon_plugin.__version__,
            entries=sorted(self._entries.values(), key=lambda entry: entry.place),
            segments=[one for one in (*segments, new) if one.files],
        )
        commit(self._store, catalogue, self._scratch)
        forget_old(self._store, catalogue)
        self._catalogue, self._gone, self._batch, self._dirty = catalogue, set(), 0, False
        self._writer = SegmentWriter(self._store, self._scratch)


def _kept(store: Location, segment: Segment, gone: set[int], scratch: Path) -> Segment:
    return without(store, segment, gone, scratch) if gone else segment


class _Held:
    """The entries whose rows a store holds. They can be found by run, by id, by content, and by the first windows of
    their files.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._by_run: dict[int, Entry] = {}
        self._by_id: dict[str, dict[int, Entry]] = {}
        self._by_print: dict[str, int] = {}
        self._by_content: dict[str, int] = {}
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._by_run)

    def add(self, entry: Entry) -> None:
        self._by_run[entry.run] = entry
        self._by_id.setdefault(entry.run_id, {})[entry.run] = entry
        self._by_content[entry.content] = entry.run
        self._by_print |= dict.fromkeys(entry.fingerprints, entry.run)

    def remove(self, entry: Entry) -> None:
        self._by_run.pop(entry.run, None)
        self._by_id[entry.run_id].pop(entry.run, None)
        self._by_content.pop(entry.content, None)
        for one in entry.fingerprints:
            self._by_print.pop(one, None)

    @property
    def contents(self) -> frozenset[str]:
        """Return the digests of the files of all entries."""
        return frozenset(self._by_content)

    def with_content(self, content: str) -> Entry | None:
        """Return the entry with exactly these files, or None."""
        return self._by_run.get(self._by_content.get(content, -1))

    def same_as(self, entry: Entry) -> list[Entry]:
        """Return the entries that are the same run at the same time, or whose ledgers begin with the same window."""
        found = {run: one for run, one in self._by_id.get(entry.run_id, {}).items() if _overlap(entry, one)}
        for fingerprint in entry.fingerprints:
            run = self._by_print.get(fingerprint)
            if run is not None:
                found[run] = self._by_run[run]
        if entry.run in self._by_run:
            found[entry.run] = self._by_run[entry.run]
        return list(found.values())


def _overlap(one: Entry, other: Entry) -> bool:
    return one.start_s < other.end_s and other.start_s < one.end_s
