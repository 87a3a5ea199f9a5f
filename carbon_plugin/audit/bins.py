"""A run of any length as a few hundred time bins, in one pass: when there are too many, neighbours are joined."""

from __future__ import annotations

import math
from collections.abc import Mapping

_FINEST_S = 1.0


class TimeBins:
    """Amounts over time, by group, in equal bins from `origin_unix_s` on.

    At most `capacity` bins, an even number: a later amount doubles the width as often as needed. Amounts are spread
    evenly over their interval; what lies before the origin (a node's clock that is late) goes to the first bin.
    """

    def __init__(self, origin_unix_s: float, capacity: int = 480) -> None:
        self.origin_unix_s = origin_unix_s
        self.width_s = _FINEST_S
        self.count = 0
        self.amounts: dict[str, list[float]] = {}
        self._capacity = capacity

    def add(self, start_unix_s: float, duration_s: float, amounts: Mapping[str, float]) -> None:
        """Spread an amount of each group over the interval."""
        start_s = max(0.0, start_unix_s - self.origin_unix_s)
        end_s = max(start_s, start_unix_s + duration_s - self.origin_unix_s)
        while end_s > self._capacity * self.width_s:
            self._halve()
        first = min(int(start_s / self.width_s), self._capacity - 1)
        last = max(first, math.ceil(end_s / self.width_s) - 1)
        self.count = max(self.count, last + 1)
        if first == last:
            for group, amount in amounts.items():
                self._bins(group)[first] += amount
            return
        for index in range(first, last + 1):
            inside_s = min(end_s, (index + 1) * self.width_s) - max(start_s, index * self.width_s)
            share = inside_s / (end_s - start_s)
            for group, amount in amounts.items():
                self._bins(group)[index] += amount * share

    def values(self, group: str) -> list[float]:
        """Amount of a group in each bin; zeros if nothing was added."""
        return self.amounts.get(group, [0.0] * self.count)[: self.count]

    def _bins(self, group: str) -> list[float]:
        bins = self.amounts.get(group)
        if bins is None:
            bins = self.amounts[group] = [0.0] * self._capacity
        return bins

    def _halve(self) -> None:
        self.width_s *= 2
        self.count = (self.count + 1) // 2
        empty = [0.0] * (self._capacity // 2)
        for group, bins in self.amounts.items():
            self.amounts[group] = [a + b for a, b in zip(bins[::2], bins[1::2], strict=True)] + empty
