"""A budget is compared with the projection of the whole run, and with what is spent where there is none."""

from __future__ import annotations

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.budget import Amounts, CarbonBudget, compare_budget
from carbon_plugin.spec.numbers.range import Range

WHOLE = Amounts(energy_kwh=Range(10.0, 8.0, 13.0), emissions_kg=Range(3.0, 2.0, 4.0))
SPENT = Amounts(energy_kwh=Range.exactly(4.0), emissions_kg=Range(1.0, 0.9, 1.1))


@pytest.mark.parametrize(("on", "used"), [("low", 8.0), ("central", 10.0), ("high", 13.0)])
def test_the_end_of_the_projection_that_counts_is_the_one_that_was_asked_for(on, used):
    budget = CarbonBudget(energy_kwh=12.0, on=on)

    state = compare_budget(budget, step=7, spent=SPENT, whole=WHOLE, measured=True)

    assert (state.lines[0].used, state.lines[0].projected) == (used, True)
    assert bool(state.exceeded) == (used > 12)
    assert state.share == pytest.approx(used / 12)


def test_without_a_projection_what_is_spent_counts_and_is_certain():
    state = compare_budget(CarbonBudget(energy_kwh=3.9), step=7, spent=SPENT, whole=None, measured=False)

    assert state.measured
    assert state.phrase == "energy: 4 kWh of 3.9 kWh spent (103 %)"


def test_both_amounts_are_written_in_the_unit_that_fits_the_limit():
    spent = Amounts(energy_kwh=Range.exactly(4.516e-5), emissions_kg=Range.exactly(2.5e-4))
    budget = CarbonBudget(energy_kwh=2e-5, emissions_kg=2e-4)

    state = compare_budget(budget, step=7, spent=spent, whole=None, measured=False)

    assert state.phrase == "emissions: 250 mgCO2e of 200 mgCO2e spent (125 %); energy: 162.6 J of 72 J spent (226 %)"
    assert budget.phrase == "at most 200 mgCO2e and 72 J, else a warning"


def test_what_is_spent_already_counts_before_any_projection():
    state = compare_budget(CarbonBudget(energy_kwh=3.9), step=7, spent=SPENT, whole=WHOLE, measured=False)

    assert (state.lines[0].used, state.lines[0].projected, state.measured) == (4.0, False, True)


def test_the_worst_of_several_limits_is_the_share_and_an_unknown_amount_is_no_zero():
    budget = CarbonBudget(energy_kwh=20.0, emissions_kg=2.0, cost=5.0)

    state = compare_budget(budget, step=7, spent=SPENT, whole=WHOLE, measured=True)

    assert state.share == pytest.approx(1.5)
    assert [line.quantity for line in state.exceeded] == ["emissions_kg"]
    assert {line.quantity: line.share for line in state.lines}["cost"] is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "gives no limit"),
        ({"energy_kwh": 0.0}, "energy_kwh is 0.0, expected a number above 0"),
        ({"cost": True}, "cost is True, expected a number above 0"),
        ({"energy_kwh": float("nan")}, "energy_kwh is nan"),
        ({"energy_kwh": 1.0, "on": "middle"}, "on is 'middle', expected 'low', 'central' or 'high'"),
        ({"energy_kwh": 1.0, "on_exceed": "halt"}, "on_exceed is 'halt', expected 'warn', 'stop' or a function"),
    ],
)
def test_a_budget_that_means_nothing_is_refused_with_field_and_value(fields, said):
    with pytest.raises(SpecError, match=r"^budget: ") as error:
        CarbonBudget(**fields)

    assert said in str(error.value)
