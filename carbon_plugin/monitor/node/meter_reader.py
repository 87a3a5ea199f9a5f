"""Read all meters of a node at one moment, and report what the ledger must record about them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.meters.protocol import UNREAD_EVENT, Reading
from carbon_plugin.monitor.clock import TrainingClock, last_mark
from carbon_plugin.monitor.node.windows import Snapshot, moment_of

CONTEXT_EVERY_S = 60.0
"""Power limits, clocks and throttling are read once in this many seconds, at the end of a window, with a few driver
calls a GPU."""

Note = Callable[[str, str, dict[str, object]], None]
"""A function that records an event: its kind, its sentence and its data."""


class MeterReader:
    """Reads one set of meters. `note` records events about them, and `on_new_devices` is called when a driver that hung
    shows more devices."""

    def __init__(self, meters: MeterSet, clock: TrainingClock, note: Note, on_new_devices: Callable[[], None]) -> None:
        self._meters = meters
        self._clock = clock
        self._note = note
        self._on_new_devices = on_new_devices
        self._faults: dict[str, str] = {}
        self._context_due_s = 0.0
        self.gpus = self._gpu_keys()

    def snapshot(self, read: Callable[[], list[Reading]]) -> Snapshot:
        """Return what `read` returns, with its moment and the last step boundary before it."""
        marks = [self._clock.mark]
        readings = read()
        marks.append(self._clock.mark)
        moment_s = moment_of(readings, self.gpus)
        moment_s = time.monotonic() if moment_s is None else moment_s
        # Steps that ended while a GPU kept the others waiting belong to what follows.
        mark = last_mark(moment_s, marks)
        return Snapshot(monotonic_s=moment_s, readings={reading.key: reading for reading in readings}, mark=mark)

    def read(self) -> list[Reading]:
        """Read all meters, and record faults that have begun or ended."""
        known = len(self._meters.devices)
        readings = self._meters.read()
        if len(self._meters.devices) != known:
            self.gpus = self._gpu_keys()
            self._on_new_devices()
            self._note_notes()
        self.note_faults(readings)
        return readings

    def note_beginning(self, readings: Sequence[Reading]) -> None:
        """Record how the devices are metered, which are not, and the faults of the first readings."""
        self._note_notes()
        unread = self._meters.unread
        if unread is not None:
            self._note(UNREAD_EVENT, unread.sentence, unread.data)
        self.note_faults(readings)

    def note_faults(self, readings: Sequence[Reading]) -> None:
        """Record faults that have begun or ended since the readings before."""
        for reading in readings:
            known = self._faults.get(reading.key)
            if reading.fault is not None and reading.fault != known:
                message = reading.message or f"{reading.key}: {reading.fault}"
                self._note(f"meter_{reading.fault}", message, {"key": reading.key})
            elif reading.fault is None and known is not None:
                self._note("meter_recovered", f"{reading.key} answers again after: {known}", {"key": reading.key})
            if reading.fault is None:
                self._faults.pop(reading.key, None)
            else:
                self._faults[reading.key] = reading.fault

    def note_gpu_context(self) -> None:
        """Record changes of power limits, clocks and throttling, at most once a minute."""
        now_s = time.monotonic()
        if now_s < self._context_due_s:
            return
        self._context_due_s = now_s + CONTEXT_EVERY_S
        for change in self._meters.context_changes():
            self._note("gpu_context", change.message, change.data)

    def _gpu_keys(self) -> list[str]:
        return [device.key for device in self._meters.devices if device.rung == "gpu"]

    def _note_notes(self) -> None:
        for note in self._meters.notes:
            self._note(note.kind, note.message, {})
