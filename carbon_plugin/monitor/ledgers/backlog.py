"""Keep records that wait for a file that cannot be written. They stay in order, in bounded memory, and no energy is
lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from carbon_plugin.ledger.records import Close, DeviceEnergy, Event, Manifest, Projection, Record, Span, Window
from carbon_plugin.spec.numbers.range import Range

MAX_WAITING = 20_000
"""The number of records kept in memory: two days of windows of 10 s, some 20 MB. Beyond it, neighbouring windows are
joined."""
MAX_EVENTS = 1000
JOIN_S = 0.1
"""Windows further apart than this many seconds do not follow each other, because the machine slept between them."""
GROUP = 8
"""So many windows are joined by phase at a time. A loop that changes its phase at every window has two to four
phases."""


class Backlog:
    """Holds the waiting records.

    `windows` is the number of windows that were written, and so the number of the next one. A ledger numbers its
    windows without a gap, also where waiting ones were joined.
    """

    def __init__(self, most: int = MAX_WAITING) -> None:
        self.windows = 0
        self._most = self._limit = most
        self._records: deque[Record] = deque()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def seconds(self) -> float:
        """Return the time that the waiting windows cover, s."""
        return sum(record.duration_s for record in self._records if isinstance(record, Window))

    def add(self, record: Record) -> None:
        """Append a record to the waiting ones."""
        self._records.append(record)
        if len(self._records) > self._limit:
            self._records = deque(thinned(self._records))
            self._limit = max(self._most, 2 * len(self._records))  # else records that cannot be joined cost a pass each

    def first(self) -> Record:
        """Return the next record with the number under which it will be written."""
        record = self._records[0]
        if isinstance(record, Window):
            return replace(record, index=self.windows)
        return replace(record, windows=self.windows) if isinstance(record, Close) else record

    def drop(self) -> None:
        """Remove the next record because it cannot be written."""
        self._records.popleft()

    def done(self) -> None:
        """Remove the next record because it was written."""
        if isinstance(self._records.popleft(), Window):
            self.windows += 1


def thinned(records: Iterable[Record]) -> list[Record]:
    """Return fewer records that hold the same energy, time and steps.

    Neighbouring windows are joined by phase. Of the manifests the first and the last are kept, and of the projections
    the last. Of the events the first `MAX_EVENTS` are kept, and of the spans the last.
    """
    records = list(records)
    last = {type(record): position for position, record in enumerate(records)}
    events, spans = 0, sum(isinstance(record, Span) for record in records)
    kept: list[Record] = []
    group: list[Window] = []
    for position, record in enumerate(records):
        if isinstance(record, Window):
            if len(group) == GROUP or (group and _apart(group[-1], record)):
                kept += by_phase(group)
                group = []
            group.append(record)
        elif isinstance(record, Manifest):
            if position in (0, last[Manifest]):
                kept += [*by_phase(group), record]  # a window is read with the manifest before it
                group = []
        elif isinstance(record, Event):
            events += 1
            kept += [record] if events <= MAX_EVENTS else []
        elif isinstance(record, Span):
            spans -= 1
            kept += [record] if spans < MAX_EVENTS else []
        elif not isinstance(record, Projection) or position == last[Projection]:
            kept += [*by_phase(group), record]
            group = []
    return kept + by_phase(group)


def by_phase(windows: Sequence[Window]) -> list[Window]:
    """Join windows in a row into one for each phase, laid one after the other.

    Windows that differ in values that do not add up, such as the intensity in force, stay apart.
    """
    sums: dict[Any, Window] = {}
    for window in windows:
        kinds = tuple((energy.key, energy.kind) for energy in window.energies)
        alike = (window.phase, window.pue, window.intensity_g_per_kwh, window.intensity_origin, kinds)
        sums[alike] = _joined(sums[alike], window) if alike in sums else window
    result: list[Window] = []
    for window in sums.values():
        before = result[-1] if result else None
        start_s = before.start_unix_s + before.duration_s if before else window.start_unix_s
        step = max(before.last_step, window.last_step) if before else window.last_step
        result.append(replace(window, start_unix_s=start_s, last_step=step))
    return result


def _apart(first: Window, second: Window) -> bool:
    """Return whether the machine slept between two windows."""
    return abs(second.start_unix_s - first.start_unix_s - first.duration_s) > JOIN_S


def _joined(first: Window, second: Window) -> Window:
    return replace(
        first,
        duration_s=first.duration_s + second.duration_s,
        energies=[_sum(one, two) for one, two in zip(first.energies, second.energies, strict=True)],
        steps=first.steps + second.steps,
        last_step=second.last_step,
        tokens=first.tokens + second.tokens,
    )


def _sum(one: DeviceEnergy, two: DeviceEnergy) -> DeviceEnergy:
    def added(name: str) -> float | None:
        values = getattr(one, name), getattr(two, name)
        return None if values == (None, None) else (values[0] or 0.0) + (values[1] or 0.0)

    known = [energy for energy in (one.energy, two.energy) if energy is not None]
    both = Range.total(known) if known else None
    return replace(
        one,
        energy_j=added("energy_j"),
        low_j=None if both is None else both.low,
        high_j=None if both is None else both.high,
        note=one.note or two.note,
        estimated_j=added("estimated_j"),
    )
