"""One pass over the ledgers of a run into sums that do not grow with its length. Conclusions are `audit.summary`'s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from carbon_plugin.audit.bins import TimeBins
from carbon_plugin.audit.cells import Cell
from carbon_plugin.audit.documents import read_factors
from carbon_plugin.audit.result import EventNote
from carbon_plugin.audit.spans import SpanSums
from carbon_plugin.footprint.units import GRAMS_PER_KG, JOULES_PER_KWH
from carbon_plugin.ledger.claims import TOLERANCE_S, DeviceClaims
from carbon_plugin.ledger.records import Close, Event, Manifest, Phase, Span, Window
from carbon_plugin.ledger.verify import HEADS_EVENT, CheckedLedger
from carbon_plugin.spec.devices import DeviceIdentity, Rung

# Bounds on what a report lists one by one; counts and sums always cover everything.
MAX_EVENTS = 2000
MAX_NOTES_PER_DEVICE = 8
MAX_CHARTED_GPUS = 16

_CARBON, _READ_S = "carbon", "read "

_Key = TypeVar("_Key")


class FilePass(Struct):
    """What one file amounts to. `resumed_at_step` is how far earlier attempts had got when this one began; `factors`
    are intensity (g/kWh) and PUE for windows that state none."""

    file: str
    manifest: Manifest
    end_unix_s: float
    resumed_at_step: int
    factors: tuple[float | None, float | None] = (None, None)
    steps: int = 0
    tokens: int = 0
    last_step: int = 0
    redone_steps: int = 0
    closed: str | None = None


class SeenDevice(Struct):
    """A device as its manifest describes it, with the host that it was last seen on and what its meter noted."""

    identity: DeviceIdentity
    hostname: str
    notes: list[str]


class RunCollector:
    """Sums over the files of a run. Feed them one after the other, the one that starts first first.

    `span_files` are the names of the files whose comparison spans stand for the run.
    """

    def __init__(self, origin_unix_s: float, span_files: frozenset[str]) -> None:
        self.cells: dict[tuple[str, Phase], Cell] = {}
        self.redone = Cell()
        self.restarts = Cell()
        self.devices: dict[str, SeenDevice] = {}
        self.files: list[FilePass] = []
        self.claims = DeviceClaims()
        self.bins = TimeBins(origin_unix_s)
        self.spans = SpanSums(origin_unix_s)
        self.events: list[EventNote] = []
        self.event_counts: dict[str, int] = {}
        self._span_files = span_files
        self._charted_gpus: set[str] = set()

    def add(self, ledger: CheckedLedger) -> None:
        """Take in every record of a file."""
        file: FilePass | None = None
        self.claims.begin(ledger.path.name)
        for record in ledger:
            if isinstance(record, Manifest):
                file = self._add_manifest(file, ledger.path.name, record)
            elif file is None:
                continue  # the verification says that this file does not begin with a manifest
            elif isinstance(record, Window):
                self._add_window(file, record)
            elif isinstance(record, Span):
                if file.file in self._span_files:
                    self.spans.add(record, file.manifest.node)
            elif isinstance(record, Event):
                self._add_event(file, record)
            elif isinstance(record, Close):
                file.closed = record.reason
                file.end_unix_s = max(file.end_unix_s, record.at_unix_s)
        self.claims.end()

    def phase_cells(self) -> Mapping[Phase, list[Cell]]:
        """Cells of the IT rungs by phase."""
        return _grouped((phase, cell) for (key, phase), cell in self.cells.items() if self.is_it(key))

    def rung_cells(self) -> Mapping[Rung, list[Cell]]:
        """Cells by rung."""
        return _grouped((self.devices[key].identity.rung, cell) for (key, _), cell in self.cells.items())

    def device_cells(self) -> Mapping[str, list[Cell]]:
        """Cells by device key."""
        return _grouped((key, cell) for (key, _), cell in self.cells.items())

    def rung_series(self) -> dict[Rung, list[float]]:
        """Energy of each rung in each bin, J."""
        rungs = {seen.identity.rung for seen in self.devices.values()}
        return {rung: self.bins.values(rung) for rung in sorted(rungs)}

    def gpu_series(self) -> dict[str, list[float | None]]:
        """Mean power of the first few GPUs in each bin while they were read, W."""
        return {
            key: [
                energy_j / read_s if read_s > 0 else None
                for energy_j, read_s in zip(self.bins.values(key), self.bins.values(_READ_S + key), strict=True)
            ]
            for key in sorted(self._charted_gpus)
        }

    def carbon_series(self) -> list[float]:
        """Operational carbon of the IT rungs in each bin, kg."""
        return [grams / GRAMS_PER_KG for grams in self.bins.values(_CARBON)]

    def is_it(self, key: str) -> bool:
        """Whether a device belongs to the IT rungs: energy of the facility contains that of all others."""
        return self.devices[key].identity.rung != "facility"

    def _add_manifest(self, file: FilePass | None, name: str, manifest: Manifest) -> FilePass:
        for device in manifest.devices:
            seen = self.devices.setdefault(device.key, SeenDevice(device, manifest.hostname, []))
            seen.identity, seen.hostname = device, manifest.hostname
            if device.rung == "gpu" and len(self._charted_gpus) < MAX_CHARTED_GPUS:
                self._charted_gpus.add(device.key)
        if file is None:
            resumed_at = max((other.last_step for other in self.files if _comes_before(other, manifest)), default=0)
            file = FilePass(name, manifest, manifest.started_unix_s, resumed_at)
            self.files.append(file)
        factors = read_factors(manifest.factors)
        file.factors = (factors.intensity.figure.value, factors.pue.value) if factors else (None, None)
        file.manifest = manifest
        return file

    def _add_window(self, file: FilePass, window: Window) -> None:
        start_s, duration_s = window.start_unix_s, window.duration_s
        intensity = file.factors[0] if window.intensity_g_per_kwh is None else window.intensity_g_per_kwh
        pue = file.factors[1] if window.pue is None else window.pue
        redone_steps = max(0, min(window.last_step, file.resumed_at_step) - (window.last_step - window.steps))
        wasted, wasted_share = self._waste(file, window, redone_steps)
        binned: dict[str, float] = {}
        it_j = 0.0
        for energy in window.energies:
            key = energy.key
            seen = self.devices.get(key)
            if seen is None:
                continue  # the verification says that no manifest names this device
            share = 1.0 if energy.energy_j is None else self.claims.share(key, start_s, duration_s)
            counted_j = self._cell(key, window.phase).add(energy, duration_s, share, intensity, pue)
            if energy.note and energy.note not in seen.notes and len(seen.notes) < MAX_NOTES_PER_DEVICE:
                seen.notes.append(energy.note)
            rung = seen.identity.rung
            binned[rung] = binned.get(rung, 0.0) + counted_j
            if energy.energy_j is not None and key in self._charted_gpus:
                binned[key], binned[_READ_S + key] = counted_j, duration_s * share
            if rung != "facility":
                it_j += counted_j
                if wasted is not None:
                    wasted.add(energy, duration_s, share * wasted_share, intensity, pue)
        if intensity is not None and pue is not None:
            binned[_CARBON] = it_j * pue * intensity / JOULES_PER_KWH
        self.bins.add(start_s, duration_s, binned)
        file.steps += window.steps
        file.tokens += window.tokens
        file.last_step = max(file.last_step, window.last_step)
        file.redone_steps += redone_steps
        file.end_unix_s = max(file.end_unix_s, start_s + duration_s)

    def _cell(self, key: str, phase: Phase) -> Cell:
        cell = self.cells.get((key, phase))
        if cell is None:
            cell = self.cells[key, phase] = Cell()
        return cell

    def _waste(self, file: FilePass, window: Window, redone_steps: int) -> tuple[Cell | None, float]:
        """Where the wasted share of a window's energy is added, and that share."""
        if window.phase == "startup":
            return (self.restarts, 1.0) if file.resumed_at_step or file.manifest.attempt else (None, 0.0)
        if window.steps:
            return (self.redone, redone_steps / window.steps) if redone_steps else (None, 0.0)
        return (self.redone, 1.0) if window.last_step < file.resumed_at_step else (None, 0.0)

    def _add_event(self, file: FilePass, event: Event) -> None:
        file.end_unix_s = max(file.end_unix_s, event.at_unix_s)
        if event.kind == HEADS_EVENT:
            return
        self.event_counts[event.kind] = self.event_counts.get(event.kind, 0) + 1
        if len(self.events) < MAX_EVENTS:
            self.events.append(
                EventNote(
                    node=file.manifest.node,
                    attempt=file.manifest.attempt,
                    at_unix_s=event.at_unix_s,
                    kind=event.kind,
                    message=event.message,
                    data=event.data,
                )
            )


def _comes_before(file: FilePass, manifest: Manifest) -> bool:
    """Whether a file is of an earlier attempt: on the same node by its number, on others by the clock."""
    if file.manifest.node == manifest.node:
        return file.manifest.attempt < manifest.attempt
    return file.end_unix_s <= manifest.started_unix_s + TOLERANCE_S


def _grouped(pairs: Iterable[tuple[_Key, Cell]]) -> dict[_Key, list[Cell]]:
    groups: dict[_Key, list[Cell]] = {}
    for key, cell in pairs:
        groups.setdefault(key, []).append(cell)
    return groups
