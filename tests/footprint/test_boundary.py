"""The boundary ladder: every rung holds those below it, and says what it lacks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.boundary import ladder
from carbon_plugin.footprint.values import EnergyItem, Factors
from carbon_plugin.spec.numbers.range import Range


def energy(rung: str, joules: float) -> EnergyItem:
    return EnergyItem(rung=rung, scope=rung, energy=Range(joules, 0.9 * joules, 1.2 * joules))  # type: ignore[arg-type]


def test_rungs_add_up_to_it_and_pue_multiplies_it_only(make_factors: Callable[..., Factors]) -> None:
    items = [energy("gpu", 70.0), energy("host", 25.0), energy("network", 5.0)]

    totals = {total.rung: total for total in ladder(account(items, [], make_factors(pue=1.3)).energy_j)}

    assert {rung: total.energy.value for rung, total in totals.items()} == {
        "gpu": 70.0,
        "node": 95.0,
        "it": 100.0,
        "facility": 130.0,
    }
    assert totals["node"].energy.low == pytest.approx(0.9 * 95)
    assert totals["node"].energy.high == pytest.approx(1.2 * 95)
    assert totals["it"].missing == ("storage",)
    assert totals["node"].missing == ()


def test_a_rung_that_nobody_knows_is_left_out_and_named_above(make_factors: Callable[..., Factors]) -> None:
    without_gpu = {total.rung: total for total in ladder(account([energy("host", 25.0)], [], make_factors()).energy_j)}

    assert sorted(without_gpu) == ["facility", "node"]
    assert without_gpu["node"].missing == ("gpu",)
