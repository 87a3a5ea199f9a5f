"""Running sums over ledgers, from the records themselves: the same code for this node's ledger and for the others'.

Memory grows with files and devices, not with time. A device that two files metered at once is counted in one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping

from msgspec import Struct

from carbon_plugin.footprint.values import IT_RUNGS, EnergyItem, Reservation
from carbon_plugin.ledger.held.claims import DeviceClaims
from carbon_plugin.ledger.held.clocks import TimedFile, file_offsets
from carbon_plugin.ledger.held.copies import copies_among, fingerprint_of
from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.held.expected import expected_gpus
from carbon_plugin.ledger.held.holdings import Holding, SharedTime, held
from carbon_plugin.ledger.held.launches import offsets_in
from carbon_plugin.ledger.records import Close, Event, Manifest, Record, Span, Window
from carbon_plugin.spec.metered import DeviceIdentity, Rung

MEASURED = ("counter", "power_integrated")
RECENT_SPANS = 4
"""Another node may have written the steps of the last one or two windows later, or earlier, than this one."""
STALE_WINDOWS = 3
"""A ledger without news for so many of its windows no longer counts towards the power of the moment."""

Extent = tuple[float, float]
"""Start and end of a file, Unix s."""
Place = tuple[str, int]
"""A host's key and the number of a node on it."""


class Energy(Struct):
    """A sum of energies with its range, J, and of energy times the intensity that its windows state (J g/kWh).
    `estimated_j` of it stands for what a meter could not tell."""

    central_j: float = 0.0
    low_j: float = 0.0
    high_j: float = 0.0
    stated_j: float = 0.0
    weighted_j_g_per_kwh: float = 0.0
    estimated_j: float = 0.0

    def add(self, central_j: float, low_j: float, high_j: float, intensity_g_per_kwh: float | None) -> None:
        """Add one energy; ranges of one device go together, so they add up."""
        self.central_j += central_j
        self.low_j += low_j
        self.high_j += high_j
        if intensity_g_per_kwh is not None:
            self.stated_j += central_j
            self.weighted_j_g_per_kwh += central_j * intensity_g_per_kwh

    def merge(self, other: Energy, share: float = 1.0) -> None:
        """Add a share of another sum."""
        self.central_j += share * other.central_j
        self.low_j += share * other.low_j
        self.high_j += share * other.high_j
        self.stated_j += share * other.stated_j
        self.weighted_j_g_per_kwh += share * other.weighted_j_g_per_kwh
        self.estimated_j += share * other.estimated_j

    @property
    def intensity_g_per_kwh(self) -> float | None:
        """Energy-weighted mean of the stated intensities; None where no window stated one."""
        return self.weighted_j_g_per_kwh / self.stated_j if self.stated_j > 0 else None


class DeviceTotals(Struct):
    """One device in one file. `steady` leaves out start-up and idling; power and quality are of the last window."""

    energy: Energy
    steady: Energy
    power_w: float = 0.0
    measured: bool = False


class FileTotals:
    """What one ledger amounts to so far. `steady_s` and `steady_steps` leave out start-up and idling."""

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self.identities: dict[str, DeviceIdentity] = {}
        self.devices: dict[str, DeviceTotals] = {}
        self.started_s = 0.0
        self.end_s = 0.0
        self.heard_s = 0.0  # when its last window was taken in, by this process's own monotonic clock
        self.last_window_s = 0.0
        self.last_step = 0
        self.closed = False
        self.windows = 0
        self.fingerprint: str | None = None  # of its first window
        self.steps = 0
        self.steady_s = 0.0
        self.steady_steps = 0
        self.spans = SpanTotals()
        self.counted = CountedSteps()
        self.shared = SharedTime()
        self.clock_offsets_s: dict[str, float] = {}  # what its writer noticed of the clocks of other files

    @property
    def energy_j(self) -> float:
        """Energy of all devices of the file, J."""
        return math.fsum(device.energy.central_j for device in self.devices.values())

    @property
    def place(self) -> Place:
        """Whose clock the file was written by."""
        return (self.manifest.host_key, self.manifest.node) if self.manifest else ("", 0)

    def timed(self, name: str) -> TimedFile:
        """What the file of that name tells about clocks."""
        manifest = self.manifest
        return TimedFile(
            name=name,
            host_key=self.place[0],
            node=self.place[1],
            started_unix_s=self.started_s,
            end_unix_s=self.end_s,
            started_boot_s=manifest.started_boot_s if manifest else None,
        )

    @property
    def gpus(self) -> tuple[str, ...]:
        """Keys of the GPUs that the file meters."""
        devices = self.manifest.devices if self.manifest else []
        return tuple(sorted(device.key for device in devices if device.rung == "gpu"))

    def add(self, record: Record) -> None:
        """Take in the next record of the file."""
        if isinstance(record, Manifest):
            if self.manifest is None:
                self.started_s = self.end_s = record.started_unix_s
            self.manifest = record
            self.identities |= {device.key: device for device in record.devices}  # one that is gone has drawn energy
        elif isinstance(record, Window):
            self._add_window(record)
        elif isinstance(record, Span):
            self.spans.add(record)
        elif isinstance(record, Event):
            self.clock_offsets_s |= offsets_in(record)
        elif isinstance(record, Close):
            self.closed = True

    def _add_window(self, window: Window) -> None:
        steady = window.phase not in ("startup", "idle")
        if self.windows == 0:
            self.fingerprint = fingerprint_of(window)
        self.windows += 1
        self.steps += window.steps
        self.last_step = max(self.last_step, window.last_step)
        self.last_window_s = window.duration_s
        self.end_s = max(self.end_s, window.start_unix_s + window.duration_s)
        self.heard_s = time.monotonic()
        self.counted.add(window)
        self.shared.add(window)
        if steady:
            self.steady_s += window.duration_s
            self.steady_steps += window.steps
        for energy in window.energies:
            device = self.devices.setdefault(energy.key, DeviceTotals(Energy(), Energy()))
            device.measured = energy.kind in MEASURED
            if energy.energy_j is None:
                device.power_w = 0.0
                continue
            low = energy.energy_j if energy.low_j is None else energy.low_j
            high = energy.energy_j if energy.high_j is None else energy.high_j
            device.energy.add(energy.energy_j, low, high, window.intensity_g_per_kwh)
            device.energy.estimated_j += energy.estimated_j or 0.0
            device.power_w = energy.energy_j / window.duration_s if window.duration_s > 0 else 0.0
            if steady:
                device.steady.add(energy.energy_j, low, high, None)


