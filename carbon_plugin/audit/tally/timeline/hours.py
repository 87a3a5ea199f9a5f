"""Compute the mean grid intensity of each hour of the day, so that a run can be compared at other hours.

It comes from the event in which a monitor records the day of its site's series. Without such an event it comes from the
windows of the run, of which a short run covers only a few hours.
"""

from __future__ import annotations

import numpy as np

from carbon_plugin.ledger.records import BY_HOUR, GRID_EVENT, Event
from carbon_plugin.spec.numbers.range_array import Floats
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

HOURS = 24
LEAST_CHANGE = 0.01
"""An intensity that changes by a smaller part over the day counts as constant."""


class GridHours:
    """Holds, for each hour of the day (UTC), the time of the windows whose intensity is known, and the sum of intensity
    times time.
    """

    def __init__(self) -> None:
        self._known_s = np.zeros(HOURS)
        self._weighted = np.zeros(HOURS)
        self._of_series: tuple[float | None, ...] = ()

    def add(self, start_unix_s: Floats, duration_s: Floats, g_per_kwh: Floats) -> None:
        """Add windows. Each counts in the hour of its middle. An intensity is NaN where it is not known."""
        chosen = np.isfinite(g_per_kwh)
        middles_s = start_unix_s[chosen] + duration_s[chosen] / 2
        hours = (middles_s % SECONDS_PER_DAY // SECONDS_PER_HOUR).astype(int)
        lasted_s = duration_s[chosen]
        self._known_s += np.bincount(hours, weights=lasted_s, minlength=HOURS)
        self._weighted += np.bincount(hours, weights=lasted_s * g_per_kwh[chosen], minlength=HOURS)

    def note(self, event: Event) -> None:
        """Read the day of a site's series from an event, if the event holds one."""
        by_hour = event.data.get(BY_HOUR) if event.kind == GRID_EVENT else None
        if isinstance(by_hour, list) and len(by_hour) == HOURS and all(_is_intensity(one) for one in by_hour):
            self._of_series = max(self._of_series, tuple(by_hour), key=str)

    def merge(self, other: GridHours) -> None:
        """Add the windows of other nodes."""
        self._known_s += other._known_s
        self._weighted += other._weighted
        self._of_series = max(self._of_series, other._of_series, key=str)

    def result(self) -> tuple[list[float | None], str]:
        """Return the mean intensity of each hour, or None for an unknown hour, and the source. The list is empty where
        the intensity is constant over the day.
        """
        if self._of_series:
            found, source = list(self._of_series), "the mean day of the site's series"
        else:
            pairs = zip(self._weighted.tolist(), self._known_s.tolist(), strict=True)
            found = [weighted / known_s if known_s > 0 else None for weighted, known_s in pairs]
            source = "the mean of the intensities in force in the run's own windows"
        known = [one for one in found if one is not None]
        if not known or max(known) - min(known) < LEAST_CHANGE * max(known):
            return [], ""
        return found, source


def _is_intensity(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value < float("inf"))
