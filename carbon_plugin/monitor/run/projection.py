"""Project the whole run from what is spent and what remains: by measured rates where there are any, else by the
prediction.

All functions are pure. Carbon and its range come from the same accounting that the forecast and the audit use.
"""

from __future__ import annotations

import math

import msgspec
from msgspec import Struct

from carbon_plugin.footprint.account import DRAWS, carbon_totals, central_carbon
from carbon_plugin.footprint.values import CarbonTotals, CentralCarbon, EnergyItem, Factors, Reservation
from carbon_plugin.ledger.held.account_inputs import account_inputs, chargeable
from carbon_plugin.monitor.run.totals import RunTotals
from carbon_plugin.plan.forecast import modelled_energies, reservations
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.numbers.range import P90_SIGMAS, Range
from carbon_plugin.threads.turns import give_way

LIVE_DRAWS = 400
"""So many samples make the range of a projection. Its ends then vary by about 2 % of the range, and a call takes well
under 1 ms. What is spent, and a run that has ended, have the samples of the audit and so its range."""
MEASURED_STEPS = 10
MEASURED_S = 10.0
DRIFT_SIGMA = 0.02
"""The least spread of the future step time about the measured one, because nodes, data and throttling change (our
convention)."""


class Remaining(Struct, frozen=True, kw_only=True):
    """Holds what remains of the run: time, s, energies, reserved time, and the p10 and p90 factors on the time."""

    time_s: float
    energies: tuple[EnergyItem, ...]
    reserved: tuple[Reservation, ...]
    spread: tuple[float, float]


class Outlook(Struct, frozen=True, kw_only=True):
    """Holds the carbon so far and that of the whole run. Carbon is None without factors, and the whole is None without
    a length.

    `energy_j` is the IT energy of the whole run.
    """

    spent: CentralCarbon | None
    whole: CarbonTotals | None
    energy_j: Range | None
    remaining_s: float | None


def has_rates(totals: RunTotals) -> bool:
    """Return whether this attempt has trained long enough to know its rates."""
    if totals.steady_s < MEASURED_S or totals.steady_steps < 1:
        return False
    return totals.steady_steps >= MEASURED_STEPS or totals.steady_s / totals.steady_steps > 1.0


def remaining_measured(totals: RunTotals, steps: int, log_sigma: float | None, failing: float = 0.0) -> Remaining:
    """Return what remains at the measured rates, which include evaluation, checkpoints and waiting so far.

    `failing` is the time that failures to come are expected to take, as a fraction of all of that. A run that goes on
    has not had them yet.
    """
    ratio = steps / totals.steady_steps * (1 + failing)
    time_s = ratio * totals.steady_s
    sigma = max(DRIFT_SIGMA, log_sigma or 0.0)
    longer = math.hypot(P90_SIGMAS * sigma, math.log1p(failing))
    return Remaining(
        time_s=time_s,
        energies=tuple(_scaled(item, ratio) for item in totals.steady),
        reserved=tuple(_lasting(item, time_s) for item in totals.reserved_now),
        spread=(math.exp(-longer), math.exp(longer)),
    )


def remaining_predicted(
    prediction: StepPrediction,
    cluster: Cluster,
    steps: int,
    overhead_fraction: float,
    spread: tuple[float, float],
) -> Remaining:
    """Return what remains as predicted, before anything was measured. `spread` is the spread of the time of the whole
    run.
    """
    time_s = steps * prediction.step_time_s.value * (1 + overhead_fraction)
    return Remaining(
        time_s=time_s,
        energies=tuple(modelled_energies(cluster, prediction.gpu_power_w, time_s)),
        reserved=reservations(cluster, time_s),
        spread=spread,
    )


def outlook(totals: RunTotals, remaining: Remaining | None, factors: Factors | None) -> Outlook:
    """Return the carbon so far and that of the whole run where there are factors, and the energy of the whole run."""
    give_way()
    spent = None if factors is None else central_carbon(*_spent_inputs(totals, factors))
    give_way()
    if remaining is None:
        return Outlook(spent=spent, whole=None, energy_j=None, remaining_s=None)
    to_come = Range.total(item.energy for item in remaining.energies)
    energy = totals.used.energy.plus(to_come)
    # The time of the past is certain, and only that of what remains is uncertain.
    low, high = (
        1 + (to_come.value / energy.value if energy.value else 1.0) * (factor - 1) for factor in remaining.spread
    )
    if factors is None:
        energy_j = energy.times(Range(1.0, low, high))
        return Outlook(spent=None, whole=None, energy_j=energy_j, remaining_s=remaining.time_s)
    give_way()
    items, in_force = account_inputs(totals.spent, factors, to_come=remaining.energies)
    reserved = chargeable([*totals.reserved, *remaining.reserved], factors)
    give_way()
    draws = LIVE_DRAWS if remaining.energies else DRAWS
    whole = carbon_totals(items, reserved, in_force, duration_spread=(low, high), draws=draws)
    return Outlook(spent=spent, whole=whole, energy_j=whole.energy_j, remaining_s=remaining.time_s)


def spent_carbon(totals: RunTotals, factors: Factors | None) -> CarbonTotals | None:
    """Return the carbon so far with its range, or None without factors. Both are those of the audit of this moment."""
    return None if factors is None else carbon_totals(*_spent_inputs(totals, factors))


def _spent_inputs(totals: RunTotals, factors: Factors) -> tuple[list[EnergyItem], list[Reservation], Factors]:
    items, in_force = account_inputs(totals.spent, factors)
    give_way()
    return items, chargeable(totals.reserved, factors), in_force


def _scaled(item: EnergyItem, factor: float) -> EnergyItem:
    return msgspec.structs.replace(item, energy=item.energy.scaled(factor))


def _lasting(unit: Reservation, time_s: float) -> Reservation:
    return Reservation(scope=unit.scope, units=unit.units * unit.time_s, time_s=time_s)
