"""Compare each projection of a run with its budget, on rank 0, and say when the budget is exceeded."""

from __future__ import annotations

import math

from msgspec import Struct

from carbon_plugin.footprint.values import CarbonTotals, Factors, Reservation
from carbon_plugin.monitor.run.projection import Outlook, Remaining, spent_carbon
from carbon_plugin.monitor.run.totals import RunTotals
from carbon_plugin.spec.budget import Amounts, BudgetState, CarbonBudget, compare_budget
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import JOULES_PER_KWH, SECONDS_PER_HOUR

EXCEEDED_EVENT = "budget_exceeded"
IN_A_ROW = 2
"""A projection must be above the limit so many times in a row before the training is stopped for it. One window with a
long checkpoint in it moves a projection."""


class BudgetVerdict(Struct, frozen=True, kw_only=True):
    """Holds the result of a comparison: whether the budget is exceeded for the first time, and whether the run must
    stop.
    """

    state: BudgetState
    news: bool
    stop: bool


class BudgetWatch:
    """Follows the budget of one run. `price` is that of a device-hour, USD, or None."""

    def __init__(self, budget: CarbonBudget, price: float | None) -> None:
        self.budget = budget
        self._price = budget.price_usd_per_device_hour or price
        self._said = False
        self._in_a_row = 0

    def look(
        self,
        step: int,
        totals: RunTotals,
        remaining: Remaining | None,
        view: Outlook,
        factors: Factors | None,
        *,
        measured: bool,
    ) -> BudgetVerdict:
        """Return the result of comparing the present sums and projection with the budget."""
        spent, whole = amounts_of(totals, remaining, view, spent_carbon(totals, factors), self._price)
        state = compare_budget(self.budget, step=step, spent=spent, whole=whole, measured=measured)
        news = bool(state.exceeded) and not self._said
        self._said |= news
        self._in_a_row = self._in_a_row + 1 if state.exceeded and state.measured else 0
        certain = any(not line.projected for line in state.exceeded)
        return BudgetVerdict(state=state, news=news, stop=certain or self._in_a_row >= IN_A_ROW)


def amounts_of(
    totals: RunTotals,
    remaining: Remaining | None,
    view: Outlook,
    carbon: CarbonTotals | None,
    price: float | None,
) -> tuple[Amounts, Amounts | None]:
    """Return the amounts that are spent, and those of the whole run, or None for the latter where nothing is projected.

    `carbon` is that of what is spent, or None without factors.
    """
    spent = Amounts(
        emissions_kg=_carbon_kg(carbon),
        energy_kwh=Range.exactly(totals.energy_j / JOULES_PER_KWH),
        cost=_cost(totals, None, price),
    )
    if remaining is None or view.energy_j is None:
        return spent, None
    whole = Amounts(
        emissions_kg=_carbon_kg(view.whole),
        energy_kwh=view.energy_j.scaled(1 / JOULES_PER_KWH),
        cost=_cost(totals, remaining, price),
    )
    return spent, whole


def _carbon_kg(carbon: CarbonTotals | None) -> Range | None:
    return None if carbon is None else carbon.counted_kg


def _cost(totals: RunTotals, remaining: Remaining | None, price: float | None) -> Range | None:
    """Return the price of the device-hours so far, or of all device-hours of the run, USD."""
    if price is None:
        return None
    cost = Range.exactly(_device_hours(totals.reserved) * price)
    if remaining is None:
        return cost
    low, high = remaining.spread
    return cost.plus(Range(1.0, low, high).scaled(_device_hours(remaining.reserved) * price))


def _device_hours(reserved: tuple[Reservation, ...]) -> float:
    return math.fsum(unit.units * unit.time_s for unit in reserved if unit.scope == "device") / SECONDS_PER_HOUR
