"""Add up the ledgers of a run in one pass, into sums that do not grow with its length. `audit.summary` draws the
conclusions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np

from carbon_plugin.audit.findings.series import Series
from carbon_plugin.audit.result import EventNote
from carbon_plugin.audit.tally.account.rework import Rework, Stalls, rework_of
from carbon_plugin.audit.tally.documents import SharedDocuments
from carbon_plugin.audit.tally.file_pass import FileContext, FilePass, SeenDevice
from carbon_plugin.audit.tally.sums.blocks import MAX_WINDOWS, Metered, RowBlock, blocks_of
from carbon_plugin.audit.tally.sums.energy_sums import EnergySums, add_windows
from carbon_plugin.audit.tally.sums.spans import SpanSums
from carbon_plugin.audit.tally.timeline.calendar import Calendar
from carbon_plugin.audit.tally.timeline.in_force import GridTally
from carbon_plugin.audit.tally.timeline.over_time import OverTime
from carbon_plugin.footprint.values import Factors
from carbon_plugin.ledger.columns import WindowColumns, divided
from carbon_plugin.ledger.held.account_inputs import UncertaintyScope, stated_factors
from carbon_plugin.ledger.held.claims import DeviceClaims
from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.held.unobserved import UNOBSERVED_PHASE
from carbon_plugin.ledger.records import HEADS_EVENT, Close, Event, Manifest, Phase, Span
from carbon_plugin.ledger.verification.file_check import CheckedLedger
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.range_array import Floats

# These bound what a report lists one by one. Counts and sums always cover everything.
MAX_EVENTS = 2000
MAX_NOTES_PER_DEVICE = 8
MAX_CHARTED_GPUS = 16

_Key = TypeVar("_Key", bound=Hashable)


class RunCollector:
    """Holds the sums over files of a run.

    Add the files one after the other in the order of their start. Files that name the same device must go to the same
    collector. Collectors of different files can be merged. `unobserved` is the modelled energy of reserved time without
    records, which is known only after all files were added.
    """

    def __init__(self, origin_unix_s: float) -> None:
        self.recorded: dict[tuple[str, Phase], EnergySums] = {}
        self.redone: dict[str, EnergySums] = {}
        self.restarts: dict[str, EnergySums] = {}
        self.devices: dict[str, SeenDevice] = {}
        self.unobserved: dict[UncertaintyScope, EnergySums] = {}
        self.files: list[FilePass] = []
        self.claims = DeviceClaims()
        self.over_time = OverTime(origin_unix_s)
        self.calendar = Calendar()
        self.event_counts: dict[str, int] = {}
        self._origin_unix_s = origin_unix_s
        self._events: list[tuple[int, EventNote]] = []
        self._charted: list[str] = []
        self._documents = SharedDocuments()

    def add(self, ledger: CheckedLedger, context: FileContext) -> None:
        """Add every record of a file."""
        file: FilePass | None = None
        windows: list[WindowColumns] = []
        spans: list[Span] = []
        self.claims.begin(ledger.path.name)
        for record in chain.from_iterable(batch.parts for batch in ledger.batches()):
            if context.copied:
                continue  # the pass goes on, because the verification judges copies too
            if isinstance(record, WindowColumns):
                windows.append(record)
                while sum(map(len, windows)) >= MAX_WINDOWS:
                    full, windows = divided(windows, MAX_WINDOWS)
                    self._add_windows(file, full)
            elif isinstance(record, Manifest):
                self._add_windows(file, windows)  # windows so far go with the manifest before this one
                windows = []
                manifest = self._documents.manifest(record)
                file = self._add_manifest(file, ledger.path.name, manifest, context)
            elif file is None:
                continue  # the verification says that this file does not begin with a manifest
            elif isinstance(record, Span):
                if context.spans:
                    spans.append(record)
                    if len(spans) == MAX_WINDOWS:
                        self._add_spans(file, spans)
            elif isinstance(record, Event):
                self._add_event(file, record)
            elif isinstance(record, Close):
                file.closed = record.reason
                file.end_unix_s = max(file.end_unix_s, record.at_unix_s)
        self._add_windows(file, windows)
        self._add_spans(file, spans)
        self.claims.end()

    def merge(self, other: RunCollector) -> None:
        """Add the sums over other files. Raises `ValueError` if both have metered the same device."""
        both = self.devices.keys() & other.devices.keys()
        if both:
            raise ValueError(f"device {min(both)} was added up in two parts")
        self.recorded |= other.recorded
        self.redone |= other.redone
        self.restarts |= other.restarts
        self.devices |= other.devices
        self.files += other.files
        self.claims.overlaps += other.claims.overlaps
        self.over_time.merge(other.over_time)
        self.calendar.merge(other.calendar)
        for kind, count in other.event_counts.items():
            self.event_counts[kind] = self.event_counts.get(kind, 0) + count
        self._events += other._events
        self._charted += other._charted

    def finish(self) -> None:
        """Put everything into the order of the files, so that the result does not depend on how the work was
        divided.
        """
        self.files.sort(key=lambda file: file.context.order)
        order = {file.file: file.context.order for file in self.files}
        self.devices = dict(sorted(self.devices.items(), key=lambda item: item[1].order))
        self.recorded = dict(sorted(self.recorded.items()))
        self.redone = dict(sorted(self.redone.items()))
        self.restarts = dict(sorted(self.restarts.items()))
        self.claims.overlaps.sort(key=lambda overlap: order.get(overlap.file, 0))
        self._events = sorted(self._events, key=lambda pair: pair[0])[:MAX_EVENTS]
        self._charted = sorted(self._charted, key=lambda key: self.devices[key].order)[:MAX_CHARTED_GPUS]

    @property
    def events(self) -> list[EventNote]:
        """Return the first events, file by file."""
        return [event for _, event in self._events]

    @property
    def spans(self) -> SpanSums:
        """Return the comparison spans of all files that represent the run, or the short spans where there are no
        others.
        """
        return self._merged_spans(short=False) or self._merged_spans(short=True) or SpanSums(self._origin_unix_s)

    @property
    def counted(self) -> CountedSteps:
        """Return steps and time in the training windows of the files that represent the run."""
        counted = CountedSteps()
        for file in self.files:
            if file.context.spans:
                counted.merge(file.counted)
        return counted

    def _merged_spans(self, *, short: bool) -> SpanSums | None:
        found = [spans for file in self.files if (spans := file.short_spans if short else file.spans) is not None]
        if not found:
            return None
        merged = SpanSums(self._origin_unix_s, short=short)
        for spans in found:
            merged.merge(spans)
        return merged

    def by_phase(self) -> Mapping[Phase, list[EnergySums]]:
        """Return the sums of the IT rungs by phase. Reserved time without records is a phase of its own."""
        recorded = ((phase, sums) for (key, phase), sums in self.recorded.items() if self.is_it(key))
        return _grouped(chain(recorded, ((UNOBSERVED_PHASE, sums) for sums in self.unobserved.values())))

    def by_rung(self) -> Mapping[Rung, list[EnergySums]]:
        """Return the sums by rung."""
        recorded = ((self.devices[key].identity.rung, sums) for (key, _), sums in self.recorded.items())
        return _grouped(chain(recorded, ((rung, sums) for (rung, _), sums in self.unobserved.items())))

    def by_device(self) -> Mapping[str, list[EnergySums]]:
        """Return the sums by device key."""
        return _grouped((key, sums) for (key, _), sums in self.recorded.items())

    def series(self, wall_s: float) -> Series:
        """Return the run over time; it lasted `wall_s`."""
        return self.over_time.series(
            rungs=sorted({seen.identity.rung for seen in self.devices.values()}),
            phases=dict.fromkeys(phase for _, phase in self.recorded),
            gpus=sorted(self._charted),
            steps=self.spans.series(),
            wall_s=wall_s,
        )

    def is_it(self, key: str) -> bool:
        """Return whether a device belongs to the IT rungs, and not to the facility, whose energy contains that of all
        others.
        """
        return self.devices[key].identity.rung != "facility"

    def _add_manifest(self, file: FilePass | None, name: str, manifest: Manifest, context: FileContext) -> FilePass:
        for device in manifest.devices:
            seen = self.devices.get(device.key)
            if seen is None:
                self.devices[device.key] = SeenDevice(device, manifest.hostname, context.order, [])
                if device.rung == "gpu" and len(self._charted) < MAX_CHARTED_GPUS:
                    self._charted.append(device.key)
            else:
                seen.identity, seen.hostname = device, manifest.hostname
        if file is None:
            file = FilePass(name, manifest, context, manifest.started_unix_s, GridTally(), Stalls())
            self.files.append(file)
        file.factors = self._factors_of(manifest)
        file.manifest = manifest
        return file

    def _factors_of(self, manifest: Manifest) -> Factors | None:
        return stated_factors(manifest.factors)

    def _add_windows(self, file: FilePass | None, windows: Sequence[WindowColumns]) -> None:
        """Add the windows that were kept back. Windows before a manifest are dropped."""
        if file is not None:
            factors = file.factors
            stated = (factors.intensity.figure.value, factors.pue.value) if factors else (None, None)
            for block in blocks_of(windows, stated):
                # The verification reports numbers beyond the range of floats.
                with np.errstate(over="ignore", invalid="ignore"):
                    self._add_block(file, block)

    def _add_spans(self, file: FilePass | None, spans: list[Span]) -> None:
        if file is not None and spans:
            node, offset_s = file.manifest.node, file.context.clock_offset_s
            whole, short = ([span for span in spans if span.short == wanted] for wanted in (False, True))
            if whole:
                file.spans = file.spans or SpanSums(self._origin_unix_s, node)
                file.spans.add(whole, offset_s)
            if short:
                file.short_spans = file.short_spans or SpanSums(self._origin_unix_s, node, short=True)
                file.short_spans.add(short, offset_s)
        spans.clear()

    def _add_block(self, file: FilePass, block: RowBlock) -> None:
        windows = block.windows
        context = file.context
        reached_step = max(context.resumed_at_step, file.last_step)
        rework = rework_of(windows, reached_step=reached_step, restarted=context.launch > 0)
        phases = block.phases()
        # The verification names devices that no manifest names.
        metered = block.metered(
            {
                index: self._shares(block, index, context.clock_offset_s)
                for index, key in enumerate(block.keys)
                if key in self.devices
            }
        )
        keys = metered.keys
        add_windows(
            {phase: [_sums_of(self.recorded, (key, phase)) for key in keys] for phase in phases}, metered, phases
        )
        for parts, weights in ((self.redone, rework.redone), (self.restarts, rework.restart)):
            if weights is not None:
                sums = [_sums_of(parts, key) if self.is_it(key) else None for key in keys]
                add_windows({"all": sums}, metered.weighted(weights), {"all": None})
        for _, key, note in windows.notes:
            seen = self.devices.get(key)
            if seen is not None and note not in seen.notes and len(seen.notes) < MAX_NOTES_PER_DEVICE:
                seen.notes.append(note)
        energies = zip(keys, metered.energy.value, strict=True)
        it_j = sum((energy_j for key, energy_j in energies if self.is_it(key)), np.zeros(len(windows)))
        if file.factors is not None:
            file.grid.add(file.factors.intensity, windows.origins, it_j * block.pue, block.intensity_g_per_kwh)
        self._add_over_time(file, block, metered, it_j, rework)
        file.stalls.add(windows)
        file.counted.add_all(windows)
        file.shared.add_all(windows)
        file.steps += int(windows.steps.sum())
        file.tokens += sum(windows.tokens)
        file.last_step = max(file.last_step, int(windows.last_steps.max()))
        file.redone_steps += rework.steps
        file.end_unix_s = max(file.end_unix_s, float(windows.ends_unix_s.max()))

    def _add_over_time(self, file: FilePass, block: RowBlock, metered: Metered, it_j: Floats, rework: Rework) -> None:
        """Add what devices did in windows to the series and to the months. The collector of a fleet adds it up by the
        hour.
        """
        rungs = [self.devices[key].identity.rung for key in metered.keys]
        starts_s = block.start_unix_s - file.context.clock_offset_s
        file.followed_until_s = self.over_time.add(
            block, starts_s, metered, rungs, self._charted, it_j, file.followed_until_s
        )
        self.calendar.add(starts_s, it_j, block.pue, block.intensity_g_per_kwh)

    def _shares(self, block: RowBlock, index: int, clock_offset_s: float) -> Floats | None:
        """Return the share of each window of a device that no earlier file has metered, or None where all windows count
        as a whole.
        """
        key, known = block.keys[index], block.known[index]
        if not known.any():
            return None
        starts_s, durations_s = block.start_unix_s[known] - clock_offset_s, block.duration_s[known]
        if not self.claims.claim(key, float(starts_s.min()), float((starts_s + durations_s).max())):
            return None
        shares = np.ones(len(known))
        pairs = zip(starts_s.tolist(), durations_s.tolist(), strict=True)
        shares[known] = [self.claims.share(key, start_s, duration_s) for start_s, duration_s in pairs]
        return shares

    def _add_event(self, file: FilePass, event: Event) -> None:
        if event.kind == HEADS_EVENT:
            return
        file.grid.note(event)
        self.over_time.hours.note(event)
        self.event_counts[event.kind] = self.event_counts.get(event.kind, 0) + 1
        if len(self._events) < MAX_EVENTS:
            note = EventNote(
                node=file.manifest.node,
                attempt=file.manifest.attempt,
                at_unix_s=event.at_unix_s,
                kind=event.kind,
                message=event.message,
                data=event.data,
            )
            self._events.append((file.context.order, note))


def _sums_of(parts: dict[_Key, EnergySums], key: _Key) -> EnergySums:
    sums = parts.get(key)
    if sums is None:
        sums = parts[key] = EnergySums()
    return sums


def _grouped(pairs: Iterable[tuple[_Key, EnergySums]]) -> dict[_Key, list[EnergySums]]:
    groups: dict[_Key, list[EnergySums]] = {}
    for key, sums in pairs:
        groups.setdefault(key, []).append(sums)
    return groups
