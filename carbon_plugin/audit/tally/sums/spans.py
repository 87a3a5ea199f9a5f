"""Sum up the comparison spans of a run in one pass: measured step time and energy beside the prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carbon_plugin.audit.findings.comparison import StepComparison
from carbon_plugin.audit.findings.series import StepSeries
from carbon_plugin.audit.tally.documents import PredictionDocument
from carbon_plugin.audit.tally.timeline.bins import TimeBins
from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.records import Span
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Figure

_STEPS, _MEASURED, _PREDICTED_STEPS, _PREDICTED = "steps", "measured", "predicted steps", "predicted"


def _steps(span: Span) -> int:
    return span.last_step - span.first_step + 1


class _Mean:
    """A mean over steps."""

    def __init__(self) -> None:
        self.steps = 0
        self._sum = 0.0

    def add(self, value: float | None, steps: int) -> None:
        if value is not None:
            self.steps += steps
            self._sum += value * steps

    def merge(self, other: _Mean) -> None:
        self.steps += other.steps
        self._sum += other._sum

    @property
    def value(self) -> float | None:
        return self._sum / self.steps if self.steps else None


class SpanSums:
    """Holds sums over spans that do not overlap. Every mean is over steps, so that long spans count for more."""

    def __init__(self, origin_unix_s: float, node: int = 0, *, short: bool = False) -> None:
        self.spans = 0
        self._short = short
        self._steps = 0
        self._node = node
        self._boundary_error_s = 0.0
        self._measured_s, self._predicted_s = _Mean(), _Mean()
        self._measured_j, self._predicted_j = _Mean(), _Mean()
        self._bins = TimeBins(origin_unix_s)

    def add(self, spans: Sequence[Span], clock_offset_s: float = 0.0) -> None:
        """Add spans of the node, whose clock is ahead by `clock_offset_s`."""
        whole = [span for span in spans if span.last_step >= span.first_step]
        for span in whole:
            steps = _steps(span)
            self.spans += 1
            self._steps += steps
            self._boundary_error_s += span.boundary_error_s
            self._measured_s.add(span.step_time_s, steps)
            self._predicted_s.add(span.predicted_step_time_s, steps)
            self._measured_j.add(span.gpu_energy_per_step_j, steps)
            self._predicted_j.add(span.predicted_gpu_energy_per_step_j, steps)
        if whole:
            self._add_to_bins(whole, clock_offset_s)

    def merge(self, other: SpanSums) -> None:
        """Add the spans of another attempt. The node is then the one that represents the last attempt."""
        self.spans += other.spans
        self._steps += other._steps
        self._node = other._node
        self._boundary_error_s += other._boundary_error_s
        self._measured_s.merge(other._measured_s)
        self._predicted_s.merge(other._predicted_s)
        self._measured_j.merge(other._measured_j)
        self._predicted_j.merge(other._predicted_j)
        self._bins.merge(other._bins)

    def _add_to_bins(self, spans: Sequence[Span], clock_offset_s: float) -> None:
        steps = np.array([float(_steps(span)) for span in spans])
        predicted = np.array([span.predicted_step_time_s for span in spans], dtype=float)
        amounts = {
            _STEPS: steps,
            _MEASURED: np.array([span.step_time_s for span in spans]) * steps,
            _PREDICTED_STEPS: np.where(np.isnan(predicted), 0.0, steps),
            _PREDICTED: np.nan_to_num(predicted * steps),
        }
        starts = np.array([span.start_unix_s for span in spans]) - clock_offset_s
        rates = {_MEASURED: np.array([span.step_time_s for span in spans])}
        self._bins.add(starts, np.array([span.duration_s for span in spans]), amounts, rates)

    def comparison(self, prediction: PredictionDocument | None) -> StepComparison | None:
        """Return the means over all spans, or None without any. The predicted range is that of `prediction`, scaled to
        the mean.
        """
        measured_s, predicted_s = self._measured_s.value, self._predicted_s.value
        if measured_s is None:
            return None
        # The error of a step is that of its span's edges, divided by the steps between them.
        lag_s = self._boundary_error_s / self._steps
        return StepComparison(
            steps=self._steps,
            spans=self.spans,
            node=self._node,
            measured_step_time_s=Figure(
                measured_s,
                max(0.0, measured_s - lag_s),
                measured_s + lag_s,
                "s",
                "measured",
                f"{plural(self._steps, 'step')} between step boundaries of node {self._node}"
                f"{', fewer than a comparison should have' if self._short else ''}",
            ),
            predicted_step_time_s=_predicted(predicted_s, prediction),
            measured_gpu_energy_per_step_j=self._measured_j.value,
            predicted_gpu_energy_per_step_j=self._predicted_j.value,
            basis="short spans" if self._short else "spans",
        )

    def series(self) -> StepSeries:
        """Return the mean step time of each bin that has steps, with that of its fastest and its slowest span. Its
        moment is the middle of the bin.
        """
        bins = self._bins
        rows = zip(*(bins.values(group) for group in (_STEPS, _MEASURED, _PREDICTED_STEPS, _PREDICTED)), strict=True)
        filled = [(index, *row) for index, row in enumerate(rows) if row[0] > 0]
        lows, highs = bins.extremes(_MEASURED)
        return StepSeries(
            at_s=[(index + 0.5) * bins.width_s for index, *_ in filled],
            measured_s=[measured / steps for _, steps, measured, _, _ in filled],
            predicted_s=[predicted / steps if steps else None for _, _, _, steps, predicted in filled],
            lowest_s=[lows[index] for index, *_ in filled],
            highest_s=[highs[index] for index, *_ in filled],
        )


def comparison_of_windows(
    counted: CountedSteps, node: int, prediction: PredictionDocument | None
) -> StepComparison | None:
    """Return the comparison of a run without any span, from the training windows of a node, or None if no step ended in
    them.
    """
    measured_s = counted.step_time_s
    if measured_s is None:
        return None
    return StepComparison(
        steps=counted.steps,
        spans=0,
        node=node,
        measured_step_time_s=measured_s,
        predicted_step_time_s=_predicted(prediction.step_time_s.value if prediction else None, prediction),
        measured_gpu_energy_per_step_j=None,
        predicted_gpu_energy_per_step_j=None,
        basis="windows",
    )


def _predicted(predicted_s: float | None, prediction: PredictionDocument | None) -> Figure | None:
    """Return a predicted step time with the range of the prediction, scaled to it."""
    if predicted_s is None:
        return None
    figure = prediction.step_time_s if prediction else None
    low, high = (figure.low / figure.value, figure.high / figure.value) if figure else (1.0, 1.0)
    source = figure.source if figure else "the run's own prediction, without its range"
    return Figure(predicted_s, low * predicted_s, high * predicted_s, "s", "modelled", source)
