"""Divide the energy of a run by calendar month (UTC), because an inventory is of a year and its factors are too.

A window counts whole in the month in which it starts, so that the months add up to the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from carbon_plugin.audit.result import MonthEnergy
from carbon_plugin.audit.tally.blocks import Floats
from carbon_plugin.audit.tally.cells import ExactSum
from carbon_plugin.ledger.held.account_inputs import UsedEnergy, total_used
from carbon_plugin.spec.units import GRAMS_PER_KG, JOULES_PER_KWH

Month = tuple[int, int]
"""Year and month."""
Interval = tuple[float, float]


class MonthSums:
    """Running sums of one month, exact whatever the order of the windows: energy of the machines, J, that energy times
    PUE, that times intensity, the energy for which a factor is unknown, and the time of the windows of all nodes, s."""

    def __init__(self) -> None:
        self.energy_j = ExactSum()
        self.facility_j = ExactSum()
        self.weighted_j_g_per_kwh = ExactSum()
        self.without_factors_j = ExactSum()
        self.node_s = ExactSum()

    def merge(self, other: MonthSums) -> None:
        """Add the sums of another one."""
        for mine, its in zip(vars(self).values(), vars(other).values(), strict=True):
            mine.merge(its)


class Calendar:
    """Holds the sums of windows by month. Memory grows with the months of a run."""

    def __init__(self) -> None:
        self.months: dict[Month, MonthSums] = {}

    def add(self, start_unix_s: Floats, duration_s: Floats, it_j: Floats, pue: Floats, g_per_kwh: Floats) -> None:
        """Add windows by their start, with the energy of their machines (J) and the factors in force, NaN where there
        are none."""
        first, last = month_of(float(start_unix_s.min())), month_of(float(start_unix_s.max()))
        months = [first] if first == last else sorted({month_of(start) for start in start_unix_s.tolist()})
        for month in months:
            chosen = slice(None) if first == last else np.array([month_of(s) == month for s in start_unix_s.tolist()])
            energy_j, facility_j = it_j[chosen], it_j[chosen] * pue[chosen]
            weighted = facility_j * g_per_kwh[chosen]
            known = ~np.isnan(weighted)
            sums = self._of(month)
            sums.energy_j.add(energy_j.tolist())
            sums.facility_j.add(facility_j[known].tolist())
            sums.weighted_j_g_per_kwh.add(weighted[known].tolist())
            sums.without_factors_j.add(energy_j[~known].tolist())
            sums.node_s.add(duration_s[chosen].tolist())

    def merge(self, other: Calendar) -> None:
        """Add the months of another calendar."""
        for month, sums in other.months.items():
            self._of(month).merge(sums)

    def _of(self, month: Month) -> MonthSums:
        return self.months.setdefault(month, MonthSums())


def month_of(unix_s: float) -> Month:
    """Return year and month of a moment, UTC; (0, 0) for a moment that no calendar has."""
    try:
        at = datetime.fromtimestamp(unix_s, UTC)
    except (OverflowError, OSError, ValueError):
        return 0, 0
    return at.year, at.month


def months_of(
    calendar: Calendar,
    unobserved: Iterable[UsedEnergy],
    unrecorded: Sequence[Interval],
    factors: tuple[float, float] | None,
) -> list[MonthEnergy]:
    """Return the energy of a run by month, in order.

    The energy that is modelled for reserved time without records is divided over the `unrecorded` intervals (Unix s) by
    their length. `factors` are intensity (g/kWh) and PUE for energy that states none; None without any.
    """
    waiting = total_used(tuple(unobserved))
    waited_j = waiting.energy.value
    waited = _by_length(unrecorded) if waited_j > 0 else {}
    if waited_j > 0 and not waited:
        waited = {min(calendar.months, default=(0, 0)): 1.0}
    found = []
    for year, month in sorted({*calendar.months, *waited}):
        sums = calendar.months.get((year, month), MonthSums())
        idle = waiting.scaled(waited.get((year, month), 0.0))
        without_j = sums.without_factors_j.value + idle.without_factors_j
        facility_j = operational_kg = None
        if factors is not None:
            g_per_kwh, pue = factors
            facility_j = sums.facility_j.value + idle.facility_j + without_j * pue
            weighted = sums.weighted_j_g_per_kwh.value + idle.weighted_j_g_per_kwh + without_j * pue * g_per_kwh
            operational_kg = weighted / (JOULES_PER_KWH * GRAMS_PER_KG)
        found.append(
            MonthEnergy(
                year=year,
                month=month,
                energy_j=sums.energy_j.value + idle.energy.value,
                facility_j=facility_j,
                operational_kg=operational_kg,
                node_s=sums.node_s.value,
            )
        )
    return found


def _by_length(intervals: Sequence[Interval]) -> Mapping[Month, float]:
    """Return the share of the length of intervals that lies in each month."""
    lengths: dict[Month, float] = {}
    for start, end in intervals:
        at = start
        while at < end:
            year, month = month_of(at)
            until = _next_month(year, month) if year else end
            lengths[year, month] = lengths.get((year, month), 0.0) + min(end, until) - at
            at = until
    whole = sum(lengths.values())
    return {month: length / whole for month, length in lengths.items()} if whole > 0 else {}


def _next_month(year: int, month: int) -> float:
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
