"""Divide the energy of a run by calendar month (UTC), because inventories and their factors are annual.

A window counts as a whole in the month in which it starts, so that the months add up to the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import numpy as np
from msgspec import Struct

from carbon_plugin.audit.findings.energy import MonthEnergy
from carbon_plugin.audit.tally.sums.exact_sum import ExactSum
from carbon_plugin.ledger.columns import Flags
from carbon_plugin.ledger.held.account_inputs import total_used
from carbon_plugin.ledger.held.unobserved import UnobservedEnergy
from carbon_plugin.spec.numbers.range_array import Floats
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH

Month = tuple[int, int]
"""Year and month."""


class ReservedMonth(Struct, frozen=True):
    """The device time that a run held in a month, s, and the modelled energy of the part that no record covers."""

    device_s: float
    unobserved: UnobservedEnergy


class MonthSums:
    """The running sums of one month, which are exact in any order of the windows: energy of the machines (J), that
    energy times PUE, that times intensity, and energy whose factors are unknown.
    """

    def __init__(self) -> None:
        self.energy_j = ExactSum()
        self.facility_j = ExactSum()
        self.weighted_j_g_per_kwh = ExactSum()
        self.without_factors_j = ExactSum()

    def merge(self, other: MonthSums) -> None:
        """Add the sums of other windows of the same month."""
        for mine, its in zip(vars(self).values(), vars(other).values(), strict=True):
            mine.merge(its)


class Calendar:
    """Holds the sums of windows by month. Its memory grows with the number of months of a run."""

    def __init__(self) -> None:
        self.months: dict[Month, MonthSums] = {}

    def add(self, start_unix_s: Floats, it_j: Floats, pue: Floats, g_per_kwh: Floats) -> None:
        """Add windows by their start, with the energy of their machines (J) and the factors in force, which are NaN
        where there are none.
        """
        for month, chosen in _by_month(start_unix_s):
            energy_j, facility_j = it_j[chosen], it_j[chosen] * pue[chosen]
            weighted = facility_j * g_per_kwh[chosen]
            known = ~np.isnan(weighted)
            sums = self._of(month)
            sums.energy_j.add(energy_j.tolist())
            sums.facility_j.add(facility_j[known].tolist())
            sums.weighted_j_g_per_kwh.add(weighted[known].tolist())
            sums.without_factors_j.add(energy_j[~known].tolist())

    def merge(self, other: Calendar) -> None:
        """Add the months of another calendar."""
        for month, sums in other.months.items():
            self._of(month).merge(sums)

    def _of(self, month: Month) -> MonthSums:
        return self.months.setdefault(month, MonthSums())


def _by_month(start_unix_s: Floats) -> Iterator[tuple[Month, slice | Flags]]:
    """Yield each month in which windows start, with the choice of these windows."""
    first_s, last_s = float(start_unix_s.min()), float(start_unix_s.max())
    if month_of(first_s) == month_of(last_s):
        yield month_of(first_s), slice(None)
        return
    moments_s = np.round(start_unix_s, 6)  # a calendar counts microseconds
    begin_s = -np.inf
    for month, end_s in month_ends(first_s, last_s):
        until_s = np.inf if end_s is None else end_s
        chosen = (moments_s >= begin_s) & (moments_s < until_s)
        if chosen.any():
            yield month, chosen
        begin_s = until_s


def month_of(unix_s: float) -> Month:
    """Return year and month of a moment (UTC), or (0, 0) for a moment outside of any calendar."""
    try:
        at = datetime.fromtimestamp(unix_s, UTC)
    except (OverflowError, OSError, ValueError):
        return 0, 0
    return at.year, at.month


def months_of(
    calendar: Calendar,
    reserved: Mapping[Month, ReservedMonth],
    factors: tuple[float, float] | None,
    idle_factors: tuple[float, float] | None,
) -> list[MonthEnergy]:
    """Return the energy and the reserved time of a run by month, in order.

    The modelled energy of reserved time without records counts in the months of that time. `factors` are intensity
    (g/kWh) and PUE for energy that states none, and `idle_factors` those of the modelled energy; they are None without
    any.
    """
    found = []
    for year, month in sorted({*calendar.months, *reserved}):
        sums, held = calendar.months.get((year, month), MonthSums()), reserved.get((year, month))
        idle = total_used(tuple(held.unobserved.with_factors(idle_factors).used.values()) if held else ())
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
                reserved_device_s=held.device_s if held else 0.0,
            )
        )
    return found


def month_ends(start_unix_s: float, end_unix_s: float) -> Iterator[tuple[Month, float | None]]:
    """Yield each month of a time with the moment at which it ends, Unix s, or None for the last one. Moments outside of
    any calendar form one month, (0, 0).
    """
    month, last = month_of(start_unix_s), month_of(end_unix_s)
    while (0, 0) < month < last:
        end_s = next_month_unix_s(*month)
        yield month, end_s
        month = month_of(end_s)
    yield last, None


def next_month_unix_s(year: int, month: int) -> float:
    """Return the moment at which a month (UTC) ends, Unix s."""
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