class SpanTotals:
    """The last comparison spans of a file, and how far all of them spread."""

    def __init__(self) -> None:
        self.recent: deque[Span] = deque(maxlen=RECENT_SPANS)
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, span: Span) -> None:
        """Take in the next span (Welford's running variance of the log step time, in which short ones have no say)."""
        self.recent.append(span)
        if span.short:
            return
        self.count += 1
        value = math.log(max(span.step_time_s, 1e-9))
        distance = value - self._mean
        self._mean += distance / self.count
        self._squares += distance * (value - self._mean)

    @property
    def last(self) -> Span | None:
        """The last span."""
        return self.recent[-1] if self.recent else None

    @property
    def log_sigma(self) -> float | None:
        """Standard deviation of the log step time between spans, None with fewer than two."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else None


class RunTotals(Struct, frozen=True, kw_only=True):
    """Sums over all ledgers of a run.

    `spent` are energies by rung and kind of device; `estimated_j` of it stands for what meters could not tell.
    `steady`, `steady_s` and `steady_steps` are of this attempt's time in training, for rates. `reserved` is the
    reserved time so far, `reserved_now` the units held at present, each for one second. `power_w` is that of the last
    windows.
    `gpus_measured` of `gpus` had a counter or integrated power in their last window.
    """

    spent: tuple[EnergyItem, ...]
    steady: tuple[EnergyItem, ...]
    steady_s: float
    steady_steps: int
    reserved: tuple[Reservation, ...]
    reserved_now: tuple[Reservation, ...]
    power_w: float
    gpus: int
    gpus_measured: int
    nodes_seen: int
    last_step: int
    estimated_j: float = 0.0

    @property
    def energy_j(self) -> float:
        """All energy of the IT rungs, J."""
        return math.fsum(item.energy_j for item in self.spent)


def without_copies(files: Mapping[str, FileTotals], own: str | None = None) -> dict[str, FileTotals]:
    """Ledgers by file name, but for copies of others; of the same windows, those of the file `own` stay."""
    names = sorted(files, key=lambda name: (name != own, files[name].started_s, name))
    copies = copies_among((name, files[name].fingerprint) for name in names)
    return {name: file for name, file in files.items() if name not in copies}


def run_totals(
    files: Mapping[str, FileTotals],
    *,
    attempt_started_s: float,
    offsets_s: Mapping[Place, float] | None = None,
    own: str | None = None,
) -> RunTotals:
    """Sum up ledgers by file name. Those that ended before `attempt_started_s` (Unix, by the clock of the file `own`)
    are of earlier attempts; `offsets_s` says by how much clocks are ahead of that of `own` now."""
    opened = {name: file for name, file in files.items() if file.manifest is not None}
    ahead_s = _ahead(opened, offsets_s or {}, own)
    extents = {name: (file.started_s - ahead_s[name], file.end_s - ahead_s[name]) for name, file in opened.items()}
    attempt_started_s -= ahead_s.get(own or "", 0.0)
    shares = _shares(opened, extents)
    # By when it was heard of, not by its own clock: clocks of nodes disagree.
    newest_s = max((file.heard_s for file in opened.values()), default=0.0)
    spent, steady = _Groups(), _Groups()
    power_w = estimated_j = 0.0
    measured: dict[str, bool] = {}
    powered: set[str] = set()
    current = {name: file for name, file in opened.items() if extents[name][1] >= attempt_started_s}
    for name, file in sorted(opened.items(), key=lambda item: (extents[item[0]][0], item[0])):
        fresh = newest_s - file.heard_s <= STALE_WINDOWS * max(file.last_window_s, 1.0)
        for key, totals in file.devices.items():
            device = file.identities.get(key)
            if device is None or device.rung not in IT_RUNGS:
                continue
            share = shares.get((name, key), 1.0)
            spent.add(device, totals.energy, share)
            estimated_j += share * totals.energy.estimated_j
            if name in current:
                steady.add(device, totals.steady, share)
                if fresh and key not in powered:  # of two meters of one device, the first has its power
                    powered.add(key)
                    power_w += totals.power_w
                if device.rung == "gpu":
                    measured[key] = totals.measured or (share < 1 and measured.get(key, False))
    expected = expected_gpus(file.manifest for file in current.values() if file.manifest is not None)
    return RunTotals(
        spent=spent.items(),
        steady=steady.items(),
        steady_s=max((file.steady_s for file in current.values()), default=0.0),
        steady_steps=max((file.steady_steps for file in current.values()), default=0),
        reserved=_reserved(opened, extents, None),
        reserved_now=_reserved(current, extents, 1.0),
        power_w=power_w,
        estimated_j=max(0.0, estimated_j),
        gpus=len(measured) + expected.missing_for_sure,
        gpus_measured=sum(measured.values()),
        nodes_seen=len({file.manifest.node for file in current.values() if file.manifest}),
        last_step=max((file.last_step for file in opened.values()), default=0),
    )


class _Groups:
    """Energies by rung and kind of device."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Rung, str], Energy] = {}
        self._measured: dict[tuple[Rung, str], bool] = {}

    def add(self, device: DeviceIdentity, energy: Energy, share: float) -> None:
        group = (device.rung, f"{device.rung}:{device.name}")
        self._sums.setdefault(group, Energy()).merge(energy, share)
        self._measured[group] = self._measured.get(group, True) and device.energy_kind in MEASURED

    def items(self) -> tuple[EnergyItem, ...]:
        return tuple(
            EnergyItem(
                rung=rung,
                scope=scope,
                energy_j=energy.central_j,
                low_j=min(energy.low_j, energy.central_j),
                high_j=max(energy.high_j, energy.central_j),
                intensity_g_per_kwh=energy.intensity_g_per_kwh,
                kind="measured" if self._measured[rung, scope] else "modelled",
            )
            for (rung, scope), energy in sorted(self._sums.items())
        )


