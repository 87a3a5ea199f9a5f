"""Keep running sums over the records of one ledger. The same code sums up this node's ledger and those of the other
nodes.

Memory grows with the number of devices and not with time.
"""

from __future__ import annotations

import math
from collections import deque

from msgspec import Struct

from carbon_plugin.ledger.held.account_inputs import MEASURED_KINDS, UsedSum, stated_factors
from carbon_plugin.ledger.held.clocks import TimedFile
from carbon_plugin.ledger.held.copies import fingerprint_of
from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.held.expected import HANDED_OVER
from carbon_plugin.ledger.held.holdings import SharedTime
from carbon_plugin.ledger.held.launches import offsets_in
from carbon_plugin.ledger.records import (
    SUSPECT_EVENT,
    Close,
    Event,
    Manifest,
    Projection,
    Record,
    Span,
    Window,
)
from carbon_plugin.monitor.ledgers.file_times import FileTimes
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.threads.turns import give_way

RECENT_SUSPECTS = 8
"""So many suspects of a node are kept until rank 0 asks for them."""
RECENT_SPANS = 4
"""So many spans are kept, because another node may write the steps of the last one or two windows earlier or later than
this one."""

Place = tuple[str, int]
"""A node by the key of its host and its number in the job."""


class DeviceTotals(Struct):
    """Holds the sums of one device in one file. `steady` leaves out start-up and idling. Power and `measured` are of
    the last window.

    `start_s` and `end_s` are the first and the last moment of the windows with a known energy, Unix s by the file's own
    clock. They are None where no energy of the device is known.
    """

    energy: UsedSum
    steady: UsedSum
    power_w: float = 0.0
    measured: bool = False
    start_s: float | None = None
    end_s: float | None = None


class FileTotals:
    """Keeps the sums over one ledger so far. `steady_s` and `steady_steps` leave out start-up and idling."""

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self.identities: dict[str, DeviceIdentity] = {}
        self.devices: dict[str, DeviceTotals] = {}
        self.times = FileTimes()
        self.last_step = 0
        self.closed = False
        self.left = False  # another file continues it
        self.windows = 0
        self.fingerprint: str | None = None  # of its first window
        self.steps = 0
        self.steady_s = 0.0
        self.steady_steps = 0
        self.spans = SpanTotals()
        self.projection: Projection | None = None  # the last one
        self.counted = CountedSteps()
        self.shared = SharedTime()
        self.clock_offsets_s: dict[str, float] = {}  # clock offsets of other files that its writer noticed
        self.suspects: deque[Event] = deque(maxlen=RECENT_SUSPECTS)
        self._stated: tuple[float | None, float | None] | None = None  # intensity and PUE of its manifest, cached

    @property
    def energy_j(self) -> float:
        """Return the energy of all devices of the file, J."""
        return math.fsum(device.energy.energy.value for device in self.devices.values())

    @property
    def place(self) -> Place:
        """Return the host and the node whose clock labelled the file."""
        return (self.manifest.host_key, self.manifest.node) if self.manifest else ("", 0)

    def timed(self, name: str) -> TimedFile:
        """Return the facts of the file with this name by which clocks are compared, as `ledger.held.outline` finds them
        in the file.
        """
        return self.times.timed(name, self.manifest, left=self.left)

    @property
    def gpus(self) -> tuple[str, ...]:
        """Return the keys of the GPUs that the file meters."""
        devices = self.manifest.devices if self.manifest else []
        return tuple(sorted(device.key for device in devices if device.rung == "gpu"))

    def add(self, record: Record) -> None:
        """Add the next record of the file."""
        if isinstance(record, Manifest):
            if self.manifest is None:
                self.times.begin(record.started_unix_s)
            self.manifest = record
            self._stated = None
            self.identities |= {device.key: device for device in record.devices}  # a lost device keeps its energy
        elif isinstance(record, Window):
            self._add_window(record)
        elif isinstance(record, Span):
            self.spans.add(record)
        elif isinstance(record, Projection):
            self.projection = record
        elif isinstance(record, Event):
            self.clock_offsets_s |= offsets_in(record)
            if record.kind == SUSPECT_EVENT:
                self.suspects.append(record)
        elif isinstance(record, Close):
            self.closed = True
            self.left = record.reason in HANDED_OVER
            if self.manifest is not None:
                self.times.close(record.at_unix_s)

    def _add_window(self, window: Window) -> None:
        steady = window.phase not in ("startup", "idle")
        if self.windows == 0:
            self.fingerprint = fingerprint_of(window)
        self.windows += 1
        self.steps += window.steps
        self.last_step = max(self.last_step, window.last_step)
        self.times.add(window)
        end_s = window.start_unix_s + window.duration_s
        self.counted.add(window)
        self.shared.add(window)
        if steady:
            self.steady_s += window.duration_s
            self.steady_steps += window.steps
        intensity, pue = self.factors_of(window)
        for energy in window.energies:
            give_way()
            device = self.devices.get(energy.key)
            if device is None:
                device = self.devices[energy.key] = DeviceTotals(UsedSum(), UsedSum())
            device.measured = energy.kind in MEASURED_KINDS
            if energy.energy_j is None:
                device.power_w = 0.0
                continue
            device.energy.add(energy, intensity, pue)
            device.power_w = energy.energy_j / window.duration_s if window.duration_s > 0 else 0.0
            if steady:
                device.steady.add(energy, intensity, pue)
            if device.start_s is None or device.end_s is None:
                device.start_s, device.end_s = window.start_unix_s, end_s
            else:
                device.start_s, device.end_s = min(device.start_s, window.start_unix_s), max(device.end_s, end_s)

    def factors_of(self, window: Window) -> tuple[float | None, float | None]:
        """Return intensity (g/kWh) and PUE of a window: its own, or else those that the manifest in force states."""
        intensity, pue = window.intensity_g_per_kwh, window.pue
        if intensity is not None and pue is not None:
            return intensity, pue
        if self._stated is None:
            factors = stated_factors(self.manifest.factors) if self.manifest else None
            self._stated = (factors.intensity.figure.value, factors.pue.value) if factors else (None, None)
        stated_intensity, stated_pue = self._stated
        return stated_intensity if intensity is None else intensity, stated_pue if pue is None else pue


class SpanTotals:
    """Holds the last comparison spans of a file, and the spread of all of them."""

    def __init__(self) -> None:
        self.recent: deque[Span] = deque(maxlen=RECENT_SPANS)
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, span: Span) -> None:
        """Add the next span. The variance of the log step time is updated by Welford's method; short spans do not enter
        it."""
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
        """Return the last span."""
        return self.recent[-1] if self.recent else None

    @property
    def log_sigma(self) -> float | None:
        """Return the standard deviation of the log step time between spans, or None with fewer than two spans."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else None
