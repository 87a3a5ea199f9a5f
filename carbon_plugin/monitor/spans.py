"""Comparison spans: measured time and GPU energy a step, between step boundaries, beside the prediction.

Counters are read when the monitor wakes, not at a step; the energy at a boundary is interpolated between two reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.monitor.clock import Mark
from carbon_plugin.monitor.windows import Piece, Snapshot

MAX_QUEUE_LAG_S = 1.0
"""How far a host may run ahead of its GPU at a step boundary: at most a step, and at most the launch queue of about
1,024 kernels at up to a millisecond each (assumed)."""


class SpanRule(Struct, frozen=True, kw_only=True):
    """When a span is long enough: `min_s` and `min_steps`, or `long_steps` where a step takes over `min_s`.

    `warmup_steps` of a process are left out: compilation, autotuning, the allocator.
    """

    min_s: float = 10.0
    min_steps: int = 10
    long_steps: int = 3
    warmup_steps: int = 3

    def enough(self, steps: int, duration_s: float) -> bool:
        """Whether so many steps in that time make a span."""
        if steps < 1 or duration_s < self.min_s:
            return False
        return steps >= self.min_steps or (steps >= self.long_steps and duration_s / steps > self.min_s)


class Measured(Struct, frozen=True, kw_only=True):
    """What a span measured. Steps are counted since the start of this process; no energy where a GPU was absent."""

    first_step: int
    last_step: int
    start_s: float
    duration_s: float
    gpu_energy_j: float | None
    boundary_error_s: float

    @property
    def steps(self) -> int:
        """Steps between its boundaries."""
        return self.last_step - self.first_step + 1


class _Boundary(Struct, frozen=True):
    steps: int
    monotonic_s: float
    gpu_energy_j: float | None


class SpanTracker:
    """Turns reads of the meters into spans. `gpu_keys` are the GPUs whose energy counts; none on a CPU."""

    def __init__(self, rule: SpanRule, gpu_keys: Sequence[str]) -> None:
        self._rule = rule
        self._keys = list(gpu_keys)
        self._open: _Boundary | None = None

    def observe(self, before: Snapshot, after: Snapshot, pieces: Sequence[Piece]) -> list[Measured]:
        """Spans that end between two reads, which `pieces` divide into phases. Waiting for data is part of a step."""
        spans = []
        left: Piece | None = None
        for piece in pieces:
            if piece.phase not in ("train", "data_wait"):
                self._open, left = None, piece
                continue
            if left is not None and left.phase != "startup":
                # After an evaluation or a checkpoint the next step begins when it ends.
                self._begin(piece.start.steps, piece.start_s, before, after)
            left = None
            span = self._close(piece.end, before, after)
            if span is not None:
                spans.append(span)
            if self._open is None and piece.end.monotonic_s > piece.start_s:
                self._begin(piece.end.steps, piece.end.monotonic_s, before, after)
        return spans

    def _begin(self, steps: int, moment_s: float, before: Snapshot, after: Snapshot) -> None:
        if steps >= self._rule.warmup_steps:
            self._open = _Boundary(steps, moment_s, self._energy_at(moment_s, before, after))

    def _close(self, mark: Mark, before: Snapshot, after: Snapshot) -> Measured | None:
        start = self._open
        if start is None or mark.monotonic_s < before.monotonic_s:
            return None
        steps, duration_s = mark.steps - start.steps, mark.monotonic_s - start.monotonic_s
        if not self._rule.enough(steps, duration_s):
            return None
        end = _Boundary(mark.steps, mark.monotonic_s, self._energy_at(mark.monotonic_s, before, after))
        self._open = end
        energies = (start.gpu_energy_j, end.gpu_energy_j)
        return Measured(
            first_step=start.steps + 1,
            last_step=end.steps,
            start_s=start.monotonic_s,
            duration_s=duration_s,
            gpu_energy_j=None if None in energies else (energies[1] or 0.0) - (energies[0] or 0.0),
            boundary_error_s=2 * min(duration_s / steps, MAX_QUEUE_LAG_S) if self._keys else 0.0,
        )

    def _energy_at(self, moment_s: float, before: Snapshot, after: Snapshot) -> float | None:
        """Energy of all GPUs at a moment between two reads, J; None if one of them was absent."""
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
