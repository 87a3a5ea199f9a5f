"""Energy windows: what the meters counted between two reads, cut where a phase changed. Pure functions.

A phase that changes between two reads gets its share of the energy by time, and says so. Windows of one node join
without gap or overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.ledger.records import DeviceEnergy, Phase
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor.clock import Mark, Transition

MAX_PIECES = 8
"""More phases than this between two reads are summed up by phase, so that a loop that changes phase every step
does not write a record for each."""
APPORTIONED = "apportioned by time within a longer reading"


class Snapshot(Struct, frozen=True, kw_only=True):
    """All meters read once: when, what they said by device key, and the last step boundary before it."""

    monotonic_s: float
    readings: dict[str, Reading]
    mark: Mark


class Piece(Struct, frozen=True, kw_only=True):
    """A stretch of one phase between two reads. `end` is the last step boundary up to its end."""

    phase: Phase
    start_s: float
    end_s: float
    start: Mark
    end: Mark

    @property
    def duration_s(self) -> float:
        """Length, s."""
        return self.end_s - self.start_s


def cut(before: Snapshot, after: Snapshot, phase: Phase, transitions: Sequence[Transition]) -> list[Piece]:
    """Stretches between two reads, in time order; `phase` is the one at the first read."""
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
    """Many short pieces as one a phase, laid one after the other; few pieces as they are."""
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
        if end_s > edge_s:  # a phase shorter than the clock resolves has no piece
            # All steps go to the training piece, which comes first.
            result.append(Piece(phase=phase, start_s=edge_s, end_s=end_s, start=mark, end=last.end))
            edge_s, mark = end_s, last.end
    return result


def energies(before: Mapping[str, Reading], after: Mapping[str, Reading], share: float) -> list[DeviceEnergy]:
    """Energy of every device between two reads, times `share` of the time between them.

    A device without a first reading starts here; one that says nothing is absent, never 0 J.
    """
    return [_energy(before.get(key), reading, share) for key, reading in after.items()]


def _energy(before: Reading | None, after: Reading, share: float) -> DeviceEnergy:
    note = after.message if share == 1 else "; ".join(filter(None, (APPORTIONED, after.message)))
    if after.kind == "absent" or after.energy_j is None or before is None or before.energy_j is None:
        return DeviceEnergy(key=after.key, energy_j=None, kind="absent", note=note)
    central = after.energy_j - before.energy_j
    low = _difference(before.low_j, after.low_j, central)
    high = _difference(before.high_j, after.high_j, central)
    return DeviceEnergy(
        key=after.key,
        energy_j=central * share,
        kind=after.kind,
        low_j=min(low, central) * share,
        high_j=max(high, central) * share,
        note=note,
    )


def _difference(before: float | None, after: float | None, otherwise: float) -> float:
    return otherwise if before is None or after is None else max(0.0, after - before)
