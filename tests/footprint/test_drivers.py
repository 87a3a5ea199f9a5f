"""Which inputs move the total."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.drivers import drivers
from carbon_plugin.footprint.values import EnergyItem, Factors, Reservation
from carbon_plugin.spec.numbers.range import Range

MakeFactors = Callable[..., Factors]

GPU = EnergyItem(rung="gpu", scope="h100", energy=Range(3.6e12, 3.42e12, 3.78e12))


def test_the_widest_input_comes_first_and_shares_add_up_to_one(make_factors: MakeFactors) -> None:
    factors = make_factors((400, 200, 800), (1.2, 1.1, 1.3), (5, 3, 6), {"device": (164, 125, 275)})

    ranked = drivers([GPU], [Reservation(scope="device", units=8, time_s=1e6)], factors)

    assert ranked[0].scope == "intensity"
    assert {driver.scope for driver in ranked} == {"intensity", "pue", "lifetime", "energy h100", "embodied device"}
    assert sum(driver.share for driver in ranked) == pytest.approx(1)
    assert [driver.share for driver in ranked] == sorted((driver.share for driver in ranked), reverse=True)


def test_a_driver_gives_the_total_at_its_own_p10_and_p90(make_factors: MakeFactors) -> None:
    (only,) = drivers([GPU], [], make_factors(intensity=0.4, pue=1.0))

    assert (only.scope, only.at_p10_kg, only.at_p90_kg) == ("energy h100", pytest.approx(380), pytest.approx(420))
    assert only.share == 1


def test_a_longer_life_lowers_the_total(make_factors: MakeFactors) -> None:
    factors = make_factors(lifetime=(5, 3, 6), embodied={"host": 3200})

    (only,) = drivers([], [Reservation(scope="host", units=1, time_s=1e6)], factors)

    assert only.scope == "lifetime"
    assert only.at_p10_kg > only.at_p90_kg


def test_nothing_uncertain_has_no_drivers(make_factors: MakeFactors) -> None:
    assert drivers([], [], make_factors()) == ()


def test_bad_input_is_refused(make_factors: MakeFactors) -> None:
    with pytest.raises(FootprintError, match="duration_spread"):
        drivers([GPU], [], make_factors(), duration_spread=(2.0, 3.0))
