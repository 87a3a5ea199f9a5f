"""Define the limits of a run, and compare amounts with them.

The functions are pure. Where the amounts come from, and what happens when one is too large, is the monitor's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.amounts import fitting_unit, number, percent
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import CARBON_UNITS, ENERGY_UNITS, JOULES_PER_KWH

Quantity = Literal["emissions_kg", "energy_kwh", "cost"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
End = Literal["low", "central", "high"]
OnExceed = Literal["warn", "stop"]
UNITS: dict[Quantity, str] = {"emissions_kg": "kgCO2e", "energy_kwh": "kWh", "cost": "USD"}
_DIGITS = 4
_WORDS: dict[Quantity, str] = {"emissions_kg": "emissions", "energy_kwh": "energy", "cost": "cost"}


class BudgetFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One instance holds the fields of a budget as a configuration file states them.

    Args:
        emissions_kg: The most kgCO2e of the whole run, embodied carbon included where it is known. Default: None.
        energy_kwh: The most kWh of the machines (without the facility's overhead). Default: None.
        cost: The most US dollars, at the price of a device-hour. Default: None.
        on_exceed: "warn" says it once; "stop" ends the training cleanly, at one step on all ranks. Default: "warn".
        on: Which end of the projection counts: its low end, its central value or its high end. Default: "central".
        price_usd_per_device_hour: The price. Default: None; then the one of the plan.
    """

    emissions_kg: float | None = None
    energy_kwh: float | None = None
    cost: float | None = None
    on_exceed: OnExceed = "warn"
    on: End = "central"
    price_usd_per_device_hour: float | None = None


class CarbonBudget(Struct, frozen=True, kw_only=True):
    """One instance says what a run may use at most: emissions, energy, cost, or several of them.

    The projection of the whole run is compared with it, and what is spent as long as there is no projection.

    Args:
        emissions_kg (float, kgCO2e, default None): The most of the whole run, embodied carbon included where it is
            known.
        energy_kwh (float, kWh, default None): The most of the machines, without the facility's overhead.
        cost (float, US dollars, default None): The most, at the price of a device-hour.
        on_exceed ("warn" | "stop" | function, default "warn"): "warn" says it once. "stop" ends the training cleanly,
            at one step on all ranks. A function is called once on rank 0, on a thread of this package, with the
            `BudgetState`; if it returns "stop", the training ends as with "stop".
        on ("low" | "central" | "high", default "central"): Which end of the projection counts.
        price_usd_per_device_hour (float, default None): The price. Without it, the one of the plan.

    Raises:
        SpecError: No limit is given, or a value cannot be used.
    """

    emissions_kg: float | None = None
    energy_kwh: float | None = None
    cost: float | None = None
    on_exceed: OnExceed | Callable[[BudgetState], object] = "warn"
    on: End = "central"
    price_usd_per_device_hour: float | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            raise SpecError(f"budget: gives no limit, expected one of {', '.join(QUANTITIES)}")
        for field in (*QUANTITIES, "price_usd_per_device_hour"):
            value = getattr(self, field)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < float("inf")):
                raise SpecError(f"budget: {field} is {value!r}, expected a number above 0")
        if self.on_exceed not in get_args(OnExceed) and not callable(self.on_exceed):
            raise SpecError(f"budget: on_exceed is {self.on_exceed!r}, expected 'warn', 'stop' or a function")
        if self.on not in get_args(End):
            raise SpecError(f"budget: on is {self.on!r}, expected 'low', 'central' or 'high'")

    @property
    def limits(self) -> dict[Quantity, float]:
        """Return the limits that are stated, by quantity."""
        stated: dict[Quantity, float | None] = {name: getattr(self, name) for name in QUANTITIES}
        return {name: limit for name, limit in stated.items() if limit is not None}

    @property
    def may_stop(self) -> bool:
        """Return whether the training may be ended because of this budget."""
        return self.on_exceed != "warn"

    @property
    def phrase(self) -> str:
        """Return the limits in words, for instance "at most 12 kWh and 5 kgCO2e, else the training stops"."""
        limits = " and ".join(_in_words(name, limit, limit) for name, limit in self.limits.items())
        ends = {"warn": "else a warning", "stop": "else the training stops"}
        then = ends[self.on_exceed] if isinstance(self.on_exceed, str) else "else a function of the user is called"
        return f"at most {limits}, {then}"

    def document(self) -> dict[str, Any]:
        """Return the budget as plain data for the record of the run."""
        kind = self.on_exceed if isinstance(self.on_exceed, str) else "function"
        limits: dict[str, Any] = {str(name): limit for name, limit in self.limits.items()}
        price = self.price_usd_per_device_hour
        priced = {} if price is None else {"price_usd_per_device_hour": price}
        return limits | {"on_exceed": kind, "on": self.on} | priced


