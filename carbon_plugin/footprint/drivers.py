"""Find which uncertain input moves the total most. The results are the rows of a tornado chart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from carbon_plugin.footprint.propagation import evaluate, gather
from carbon_plugin.footprint.values import EnergyItem, Factors, Reservation


class Driver(Struct, frozen=True, kw_only=True):
    """One scope of draws: the total kgCO2e with it at its p10 and at its p90 and all others central, and its share of
    the squared swings of all scopes. The shares (first-order shares of the variance) add up to 1.
    """

    scope: str
    at_p10_kg: float
    at_p90_kg: float
    share: float


def drivers(
    energies: Sequence[EnergyItem],
    reservations: Sequence[Reservation],
    factors: Factors,
    *,
    duration_spread: tuple[float, float] = (1.0, 1.0),
) -> tuple[Driver, ...]:
    """Return the scopes that have a range, the largest swing first. Arguments and errors are those of
    `footprint.account`.
    """
    inputs = gather(energies, reservations, factors, duration_spread)
    scopes = tuple(dict.fromkeys(inputs.scopes))
    rows = np.array(inputs.scopes)[:, None] == np.array(scopes)
    totals = evaluate(inputs, np.hstack([-1.0 * rows, 1.0 * rows])).total_kg
    at_p10, at_p90 = totals[: len(scopes)], totals[len(scopes) :]
    swings = (at_p90 - at_p10) ** 2
    order = np.argsort(-swings, kind="stable")
    return tuple(
        Driver(
            scope=scopes[index],
            at_p10_kg=float(at_p10[index]),
            at_p90_kg=float(at_p90[index]),
            share=float(swings[index] / swings.sum()),
        )
        for index in order
        if swings[index] > 0
    )
