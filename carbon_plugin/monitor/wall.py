"""Wall-clock time of monotonic moments, smooth enough that windows join: a stepped clock is followed slowly."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_SLEW = 5e-4
"""Seconds a second by which the relation of the two clocks may change, as NTP slews."""


class WallClock:
    """Unix time of moments of the monotonic clock."""

    def __init__(self, now: Callable[[], float] = time.monotonic, unix: Callable[[], float] = time.time) -> None:
        self._now, self._unix = now, unix
        self._adjusted_s = now()
        self._offset_s = unix() - self._adjusted_s

    def unix_s(self, monotonic_s: float) -> float:
        """Unix seconds of a monotonic moment."""
        return monotonic_s + self._offset_s

    def adjust(self) -> float:
        """Follow the wall clock by what may be slewed since the last call; returns what remains, s."""
        now = self._now()
        behind_s = self._unix() - now - self._offset_s
        limit_s = MAX_SLEW * (now - self._adjusted_s)
        self._adjusted_s = now
        self._offset_s += min(limit_s, max(-limit_s, behind_s))
        return self._unix() - now - self._offset_s
