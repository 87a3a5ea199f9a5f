"""Share the machine among several trainings in one process at a time. Each is charged an equal part of what it uses
meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from msgspec.structs import replace

from carbon_plugin.ledger.records import DeviceEnergy

_KEPT = 10_000
"""So many beginnings and ends are remembered. Those before them are older than any window."""


class SharedMachine:
    """Holds how many trainings of this process ran over time. All ranks keep count, because any of them may record."""

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._changes: list[tuple[float, int]] = []

    def begin(self, training: object) -> None:
        """Note that a training begins."""
        self._running.add(training)
        self._note()

    def end(self, training: object) -> None:
        """Note that a training has ended, in whatever way. A second call does nothing."""
        if training in self._running:
            self._running.remove(training)
            self._note()

    def forget(self) -> None:
        """Drop the parent's trainings in a forked child, because they are not this process's."""
        self._running.clear()
        self._changes.clear()

    def part_of(self, start_s: float, end_s: float) -> float:
        """Return the part of the machine that each training had between two monotonic moments, 0 to 1."""
        edge_s, part, total = start_s, 1.0, 0.0
        for moment_s, running in tuple(self._changes):
            if moment_s > edge_s:
                until_s = min(moment_s, end_s)
                total += part * max(0.0, until_s - edge_s)
                edge_s = max(edge_s, until_s)
            part = 1.0 / max(1, running)
        total += part * max(0.0, end_s - edge_s)
        return total / (end_s - start_s) if end_s > start_s else part

    def _note(self) -> None:
        self._changes.append((time.monotonic(), len(self._running)))
        del self._changes[:-_KEPT]


def shared(energies: Sequence[DeviceEnergy], part: float) -> list[DeviceEnergy]:
    """Return the energies of a window times the part of this training, with a note that other trainings of the process
    share it."""
    if part == 1.0:
        return list(energies)
    note = f"{part:.3g} of it: shared with other trainings of this process"
    return [
        energy
        if energy.energy_j is None
        else replace(
            energy,
            energy_j=part * energy.energy_j,
            low_j=None if energy.low_j is None else part * energy.low_j,
            high_j=None if energy.high_j is None else part * energy.high_j,
            estimated_j=None if energy.estimated_j is None else part * energy.estimated_j,
            note="; ".join(filter(None, (energy.note, note))),
        )
        for energy in energies
    ]


SHARED_MACHINE = SharedMachine()
"""The trainings of this process."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED_MACHINE.forget)
