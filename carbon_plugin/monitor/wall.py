"""Wall-clock labels of monotonic moments. Durations are never taken from the wall clock.

The relation of the two clocks is fixed when the process starts and follows the wall clock only as slowly as NTP slews
it. A clock that somebody sets is therefore not followed: windows go on joining, and `ahead_s` says by how much the wall
clock now differs from the labels, so that the audit can put them right. Sleep of the machine is followed at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from carbon_plugin.ledger.held.clocks import CLOCK_STEP_S

MAX_SLEW = 5e-4
"""Seconds a second by which the relation of the two clocks may change, as NTP slews."""


def boot_clock_s() -> float:
    """Seconds since the machine was started, time asleep included; where there is no such clock, the monotonic one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class WallClock:
    """Unix time of moments of the monotonic clock, and what the wall clock and the machine did meanwhile.

    `ahead_s` is how far the wall clock is ahead of the labels as of the last `adjust`.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
        boot: Callable[[], float] = boot_clock_s,
    ) -> None:
        self._now, self._unix, self._boot = now, unix, boot
        self._adjusted_s = now()
        self._asleep_s = boot() - self._adjusted_s
        self._offset_s = unix() - self._adjusted_s
        self.ahead_s = 0.0

    def unix_s(self, monotonic_s: float) -> float:
        """Unix seconds of a monotonic moment, as its label."""
        return monotonic_s + self._offset_s

    def boot_s(self, monotonic_s: float) -> float:
        """The same moment by the clock that counts since the machine was started."""
        return monotonic_s + self._asleep_s

    def now_unix_s(self) -> float:
        """The label of this moment."""
        return self.unix_s(self._now())

    def adjust(self) -> float:
        """Follow what the machine slept and what the wall clock was slewed since the last call; returns the seconds
        that the machine slept. Labels of moments before the sleep must have been asked for before."""
        now = self._now()
        asleep_s = self._boot() - now
        slept_s = max(0.0, asleep_s - self._asleep_s)
        self._asleep_s = asleep_s
        self._offset_s += slept_s
        behind_s = self._unix() - now - self._offset_s
        if abs(behind_s) <= CLOCK_STEP_S:
            limit_s = MAX_SLEW * (now - self._adjusted_s)
            slewed_s = min(limit_s, max(-limit_s, behind_s))
            self._offset_s += slewed_s
            behind_s -= slewed_s
        self._adjusted_s = now
        self.ahead_s = behind_s
        return slept_s