def _ahead(files: Mapping[str, FileTotals], offsets_s: Mapping[Place, float], own: str | None) -> dict[str, float]:
    """By how much the times of each file are ahead of those of the run, s."""
    latest = {file.place: name for name, file in sorted(files.items(), key=lambda item: item[1].heard_s)}
    noticed = {latest[place]: offset_s for place, offset_s in offsets_s.items() if place in latest}
    return file_offsets([file.timed(name) for name, file in files.items()], [(own or "", noticed)])


def _shares(files: Mapping[str, FileTotals], extents: Mapping[str, Extent]) -> dict[tuple[str, str], float]:
    """Part of a device's energy in a file that no file that began before has metered, where that is not all of it. The
    rule is that of the audit, for a file as a whole."""
    holders: dict[str, int] = {}
    for file in files.values():
        for key in file.identities:
            holders[key] = holders.get(key, 0) + 1
    claims = DeviceClaims()
    shares = {}
    for name in sorted(files, key=lambda name: (extents[name][0], name)):
        start_s, end_s = extents[name]
        claims.begin(name)
        for key in files[name].identities:
            if holders[key] > 1 and end_s > start_s and claims.claim(key, start_s, end_s):
                shares[name, key] = claims.share(key, start_s, end_s - start_s)
        claims.end()
    return shares


def _reserved(
    files: Mapping[str, FileTotals], extents: Mapping[str, Extent], each_s: float | None
) -> tuple[Reservation, ...]:
    """Reserved time of devices, hosts and network shares; with `each_s` every unit counts for so long instead."""
    holdings = [
        Holding(
            manifest=file.manifest,
            start_s=extents[name][0],
            end_s=extents[name][1],
            shared_s=file.shared.by_device_s,
        )
        for name, file in sorted(files.items(), key=lambda item: (extents[item[0]][0], item[0]))
        if file.manifest is not None
    ]
    time = held(holdings, each_s)
    return (
        Reservation(scope="device", units=1.0, time_s=time.device_s),
        Reservation(scope="host", units=1.0, time_s=time.host_s),
        Reservation(scope="network", units=1.0, time_s=time.device_s),
    )