class Amounts(Struct, frozen=True, kw_only=True):
    """Holds what was spent, or what a whole run takes. None stands for what is not known."""

    emissions_kg: Range | None = None
    energy_kwh: Range | None = None
    cost: Range | None = None


class BudgetLine(Struct, frozen=True, kw_only=True):
    """One limit beside the amount that is compared with it. `projected` says that the amount is that of the whole run.

    `used` and `share` are None where the amount is not known.
    """

    quantity: Quantity
    limit: float
    used: float | None
    projected: bool

    @property
    def share(self) -> float | None:
        """Return the amount over the limit."""
        return None if self.used is None else self.used / self.limit

    @property
    def phrase(self) -> str:
        """Return the line in words, for instance "energy: 12.1 kWh of 10 kWh projected (121 %)"."""
        what, limit = _WORDS[self.quantity], _in_words(self.quantity, self.limit, self.limit)
        if self.used is None or self.share is None:
            return f"{what}: not known, of {limit}"
        how = "projected" if self.projected else "spent"
        return f"{what}: {_in_words(self.quantity, self.used, self.limit)} of {limit} {how} ({percent(self.share, 0)})"


def _in_words(quantity: Quantity, value: float, limit: float) -> str:
    """Return an amount of a budget in the unit that fits its limit, for instance "72 J" or "12.1 kWh"."""
    if quantity == "cost":
        return f"{number(value, _DIGITS)} {UNITS[quantity]}"
    units, si = (ENERGY_UNITS, JOULES_PER_KWH) if quantity == "energy_kwh" else (CARBON_UNITS, 1.0)
    size, unit = fitting_unit(limit * si, units)
    return f"{number(value * si / size, _DIGITS)} {unit}"


class BudgetState(Struct, frozen=True, kw_only=True):
    """Holds how a run compares with its budget at a step.

    `measured` says that the projection rests on measured rates, or that nothing was projected and what is spent counts.
    """

    step: int
    lines: tuple[BudgetLine, ...]
    measured: bool

    @property
    def share(self) -> float | None:
        """Return the largest amount over its limit, or None where no amount is known."""
        return max((line.share for line in self.lines if line.share is not None), default=None)

    @property
    def exceeded(self) -> tuple[BudgetLine, ...]:
        """Return the lines whose amount is above the limit."""
        return tuple(line for line in self.lines if line.share is not None and line.share > 1)

    @property
    def phrase(self) -> str:
        """Return the lines in words, the exceeded ones alone where there are any."""
        return "; ".join(line.phrase for line in self.exceeded or self.lines)


def compare_budget(
    budget: CarbonBudget, *, step: int, spent: Amounts, whole: Amounts | None, measured: bool
) -> BudgetState:
    """Return how a run compares with its budget. For each limit the projected amount counts, or the spent one where
    that exceeds the limit or nothing is projected.

    `whole` are the projected amounts, of which `budget.on` says the end that counts. `measured` says that they rest on
    measured rates.
    """
    lines = []
    for quantity, limit in budget.limits.items():
        now: Range | None = getattr(spent, quantity)
        end: Range | None = getattr(whole, quantity) if whole is not None else None
        projected = end is not None and not (now is not None and now.value > limit)
        chosen = end if projected else now
        used = None if chosen is None else _at(chosen, budget.on if projected else "central")
        lines.append(BudgetLine(quantity=quantity, limit=limit, used=used, projected=projected))
    sure = measured or not any(line.projected for line in lines)
    return BudgetState(step=step, lines=tuple(lines), measured=sure)


def _at(amount: Range, end: End) -> float:
    return {"low": amount.low, "central": amount.value, "high": amount.high}[end]
