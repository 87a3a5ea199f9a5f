"""Hold consecutive windows of a ledger as arrays, so that one operation checks or adds hundreds of windows.

They hold what the windows state, and no judgement of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.ledger.records import DeviceEnergy, IntensityOrigin, Phase, Window
from carbon_plugin.spec.metered import EnergyKind
from carbon_plugin.spec.numbers.range_array import Floats

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]


class WindowColumns(Struct, frozen=True, kw_only=True):
    """Consecutive windows that name the same devices and know their energy in the same way.

    Arrays of devices have the shape (devices, windows), all others (windows,). NaN stands for what a window does not
    state. Steps are at most `possible.MOST_COUNT`, so that arrays of integers hold them. `notes` are what the meters
    said, each once, with the position of the first window that has it.
    """

    keys: list[str]
    kinds: list[EnergyKind]
    notes: list[tuple[int, str, str]]  # position, device key, note
    indices: Counts
    phases: list[Phase]
    start_unix_s: Floats
    duration_s: Floats
    steps: Counts
    last_steps: Counts
    tokens: list[int]
    intensity_g_per_kwh: Floats
    pue: Floats
    origins: list[IntensityOrigin | None]
    parts: list[dict[str, float] | None]
    energy_j: Floats
    low_j: Floats
    high_j: Floats
    estimated_j: Floats

    def __len__(self) -> int:
        return len(self.phases)

    @property
    def ends_unix_s(self) -> Floats:
        """Return the end of each window."""
        return self.start_unix_s + self.duration_s

    def of_phases(self, *phases: Phase) -> Flags:
        """Return for each window whether it is of one of some phases."""
        first = self.phases[0]
        if self.phases.count(first) == len(self):  # as most windows of a run are
            return np.full(len(self), first in phases)
        return np.array([phase in phases for phase in self.phases])

    def is_like(self, other: WindowColumns) -> bool:
        """Return whether the windows of both name the same devices and know their energy in the same way."""
        return self.keys == other.keys and self.kinds == other.kinds

    def cut(self, first: int, last: int) -> WindowColumns:
        """Return the windows from position `first` on, before position `last`."""
        chosen = slice(first, last)
        return WindowColumns(
            keys=self.keys,
            kinds=self.kinds,
            notes=[(place - first, key, note) for place, key, note in self.notes if first <= place < last],
            **{name: getattr(self, name)[chosen] for name in (*_ARRAYS, *_LISTS)},
            **{name: getattr(self, name)[:, chosen] for name in _OF_DEVICES},
        )


_ARRAYS = ("indices", "start_unix_s", "duration_s", "steps", "last_steps", "intensity_g_per_kwh", "pue")
_LISTS = ("phases", "tokens", "origins", "parts")
_OF_DEVICES = ("energy_j", "low_j", "high_j", "estimated_j")


def columns_of(windows: Sequence[Window]) -> WindowColumns | None:
    """Return windows as columns; None where they do not all name the same devices in the same way, where there are
    none, or where a number of steps is too large for an array.
    """
    if not windows:
        return None
    energies = [energy for window in windows for energy in window.energies]
    count, shape = len(windows[0].energies), (len(windows), len(windows[0].energies))
    keys, kinds = [energy.key for energy in energies], [energy.kind for energy in energies]
    alike = (
        keys == keys[:count] * len(windows)
        and kinds == kinds[:count] * len(windows)
        and set(map(len, [window.energies for window in windows])) == {count}
    )
    if not alike:
        return None
    try:
        indices, steps, last_steps = (
            np.array(counts, dtype=np.int64)
            for counts in (
                [window.index for window in windows],
                [window.steps for window in windows],
                [window.last_step for window in windows],
            )
        )
    except OverflowError:
        return None
    return WindowColumns(
        keys=keys[:count],
        kinds=kinds[:count],
        notes=_notes(energies, count),
        indices=indices,
        phases=[window.phase for window in windows],
        start_unix_s=_floats([window.start_unix_s for window in windows]),
        duration_s=_floats([window.duration_s for window in windows]),
        steps=steps,
        last_steps=last_steps,
        tokens=[window.tokens for window in windows],
        intensity_g_per_kwh=_floats([window.intensity_g_per_kwh for window in windows]),
        pue=_floats([window.pue for window in windows]),
        origins=[window.intensity_origin for window in windows],
        parts=[window.parts for window in windows],
        energy_j=_devices([energy.energy_j for energy in energies], shape),
        low_j=_devices([energy.low_j for energy in energies], shape),
        high_j=_devices([energy.high_j for energy in energies], shape),
        estimated_j=_devices([energy.estimated_j for energy in energies], shape),
    )


def columns_of_each(windows: Sequence[Window]) -> Iterator[WindowColumns]:
    """Yield possible windows in their order as columns, with a new one wherever the devices change."""
    for _, alike in groupby(windows, lambda window: [(energy.key, energy.kind) for energy in window.energies]):
        columns = columns_of(list(alike))
        if columns is not None:
            yield columns


def joined(pieces: Sequence[WindowColumns]) -> WindowColumns:
    """Return consecutive columns of windows that are alike as one."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    notes, place = [], 0
    for piece in pieces:
        notes += [(place + own, key, note) for own, key, note in piece.notes]
        place += len(piece)
    columns: dict[str, Any] = {}
    columns |= {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in _ARRAYS}
    columns |= {name: [value for piece in pieces for value in getattr(piece, name)] for name in _LISTS}
    columns |= {name: np.concatenate([getattr(piece, name) for piece in pieces], axis=1) for name in _OF_DEVICES}
    return WindowColumns(keys=first.keys, kinds=first.kinds, notes=notes, **columns)


def divided(pieces: Sequence[WindowColumns], count: int) -> tuple[list[WindowColumns], list[WindowColumns]]:
    """Return the first `count` windows of consecutive columns, and all others."""
    before: list[WindowColumns] = []
    for number, piece in enumerate(pieces):
        if len(piece) > count:
            head = [piece.cut(0, count)] if count else []
            return [*before, *head], [piece.cut(count, len(piece)), *pieces[number + 1 :]]
        before.append(piece)
        count -= len(piece)
    return before, []


def sum_onto(total: float, values: Floats) -> float:
    """Return a total after all values were added to it one after the other, so that it is the same to the last bit as
    the total of a loop."""
    return float(np.add.accumulate(np.concatenate(([total], values)))[-1])  # a sum of numpy adds in another order


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array(values, dtype=float)


def _devices(values: Sequence[float | None], shape: tuple[int, int]) -> Floats:
    """Return values that are ordered window by window as an array of (devices, windows), with NaN for None."""
    if values.count(None) == len(values):  # as estimates nearly always are
        return np.full(shape[::-1], np.nan)
    return np.ascontiguousarray(np.array(values, dtype=float).reshape(shape).T)


def _notes(energies: Sequence[DeviceEnergy], count: int) -> list[tuple[int, str, str]]:
    notes = [energy.note for energy in energies]
    if notes.count(None) == len(notes):
        return []
    found: dict[tuple[str, str], int] = {}
    for place, (energy, note) in enumerate(zip(energies, notes, strict=True)):
        if note:
            found.setdefault((energy.key, note), place // count)
    return [(place, key, note) for (key, note), place in found.items()]
