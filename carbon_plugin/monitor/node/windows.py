"""Compute energy windows: what the meters counted between two reads, cut where the phase changed. All functions are
pure.

A phase that changes between two reads gets its share of the energy by time, and its window says so. Windows of one node
join without gap or overlap.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.ledger.records import DeviceEnergy, Phase
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor.clock import Mark, Transition
from carbon_plugin.spec.numbers.range import ZERO, Range
from carbon_plugin.threads.turns import give_way

MAX_PIECES = 8
"""With more phases than this between two reads, they are summed up by phase, so that a loop that changes its phase
every step does not write a record for each."""
APPORTIONED = "apportioned by time within a longer reading"
COUNTER_STEP_S = 0.1
"""The counters of GPUs step no faster than this. Devices that are read within one step of each other count as read at
once, and no mean power is that of less than a step."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """One read of all meters: its monotonic moment, the readings by device key, and the last step boundary before
    it."""

    monotonic_s: float
    readings: dict[str, Reading]
    mark: Mark


class Piece(Struct, frozen=True, kw_only=True):
    """Describes a stretch of one phase between two reads. `end` is the last step boundary up to its end."""

    phase: Phase
    start_s: float
    end_s: float
    start: Mark
    end: Mark

    @property
    def duration_s(self) -> float:
        """Return the length, s."""
        return self.end_s - self.start_s


def cut(before: Snapshot, after: Snapshot, phase: Phase, transitions: Sequence[Transition]) -> list[Piece]:
    """Return the stretches between two reads in time order. `phase` is the phase at the first read."""
    pieces: list[Piece] = []
    start_s, start = before.monotonic_s, before.mark
    for moment_s, following, mark in transitions:
        # A change that was noted while the meters were being read belongs to the edge.
        edge_s = min(max(moment_s, start_s), after.monotonic_s)
        if edge_s > start_s:
            pieces.append(Piece(phase=phase, start_s=start_s, end_s=edge_s, start=start, end=mark))
            start_s, start = edge_s, mark
        phase = following
    if after.monotonic_s > start_s:
        pieces.append(Piece(phase=phase, start_s=start_s, end_s=after.monotonic_s, start=start, end=after.mark))
    elif pieces:
        pieces[-1] = replace(pieces[-1], end=after.mark)  # steps that ended while the meters were being read
    return pieces


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Join many short pieces into one for each phase, laid one after the other. Few pieces stay as they are."""
    if len(pieces) <= MAX_PIECES:
        return list(pieces)
    lengths: dict[Phase, float] = {}
    for piece in pieces:
        lengths[piece.phase] = lengths.get(piece.phase, 0.0) + piece.duration_s
    first, last = pieces[0], pieces[-1]
    result: list[Piece] = []
    edge_s, mark = first.start_s, first.start
    for phase, length_s in sorted(lengths.items(), key=lambda pair: pair[0] != "train"):
        end_s = edge_s + length_s
        if end_s > edge_s:  # a phase that is shorter than the clock resolves gets no piece
            # All steps go to the training piece, which comes first.
            result.append(Piece(phase=phase, start_s=edge_s, end_s=end_s, start=mark, end=last.end))
            edge_s, mark = end_s, last.end
    return result


def moment_of(readings: Sequence[Reading], gpus: Collection[str]) -> float | None:
    """Return the moment of a round of reading: that of its first GPU, else of its first device, or None for no reading.

    A GPU that hangs in its driver delays whatever is read after it. Samples of a meter that reads by itself are older,
    but GPUs have no such meter.
    """
    of_gpus = [reading.monotonic_s for reading in readings if reading.key in gpus]
    return min(of_gpus or [reading.monotonic_s for reading in readings], default=None)


def at_its_moment(first: Snapshot, then: Snapshot) -> Snapshot:
    """Return the first of two reads. Readings of devices before which the process was held up are moved back to the
    moment of the read, as if the mean power up to the second read had been drawn before them too."""
    moment_s = first.monotonic_s
    late = [reading for reading in first.readings.values() if reading.monotonic_s - moment_s > COUNTER_STEP_S]
    moved = {reading.key: _moved_back(moment_s, reading, then.readings.get(reading.key)) for reading in late}
    return replace(first, readings=first.readings | moved) if moved else first


def _moved_back(moment_s: float, first: Reading, then: Reading | None) -> Reading:
    lasted_s = 0.0 if then is None else then.monotonic_s - first.monotonic_s
    return extended(moment_s, (moment_s - first.monotonic_s) / lasted_s if lasted_s > 0 else 0.0, first, then)


def extended(moment_s: float, share: float, first: Reading, then: Reading | None) -> Reading:
    """Return a first reading as it was at an earlier moment, by the mean power up to another reading. `share` is the
    time to that moment, which is negative, by the time to the other reading."""
    if then is None or then.energy is None:
        return replace(first, monotonic_s=moment_s)
    energy = (first.energy or ZERO).towards(then.energy, share)
    return first.moved(moment_s, energy, first.estimated_j + share * (then.estimated_j - first.estimated_j))


def aligned(before: Snapshot, after: Snapshot) -> Snapshot:
    """Return the second of two reads. Readings that a hang delayed are moved back to the moment of the read."""
    moment_s = after.monotonic_s
    readings = {
        key: _at(moment_s, before.readings.get(key), reading)
        if reading.monotonic_s - moment_s > COUNTER_STEP_S
        else reading
        for key, reading in after.readings.items()
    }
    return replace(after, readings=readings)


def _at(moment_s: float, before: Reading | None, reading: Reading) -> Reading:
    """Return a reading as it was at an earlier moment, by the mean power since the reading before."""
    if before is None or before.energy is None or reading.energy is None or before.monotonic_s >= moment_s:
        return reading
    share = (moment_s - before.monotonic_s) / (reading.monotonic_s - before.monotonic_s)
    estimated_j = before.estimated_j + share * (reading.estimated_j - before.estimated_j)
    return reading.moved(moment_s, before.energy.towards(reading.energy, share), estimated_j)


def energies(before: Mapping[str, Reading], after: Mapping[str, Reading], share: float) -> list[DeviceEnergy]:
    """Return the energy of every device between two reads, times `share` of the time between them.

    A device without a first reading starts here and is not included yet. A device that tells nothing is absent, never 0
    J.
    """
    found = []
    for key, reading in after.items():
        if key in before:
            give_way()
            found.append(_energy(before[key], reading, share))
    return found


def _energy(before: Reading, after: Reading, share: float) -> DeviceEnergy:
    note = after.message if share == 1 else "; ".join(filter(None, (APPORTIONED, after.message)))
    if after.kind == "absent" or after.energy is None:
        return DeviceEnergy(key=after.key, energy_j=None, kind="absent", note=note)
    # A meter without an energy at the first read had counted nothing: its energy is that since it was opened.
    gained = after.energy.since(before.energy or ZERO)
    # What was used between a counter's value and the moment that it stands for is in the window after it.
    power_w = max(0.0, gained.value) / max(after.monotonic_s - before.monotonic_s, COUNTER_STEP_S)
    low_j, high_j = gained.low - before.late_s * power_w, gained.high + after.late_s * power_w
    used = Range.of(gained.value, max(0.0, low_j), max(0.0, high_j)).scaled(share)
    return DeviceEnergy(
        key=after.key,
        energy_j=used.value,
        kind=after.kind,
        low_j=used.low,
        high_j=used.high,
        note=note,
        estimated_j=(after.estimated_j - before.estimated_j) * share or None,
    )
