"""Share the machine among several trainings in one process at a time, and tell the part that one training is charged.

Each of them is charged an equal part of what the machine uses meanwhile. Its GPUs may be shared with other runs too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from msgspec.structs import replace

from carbon_plugin.ledger.records import MACHINE, DeviceEnergy
from carbon_plugin.monitor.processes.neighbours import Neighbours

_KEPT = 10_000
"""So many beginnings and ends are remembered. Those before them are older than any window."""


class SharedMachine:
    """Holds how many trainings of this process ran at each time. All ranks keep count, because any of them
    may record.
    """

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


class OwnShare:
    """Computes the part of the machine and of its GPUs that one training is charged for.

    It shares the machine with other trainings of this process, and the GPUs with its `neighbours`, which are None where
    nobody looked for them.
    """

    def __init__(self, neighbours: Neighbours | None) -> None:
        self._neighbours = neighbours

    def charged(self, used: Sequence[DeviceEnergy], start_s: float, end_s: float) -> list[DeviceEnergy]:
        """Return the part of a window's energies that this training is charged for."""
        own = shared(used, SHARED_MACHINE.part_of(start_s, end_s))
        return self._neighbours.charged(own, start_s, end_s) if self._neighbours else own

    def parts(self, gpus: Sequence[str], start_s: float, end_s: float) -> dict[str, float] | None:
        """Return the parts of the machine and of its GPUs that belong to this training, or None where all of them
        do."""
        machine, near = SHARED_MACHINE.part_of(start_s, end_s), self._neighbours
        if machine == 1.0 and (near is None or near.none):
            return None
        parts = {key: machine * (near.part_of(key, start_s, end_s) if near else 1.0) for key in gpus}
        return {key: part for key, part in {MACHINE: machine, **parts}.items() if part < 1.0 - 1e-9} or None

    def of_gpus(self, gpus: Sequence[str], start_s: float, end_s: float) -> float:
        """Return the mean part of these GPUs that belongs to this training, 0 to 1."""
        part = SHARED_MACHINE.part_of(start_s, end_s)
        if self._neighbours and gpus:
            parts = [self._neighbours.part_of(key, start_s, end_s) for key in gpus]
            part *= sum(parts) / len(parts)
        return part


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED_MACHINE.forget)
