"""Turn stretches of energy and time into the windows and spans of a ledger."""

from __future__ import annotations

from collections.abc import Sequence

from carbon_plugin.ledger.records import DeviceEnergy, Span, Window
from carbon_plugin.monitor.clock import Mark, TrainingClock, WallClock
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.intensity import IntensityWatch
from carbon_plugin.monitor.node.spans import Measured
from carbon_plugin.monitor.node.windows import Piece
from carbon_plugin.monitor.processes.sharing import OwnShare


class RecordMaker:
    """Numbers the windows of one ledger, and labels windows and spans with wall time, steps, shares and the factors in
    force."""

    def __init__(self, clock: TrainingClock, wall: WallClock, intensity: IntensityWatch, share: OwnShare) -> None:
        self._clock = clock
        self._wall = wall
        self._intensity = intensity
        self._share = share
        self._index = 0
        self._first: Mark | None = None
        self._tokens = 0

    def window(self, piece: Piece, used: Sequence[DeviceEnergy], context: Context, gpus: Sequence[str]) -> Window:
        """Return the next window: a piece with the energies that were used in it, of which this training is charged its
        share."""
        factors = context.factors
        index, self._index = self._index, self._index + 1
        start_unix_s = self._wall.unix_s(piece.start_s)
        # Services and series are asked by the present wall clock, because somebody may have corrected it.
        at_s = start_unix_s + self._wall.ahead_s
        intensity = self._intensity.of_window(
            at_s, at_s + piece.duration_s, factors.intensity.figure.value if factors else None
        )
        return Window(
            index=index,
            phase=piece.phase,
            start_unix_s=start_unix_s,
            duration_s=piece.duration_s,
            energies=self._share.charged(used, piece.start_s, piece.end_s),
            parts=self._share.parts(gpus, piece.start_s, piece.end_s),
            steps=piece.end.steps - piece.start.steps,
            last_step=self._clock.base_step + piece.end.steps,
            tokens=self._tokens_of(piece, context),
            intensity_g_per_kwh=intensity.g_per_kwh,
            pue=factors.pue.value if factors else None,
            marginal_g_per_kwh=intensity.marginal_g_per_kwh,
            intensity_origin=intensity.origin,
        )

    def _tokens_of(self, piece: Piece, context: Context) -> int:
        """Return the tokens of a window: those of all windows so far, less those that the windows before it have.

        The window of the first step is often written before the job was looked at, and has no tokens then. The next one
        has them.
        """
        if self._first is None:
            self._first = piece.start
        so_far = _tokens_until(piece.end, context) - _tokens_until(self._first, context)
        tokens = max(0, so_far - self._tokens)
        self._tokens += tokens
        return tokens

    def span(self, span: Measured, context: Context, gpus: Sequence[str]) -> Span:
        """Return the record of a span, beside what the prediction says of it."""
        prediction, spec = context.prediction, context.effective.spec
        part = self._share.of_gpus(gpus, span.start_s, span.start_s + span.duration_s)
        predicted_j = None
        if prediction is not None and spec is not None and spec.cluster.accelerator.kind == "gpu":
            predicted_j = prediction.gpu_energy_per_step_j.value * len(gpus) / spec.cluster.devices
        return Span(
            first_step=self._clock.base_step + span.first_step,
            last_step=self._clock.base_step + span.last_step,
            start_unix_s=self._wall.unix_s(span.start_s),
            duration_s=span.duration_s,
            step_time_s=span.duration_s / span.steps,
            predicted_step_time_s=context.predicted_step_time_s,
            gpu_energy_per_step_j=None if span.gpu_energy_j is None else part * span.gpu_energy_j / span.steps,
            predicted_gpu_energy_per_step_j=predicted_j if gpus else None,
            boundary_error_s=span.boundary_error_s,
            short=span.short,
        )


def _tokens_until(mark: Mark, context: Context) -> int:
    """Return the tokens up to a step boundary. Steps that came without a number count as the job states."""
    return context.effective.tokens_of(told=mark.tokens, untold_steps=mark.uncounted, steps=mark.steps)
