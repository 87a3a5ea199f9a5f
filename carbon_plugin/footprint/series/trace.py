"""Hold grid intensity over time, and compute its mean over any period.

A value holds from its moment to the next one, but never longer than the trace's step. The rest of a longer distance is
a gap, in which nothing is known and nothing is interpolated. `footprint.series.file` reads files.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.uncertainty import Floats
from carbon_plugin.footprint.values import Basis
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

# A trace of another year stands for a period by whole weeks, so that hour of the day and day of the week stay.
SHIFT_S = 52 * 7 * 24 * SECONDS_PER_HOUR
# Shares of a period that a trace must cover for its mean to stand for the period.
LEAST_COVERED = 0.5
ROUNDED = 6
"""Digits of a mean intensity, g/kWh, that are no rounding: a mean is the difference of two sums over the trace."""


class Trace(NamedTuple):
    """Holds the values, g/kWh, shape (n,), that begin at `start_unix_s`, ascending, and hold for `step_s` at most.

    `knots` are the moments where a value begins or ends, shape (2 n,), `weighted` and `known` the integrals up to them
    of the value and of the known time: a mean is two differences. Make it with `make_trace`.
    """

    start_unix_s: Floats
    g_per_kwh: Floats
    step_s: float
    source: str
    basis: Basis | None
    knots: Floats
    weighted: Floats
    known: Floats

    @property
    def end_unix_s(self) -> float:
        """Return where the last value ends, in Unix seconds."""
        return float(self.start_unix_s[-1]) + self.step_s

    @property
    def granularity(self) -> str:
        """Return the step in words."""
        return {SECONDS_PER_HOUR: "hourly", 1800.0: "half-hourly"}.get(self.step_s, f"every {self.step_s / 60:g} min")

    def means(self, start_unix_s: Floats, duration_s: float) -> tuple[Floats, Floats]:
        """Return the mean over the known part of each period [start, start + duration], and the share of the period
        that is known.

        Where nothing is known the mean is nan. Shapes are that of `start_unix_s`.
        """
        edges: Floats = np.stack([start_unix_s, start_unix_s + duration_s])
        amount_from, amount_to = np.interp(edges, self.knots, self.weighted)
        known_from, known_to = np.interp(edges, self.knots, self.known)
        known_s = known_to - known_from
        # A millisecond of known time is rounding at the edge of a gap.
        mean = np.where(known_s > 1e-3, (amount_to - amount_from) / np.where(known_s > 0, known_s, 1.0), np.nan)
        return mean, known_s / duration_s

    def mean(self, start_unix_s: float, duration_s: float) -> tuple[float, float]:
        """Return the mean over a period and the share of it that is known. See `means`."""
        mean, known = self.means(np.array([start_unix_s]), duration_s)
        return float(mean[0]), float(known[0])

    def by_hour(self) -> list[float | None]:
        """Return the mean of each hour of the day (UTC) over the whole trace, or None for an unknown hour."""
        first_s = self.start_unix_s[0] // SECONDS_PER_HOUR * SECONDS_PER_HOUR
        starts: Floats = np.arange(first_s, self.end_unix_s, SECONDS_PER_HOUR)
        means, known = self.means(starts, SECONDS_PER_HOUR)
        hours = (starts % SECONDS_PER_DAY // SECONDS_PER_HOUR).astype(int)
        known = np.where(np.isfinite(means), known, 0.0)
        weights = np.bincount(hours, weights=known, minlength=24)
        sums = np.bincount(hours, weights=known * np.nan_to_num(means), minlength=24)
        pairs = zip(sums.tolist(), weights.tolist(), strict=True)
        return [amount / weight if weight > 0 else None for amount, weight in pairs]

    def aligned(self, start_unix_s: float, duration_s: float) -> float | None:
        """Return the start, moved by the multiple of 52 weeks with which the trace knows the largest share of the
        period. Of equal shares the smallest multiple counts.

        Return None if no multiple lets the trace know half of the period. 52 weeks keep the hour of the day and the day
        of the week, and move the season by a day a year.
        """
        first, last = float(self.start_unix_s[0]), self.end_unix_s - duration_s
        fewest, most = (int((start_unix_s - edge) // SHIFT_S) for edge in (last, first))
        shifts = sorted({0, *range(fewest, most + 2)}, key=abs)
        moved = start_unix_s - SHIFT_S * np.array(shifts, dtype=np.float64)
        _, known = self.means(moved, duration_s)
        best = int(np.argmax(np.round(known, 2)))  # the first of equals: a percent is not worth a year
        return float(moved[best]) if known[best] >= LEAST_COVERED else None

    def starts(self, duration_s: float) -> Floats:
        """Return the moments of the trace from which it covers a period of this length. There may be none."""
        candidates = self.start_unix_s[self.start_unix_s + duration_s <= self.end_unix_s]
        _, known = self.means(candidates, duration_s)
        chosen: Floats = candidates[known >= LEAST_COVERED]
        return chosen


def make_trace(moments_unix_s: Floats, g_per_kwh: Floats, *, source: str, basis: Basis | None = None) -> Trace:
    """Return a trace from moments and values of the same length, in any order. Its step is their most frequent
    distance.

    Raises `FootprintError` for fewer than two values, for a moment that is given twice, and for a value that is
    negative or not finite.
    """
    if len(moments_unix_s) < 2:
        raise FootprintError(f"{source}: {plural(len(moments_unix_s), 'value')}, expected at least 2")
    order = np.argsort(moments_unix_s, kind="stable")
    moments, values = moments_unix_s[order], g_per_kwh[order]
    distances = np.diff(moments)
    if (distances <= 0).any():
        twice = np.datetime64(int(moments[:-1][distances <= 0][0]), "s")
        raise FootprintError(f"{source}: the moment {twice}Z is given twice")
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        moment = np.datetime64(int(moments[wrong][0]), "s")
        raise FootprintError(f"{source}: intensity at {moment}Z is {values[wrong][0]}, expected 0 or more g/kWh")
    steps, counts = np.unique(distances, return_counts=True)
    step_s = float(steps[np.argmax(counts)])
    width = np.minimum(np.diff(moments, append=np.inf), step_s)
    nothing = np.zeros_like(width)
    return Trace(
        start_unix_s=moments,
        g_per_kwh=values,
        step_s=step_s,
        source=source,
        basis=basis,
        knots=np.stack([moments, moments + width], axis=1).ravel(),
        weighted=np.cumsum(np.stack([nothing, width * values], axis=1).ravel()),
        known=np.cumsum(np.stack([nothing, width], axis=1).ravel()),
    )


def gaps(trace: Trace) -> list[tuple[float, float]]:
    """Return the unknown stretches inside the trace as (start, end) in Unix seconds."""
    wide = np.flatnonzero(np.diff(trace.start_unix_s) > trace.step_s * (1 + 1e-9))
    starts, ends = trace.start_unix_s[wide] + trace.step_s, trace.start_unix_s[wide + 1]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
