"""Divide a run of any length into a few hundred time bins in one pass. Neighbouring bins are joined when there are too
many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.spec.numbers.range_array import Floats

Places = NDArray[np.intp]

_FINEST_S = 1.0


class TimeBins:
    """Holds amounts over time, by group, in equal bins from `origin_unix_s` on.

    There are at most `capacity` bins, an even number. A later amount doubles the width of the bins as often as needed.
    An amount is spread evenly over its interval. Amounts before the origin, which occur where a node's clock is late,
    go into the first bin. Of rates, such as the power of a device, each bin keeps the lowest and the highest, so that a
    short peak survives when bins become wide.
    """

    def __init__(self, origin_unix_s: float, capacity: int = 480) -> None:
        self.origin_unix_s = origin_unix_s
        self.width_s = _FINEST_S
        self.count = 0
        self.amounts: dict[str, Floats] = {}
        self.lows: dict[str, Floats] = {}
        self.highs: dict[str, Floats] = {}
        self._capacity = capacity

    def add(
        self,
        start_unix_s: Floats,
        duration_s: Floats,
        amounts: Mapping[str, Floats],
        rates: Mapping[str, Floats] | None = None,
    ) -> None:
        """Spread an amount of each group over each interval, and record the rate of each group in them. A rate is NaN
        where there is none.
        """
        starts_s = np.maximum(0.0, start_unix_s - self.origin_unix_s)
        ends_s = np.maximum(starts_s, start_unix_s + duration_s - self.origin_unix_s)
        self._widen_to(float(ends_s.max()))
        first = np.minimum((starts_s / self.width_s).astype(int), self._capacity - 1)
        last = np.maximum(first, np.ceil(ends_s / self.width_s).astype(int) - 1)
        self.count = max(self.count, int(last.max()) + 1)
        inside = first == last
        none_split = bool(inside.all())
        for group, values in amounts.items():
            self._bins(group)[:] += np.bincount(
                first if none_split else first[inside],
                weights=values if none_split else values[inside],
                minlength=self._capacity,
            )
        row, place = _pieces(first, last)
        for group, values in (rates or {}).items():
            for extremes, keep in ((self.lows, np.fmin), (self.highs, np.fmax)):
                keep.at(extremes.setdefault(group, np.full(self._capacity, np.nan)), place, values[row])
        if not none_split:
            split = ~inside[row]
            row, place = row[split], place[split]
            inside_s = np.minimum(ends_s[row], (place + 1) * self.width_s) - np.maximum(
                starts_s[row], place * self.width_s
            )
            shares = inside_s / (ends_s[row] - starts_s[row])
            for group, values in amounts.items():
                np.add.at(self._bins(group), place, values[row] * shares)

    def merge(self, other: TimeBins) -> None:
        """Add the amounts of other bins with the same origin and capacity."""
        while self.width_s < other.width_s:
            self._halve()
        while other.width_s < self.width_s:
            other._halve()
        self.count = max(self.count, other.count)
        for group, bins in other.amounts.items():
            self._bins(group)[:] += bins
        for extremes, others, keep in ((self.lows, other.lows, np.fmin), (self.highs, other.highs, np.fmax)):
            for group, bins in others.items():
                extremes[group] = keep(extremes[group], bins) if group in extremes else bins

    def values(self, group: str) -> list[float]:
        """Return the amount of a group in each bin, which is 0 where nothing was added."""
        bins: list[float] = self._bins(group)[: self.count].tolist()
        return bins

    def extremes(self, group: str) -> tuple[list[float | None], list[float | None]]:
        """Return the lowest and the highest rate of a group in each bin, or None for a bin without any."""
        none = np.full(self._capacity, np.nan)
        lows, highs = (held.get(group, none)[: self.count].tolist() for held in (self.lows, self.highs))
        return _known(lows), _known(highs)

    def _bins(self, group: str) -> Floats:
        bins = self.amounts.get(group)
        if bins is None:
            bins = self.amounts[group] = np.zeros(self._capacity)
        return bins

    def _widen_to(self, end_s: float) -> None:
        while end_s > self._capacity * self.width_s:
            self._halve()

    def _halve(self) -> None:
        self.width_s *= 2
        self.count = (self.count + 1) // 2
        empty = np.zeros(self._capacity // 2)
        for group, bins in self.amounts.items():
            self.amounts[group] = np.concatenate([bins[::2] + bins[1::2], empty])
        for extremes, keep in ((self.lows, np.fmin), (self.highs, np.fmax)):
            for group, bins in extremes.items():
                extremes[group] = np.concatenate([keep(bins[::2], bins[1::2]), np.full_like(empty, np.nan)])


def _pieces(first: Places, last: Places) -> tuple[Places, Places]:
    """Return the bins in which intervals lie, from their first to their last one: the number of the interval, and the
    bin, of each piece."""
    counts = last - first + 1
    row = np.repeat(np.arange(len(first)), counts)
    return row, first[row] + np.arange(len(row)) - (np.cumsum(counts) - counts)[row]


def _known(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
