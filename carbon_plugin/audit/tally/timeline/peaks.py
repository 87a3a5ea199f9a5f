"""Follow the power of all machines of a run at each moment, to tell its lowest and highest value in any time bin.

A bin of `TimeBins` holds the mean power, in which a peak of seconds is lost where bins are minutes long. The windows of
several nodes begin at different moments, so their power is added up moment by moment.
"""

from __future__ import annotations

import numpy as np

from carbon_plugin.spec.numbers.range_array import Floats

MOST_MOMENTS = 1 << 20
"""Moments are a second apart in runs of up to 12 days and 8 s apart in a run of 90 days, as long as the shortest
windows; they take 8 MB."""
TOUCHING_S = 1.0
"""Windows of a file that are no further apart follow each other: clocks were read twice at their common edge."""

_FEWEST_MOMENTS = 1024


class PowerOverTime:
    """Holds the power of all machines, W, at equally spaced moments from `origin_unix_s` on.

    It stores the change of the power from each moment to the next. When a run outgrows `most` moments, every second
    moment is dropped.
    """

    def __init__(self, origin_unix_s: float, most: int = MOST_MOMENTS) -> None:
        self.origin_unix_s = origin_unix_s
        self.every_s = 1.0
        self._most = most
        self._changes_w = np.zeros(min(most, _FEWEST_MOMENTS))

    def add(self, start_unix_s: Floats, end_unix_s: Floats, power_w: Floats) -> None:
        """Add a power that was constant over each of the intervals."""
        starts_s, ends_s = (np.maximum(0.0, moments - self.origin_unix_s) for moments in (start_unix_s, end_unix_s))
        self._reach(float(ends_s.max()))
        for moments_s, change_w in ((starts_s, power_w), (ends_s, -power_w)):
            at = np.ceil(moments_s / self.every_s).astype(int)  # an interval holds its start and not its end
            np.add.at(self._changes_w, at, change_w)

    def merge(self, other: PowerOverTime) -> None:
        """Add the power of other machines, followed from the same origin."""
        while self.every_s < other.every_s:
            self._thin()
        while other.every_s < self.every_s:
            other._thin()
        shorter, longer = sorted((self._changes_w, other._changes_w), key=len)
        self._changes_w = longer.copy()
        self._changes_w[: len(shorter)] += shorter

    def extremes(self, width_s: float, count: int, until_s: float) -> tuple[list[float], list[float]]:
        """Return the lowest and the highest power in each of `count` bins of `width_s`, W.

        The last bin ends `until_s` after the origin. A bin that ends before its first moment holds no moment, and has
        0. `width_s` is a multiple of the distance between moments.
        """
        # What remains of a sum after as much was taken away again is rounding.
        power_w = np.maximum(0.0, np.round(np.cumsum(self._changes_w), 6))
        each = round(width_s / self.every_s)
        lows, highs = [], []
        for first in range(0, each * count, each):
            last = min(first + each, int(np.ceil(until_s / self.every_s)))
            held = power_w[first:last]
            lows.append(float(held.min()) if len(held) else 0.0)
            highs.append(float(held.max()) if len(held) else 0.0)
        return lows, highs

    def _reach(self, end_s: float) -> None:
        while end_s / self.every_s > len(self._changes_w) - 2:
            if len(self._changes_w) < self._most:
                self._changes_w = np.concatenate([self._changes_w, np.zeros_like(self._changes_w)])
            else:
                self._thin()

    def _thin(self) -> None:
        """Drop every second moment. The change at a dropped moment moves to the next one."""
        kept = self._changes_w[::2].copy()
        kept[1:] += self._changes_w[1::2][: len(kept) - 1]
        self.every_s *= 2
        self._changes_w = kept


def without_seams(starts_s: Floats, ends_s: Floats, until_s: float) -> Floats:
    """Return the starts of consecutive windows. A start that nearly touches the end of the window before it is moved to
    that end.

    `until_s` is the end of the window before the first one. Without this, a moment at a seam would have the power of
    both windows or of none.
    """
    before_s = np.concatenate([[until_s], ends_s[:-1]])
    moved: Floats = np.where(np.abs(starts_s - before_s) <= TOUCHING_S, np.minimum(before_s, ends_s), starts_s)
    return moved
