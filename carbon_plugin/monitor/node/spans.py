"""Measure comparison spans: time and GPU energy a step between step boundaries, to set beside the prediction.

Counters are read when the monitor wakes, not at a step. The energy at a boundary is interpolated between two reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.ledger.held.counted_steps import IN_TRAINING
from carbon_plugin.monitor.clock import Mark
from carbon_plugin.monitor.node.windows import Piece, Snapshot
from carbon_plugin.spec.options import SpanRule

MAX_QUEUE_LAG_S = 1.0
"""A host runs ahead of its GPU by at most this many seconds at a step boundary: by at most a step, and at most the
launch queue of about 1,024 kernels at up to a millisecond each (assumed)."""


class Measured(Struct, frozen=True, kw_only=True):
    """Holds what a span measured.

    Steps are counted since the start of this process. The energy is None where a GPU was absent. A `short` span ended
    before it was long enough.
    """

    first_step: int
    last_step: int
    start_s: float
    duration_s: float
    gpu_energy_j: float | None
    boundary_error_s: float
    short: bool = False

    @property
    def steps(self) -> int:
        """Return the number of steps between the boundaries."""
        return self.last_step - self.first_step + 1


class _Boundary(Struct, frozen=True):
    steps: int
    monotonic_s: float
    gpu_energy_j: float | None


class _Begun(Struct, frozen=True):
    """Holds the part of a step that was done when the loop left training for another phase."""

    duration_s: float = 0.0
    gpu_energy_j: float = 0.0


class SpanTracker:
    """Turns reads of the meters into spans. `gpu_keys` are the GPUs whose energy counts; there are none on a CPU.

    Until there is a span that is long enough, spans that end before are returned too, as short ones. A run that is
    short, or slow, or that evaluates often, has measured its steps as well.
    """

    def __init__(self, rule: SpanRule, gpu_keys: Sequence[str]) -> None:
        self._rule = rule
        self._keys = list(gpu_keys)
        self._open: _Boundary | None = None
        self._last: _Boundary | None = None
        self._begun: _Begun | None = None
        self._found = False

    def observe(self, before: Snapshot, after: Snapshot, pieces: Sequence[Piece]) -> list[Measured]:
        """Return the spans that end between two reads, which `pieces` divide into phases. Waiting for data is part of a
        step."""
        spans = []
        left: Piece | None = None
        for piece in pieces:
            if piece.phase not in IN_TRAINING:
                spans += self.finish()
                if self._begun is None:
                    self._begun = self._begun_at(piece, before, after)
                left = piece
                continue
            if left is not None and left.phase != "startup":
                # After an evaluation or a checkpoint, the next step goes on at its end.
                self._begin(piece.start.steps, piece.start_s, before, after, self._begun)
            left = self._begun = None
            span = self._close(piece.end, before, after)
            if span is not None:
                spans.append(span)
                self._found = True
            if self._open is None and piece.end.monotonic_s > piece.start_s:
                self._begin(piece.end.steps, piece.end.monotonic_s, before, after)
        return spans

    def finish(self) -> list[Measured]:
        """End a stretch of training. Return it as a short span if no span was long enough yet."""
        start, end = self._open, self._last
        self._open = self._last = None
        if self._found or start is None or end is None or end.steps <= start.steps:
            return []
        return [self._measured(start, end, short=True)]

    def _begin(
        self, steps: int, moment_s: float, before: Snapshot, after: Snapshot, begun: _Begun | None = None
    ) -> None:
        """Begin a span. What was done of its first step before another phase counts as if it lay directly before."""
        if steps >= self._rule.warmup_steps:
            begun = begun or _Begun()
            energy_j = self._energy_at(moment_s, before, after)
            energy_j = None if energy_j is None else energy_j - begun.gpu_energy_j
            self._open = _Boundary(steps, moment_s - begun.duration_s, energy_j)
            self._last = None

    def _begun_at(self, left: Piece, before: Snapshot, after: Snapshot) -> _Begun:
        """Return what was done of a step when training was left: a loop logs, waits for a loss or fetches a batch
        between a step boundary and an evaluation."""
        duration_s = max(0.0, left.start_s - left.start.monotonic_s)
        first_j, last_j = (self._energy_at(read.monotonic_s, before, after) for read in (before, after))
        spent_j = 0.0 if first_j is None or last_j is None else last_j - first_j
        return _Begun(duration_s, duration_s * spent_j / (after.monotonic_s - before.monotonic_s))

    def _close(self, mark: Mark, before: Snapshot, after: Snapshot) -> Measured | None:
        start = self._open
        if start is None or mark.monotonic_s < before.monotonic_s:
            return None
        steps, duration_s = mark.steps - start.steps, mark.monotonic_s - start.monotonic_s
        end = _Boundary(mark.steps, mark.monotonic_s, self._energy_at(mark.monotonic_s, before, after))
        if not self._rule.enough(steps, duration_s):
            self._last = end
            return None
        self._open, self._last = end, None
        return self._measured(start, end, short=False)

    def _measured(self, start: _Boundary, end: _Boundary, *, short: bool) -> Measured:
        steps, duration_s = end.steps - start.steps, end.monotonic_s - start.monotonic_s
        lag_s = 2 * min(duration_s / steps, MAX_QUEUE_LAG_S) if self._keys else 0.0
        energies = (start.gpu_energy_j, end.gpu_energy_j)
        return Measured(
            first_step=start.steps + 1,
            last_step=end.steps,
            start_s=start.monotonic_s,
            duration_s=duration_s,
            gpu_energy_j=None if None in energies else (energies[1] or 0.0) - (energies[0] or 0.0),
            # Few steps say little of the others, because one of them may have been twice as long as usual.
            boundary_error_s=lag_s + (duration_s / steps if short else 0.0),
            short=short,
        )

    def _energy_at(self, moment_s: float, before: Snapshot, after: Snapshot) -> float | None:
        """Return the energy of all GPUs at a moment between two reads, J, or None if one of them was absent."""
        if not self._keys:
            return None
        share = (moment_s - before.monotonic_s) / (after.monotonic_s - before.monotonic_s)
        share = min(1.0, max(0.0, share))
        total = 0.0
        for key in self._keys:
            first, last = before.readings.get(key), after.readings.get(key)
            if first is None or last is None or last.kind == "absent":
                return None
            if first.energy_j is None or last.energy_j is None:
                return None
            total += first.energy_j + share * (last.energy_j - first.energy_j)
        return total
