"""Compare the amounts that a run has used with the budget in its ledgers."""

from __future__ import annotations

from typing import Any

from carbon_plugin.footprint.values import Footprint
from carbon_plugin.spec.budget import QUANTITIES, Amounts, BudgetLine, CarbonBudget, compare_budget
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import JOULES_PER_KWH, SECONDS_PER_HOUR

Stated = dict[str, Any]
"""The budget of a manifest, as plain data."""


def stated_budget(document: Stated | None) -> CarbonBudget | None:
    """Return the limits that a manifest states, or None if it states none that can be used."""
    limits = {name: value for name, value in (document or {}).items() if name in QUANTITIES}
    numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in limits.values()
    )
    return CarbonBudget(**limits) if limits and numbers else None


def budget_lines(
    document: Stated | None, *, energy_j: float, footprint: Footprint | None, device_s: float, price: float | None
) -> list[BudgetLine]:
    """Return each limit beside the amount that the run has used. `price` is that of a device-hour, USD, or None."""
    budget = stated_budget(document)
    if budget is None:
        return []
    spent = spent_amounts(energy_j=energy_j, footprint=footprint, device_s=device_s, price=price)
    return list(compare_budget(budget, step=0, spent=spent, whole=None, measured=True).lines)


def spent_amounts(*, energy_j: float, footprint: Footprint | None, device_s: float, price: float | None) -> Amounts:
    """Return the amounts that a run has used, as a budget counts them: energy of the machines, and carbon with its
    embodied part.
    """
    return Amounts(
        energy_kwh=Range.exactly(energy_j / JOULES_PER_KWH),
        emissions_kg=None if footprint is None else footprint.counted_kg.range,
        cost=None if price is None else Range.exactly(device_s / SECONDS_PER_HOUR * price),
    )


def stated_price(manifest_budget: Stated | None, forecast: dict[str, Any] | None) -> float | None:
    """Return the price of a device-hour, USD, from the budget or else from the plan, or None."""
    spec = (forecast or {}).get("spec")
    plan = spec.get("price_usd_per_device_hour") if isinstance(spec, dict) else None
    found = (manifest_budget or {}).get("price_usd_per_device_hour") or plan
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
