"""Schedule a run that pauses while the grid is dirty: the hours in which it trains, and those in which it
waits idle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from carbon_plugin.errors import FootprintError
from carbon_plugin.spec.parsing.moment import iso_utc

if TYPE_CHECKING:
    from carbon_plugin.footprint.series.trace import Trace


class PauseSchedule(Struct, frozen=True, kw_only=True):
    """One schedule says how long a run trains and pauses.

    Intensities are means in g/kWh over the time in training and in pauses (0 without such time); the marginal ones are
    None where no marginal trace is given.
    """

    start_unix_s: float
    trained_s: float
    paused_s: float
    training_g_per_kwh: float
    paused_g_per_kwh: float
    training_marginal_g_per_kwh: float | None
    paused_marginal_g_per_kwh: float | None

    @property
    def elapsed_s(self) -> float:
        """Return the time from start to end in seconds."""
        return self.trained_s + self.paused_s


def schedule(
    trace: Trace, start_unix_s: float, work_s: float, *, pause_above: float | None, marginal: Trace | None = None
) -> PauseSchedule:
    """Return the schedule of `work_s` seconds of training from a start on that pauses in dirty steps of the trace.

    A step is dirty above `pause_above` g/kWh; with None the run never pauses, and it trains in steps of which the trace
    knows nothing. Raises `FootprintError` where the trace ends before the work.
    """
    import numpy as np

    from carbon_plugin.footprint.series.trace import ROUNDED

    start = trace.aligned(start_unix_s, min(work_s, trace.step_s))
    if start is None:
        raise FootprintError(f"{trace.source}: knows nothing of {iso_utc(start_unix_s)}, in this or another year")
    edges = np.arange(start, trace.end_unix_s, trace.step_s)
    means, _ = trace.means(edges, trace.step_s)
    above = np.inf if pause_above is None else np.round(pause_above, ROUNDED)
    training = ~(np.round(means, ROUNDED) > above)
    worked_s = np.cumsum(training * trace.step_s)
    last = int(np.searchsorted(worked_s, work_s * (1 - 1e-12)))
    if last >= len(edges):
        threshold = "" if pause_above is None else f", pausing above {pause_above:g} g/kWh"
        raise FootprintError(f"{trace.source}: ends at {iso_utc(trace.end_unix_s)}, before the work is done{threshold}")
    lengths = np.full(last + 1, trace.step_s)
    lengths[last] -= worked_s[last] - work_s  # the run ends within this step
    means, training = means[: last + 1], training[: last + 1]
    known = np.isfinite(means)
    others = None
    if marginal is not None:
        moved = marginal.aligned(start_unix_s, float(lengths.sum()))
        if moved is None:
            raise FootprintError(f"{marginal.source}: does not cover the run, in this or another year")
        others, _ = marginal.means(edges[: last + 1] - start + moved, trace.step_s)

    def mean(values: np.typing.NDArray[np.float64], chosen: np.typing.NDArray[np.bool_]) -> float:
        taken = chosen & np.isfinite(values)
        total_s = float(lengths[taken].sum())
        return float((values[taken] * lengths[taken]).sum()) / total_s if total_s else 0.0

    return PauseSchedule(
        start_unix_s=start_unix_s,
        trained_s=float(lengths[training].sum()),
        paused_s=float(lengths[~training].sum()),
        training_g_per_kwh=mean(means, training & known),
        paused_g_per_kwh=mean(means, ~training),
        training_marginal_g_per_kwh=None if others is None else mean(others, training),
        paused_marginal_g_per_kwh=None if others is None else mean(others, ~training),
    )
