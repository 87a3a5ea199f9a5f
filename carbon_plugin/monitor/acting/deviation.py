"""Tell a sustained deviation of a quantity from its ordinary spread in the same run. Everything here is arithmetic.

The baseline is the median of the first values, and the spread is their median absolute deviation. So a few slow values
among the first ones neither move the baseline nor widen it. While nothing deviates, later values improve both, up to
`MOST_KEPT`. After that the baseline stands still, so that a slow drift is a deviation in the end.
"""

from __future__ import annotations

from statistics import median

from msgspec import Struct

from carbon_plugin.spec.alerts import AlertRules

MOST_KEPT = 60
SIGMAS = 4.0
"""A value deviates when it is so many standard deviations from the baseline, and at least `AlertRules.least` of it."""
_MAD_TO_SIGMA = 1.4826


class Deviation(Struct, frozen=True, kw_only=True):
    """Describes a sustained deviation: the ordinary value, the present one (the median of the deviating ones), and the
    step before which it began.
    """

    ordinary: float
    present: float
    since_step: int

    @property
    def ratio(self) -> float:
        """Return the present value over the ordinary one."""
        return self.present / self.ordinary


class WatchedQuantity:
    """Follows one quantity of a run, such as its step time."""

    def __init__(self, rules: AlertRules) -> None:
        self._rules = rules
        self._kept: list[float] = []
        self._away: list[float] = []
        self._since_step = 0
        self._back = 0

    @property
    def ordinary(self) -> float | None:
        """Return the ordinary value, or None as long as it is not known."""
        return median(self._kept) if len(self._kept) >= self._rules.learn else None

    @property
    def is_away(self) -> bool:
        """Return whether the last value deviated."""
        return bool(self._away)

    @property
    def is_back(self) -> bool:
        """Return whether as many values in a row as make an alert were ordinary again."""
        return self._back >= self._rules.sustained

    @property
    def deviation(self) -> Deviation | None:
        """Return the deviation if it has lasted long enough."""
        ordinary = self.ordinary
        if ordinary is None or len(self._away) < self._rules.sustained:
            return None
        recent = self._away[-self._rules.sustained :]
        return Deviation(ordinary=ordinary, present=median(recent), since_step=self._since_step)

    def look(self, value: float, step: int) -> None:
        """Add the next value, which is that of the steps up to `step`."""
        ordinary = self.ordinary
        if ordinary is None:
            self._kept.append(value)
            return
        distance = value - ordinary
        if abs(distance) > self._tolerance(ordinary):
            if not self._away or distance * (self._away[-1] - ordinary) < 0:  # it began, or it went to the other side
                self._away, self._since_step = [], step
            self._away = [*self._away[-MOST_KEPT:], value]
            self._back = 0
            return
        self._away = []
        self._back += 1
        if len(self._kept) < MOST_KEPT:
            self._kept.append(value)

    def _tolerance(self, ordinary: float) -> float:
        spread = median(abs(value - ordinary) for value in self._kept)
        return max(self._rules.least * ordinary, SIGMAS * _MAD_TO_SIGMA * spread)
