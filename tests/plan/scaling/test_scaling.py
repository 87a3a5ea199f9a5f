"""Scaling laws, shapes, and the cheapest cluster for a compute budget."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.scaling.cheapest import ScalePoint, answer, target_of_compute, target_of_loss
from carbon_plugin.plan.scaling.laws import (
    CHINCHILLA,
    HOFFMANN,
    LAWS,
    MOE,
    ComputeSplit,
    best_split,
    critical_batches,
    least_compute,
    loss_of,
    loss_range,
    token_factor,
    tokens_to_reach,
)
from carbon_plugin.plan.scaling.shape import model_of
from carbon_plugin.plan.scaling.table import csv_text, logarithmic_steps, rows_of, sweep
from carbon_plugin.spec.site import Site

laws = st.sampled_from(list(LAWS.values()))
budgets = st.floats(18, 29).map(lambda exponent: 10**exponent)
USA, FRANCE = Site(zone="USA", pue=1.2), Site(zone="FRA", pue=1.2)


def point(flops: float, accelerator: str = "h100-sxm", deadline_days: float = 90) -> ScalePoint:
    return answer(target_of_compute(CHINCHILLA, flops), accelerator, [USA], deadline_days).points[0]


@given(law=laws, flops=budgets)
def test_the_loss_of_the_best_split_leads_back_to_the_budget(law, flops) -> None:
    split = best_split(law, flops)
    again = least_compute(law, loss_of(law, split))

    assert split.flops == pytest.approx(flops)
    assert (again.parameters, again.tokens) == pytest.approx((split.parameters, split.tokens), rel=1e-6)
    assert tokens_to_reach(law, loss_of(law, split), split.parameters) == pytest.approx(split.tokens, rel=1e-6)


@given(law=laws, flops=budgets, other=st.floats(0.1, 10))
def test_no_other_split_of_the_budget_reaches_a_lower_loss(law, flops, other) -> None:
    split = best_split(law, flops)
    moved = ComputeSplit(split.parameters * other, split.tokens / other)

    assert loss_of(law, moved) >= loss_of(law, split) * (1 - 1e-12)


def test_the_splits_are_those_that_the_laws_are_known_for() -> None:
    dense, text, sparse = (
        best_split(law, flops) for law, flops in ((CHINCHILLA, 1e24), (HOFFMANN, 1e24), (MOE, 6.46e21))
    )

    assert (dense.parameters, dense.tokens) == pytest.approx((96e9, 1.74e12), rel=0.01)
    assert dense.tokens / dense.parameters < 20 < text.tokens / text.parameters
    # A model of 64 x 7 B on 138 B tokens (arXiv 2402.07871, table 2, from memory).
    assert (sparse.parameters, sparse.tokens) == pytest.approx((7e9, 138e9), rel=0.11)


def test_the_loss_is_less_certain_beyond_the_fitted_runs() -> None:
    near, far = (best_split(CHINCHILLA, flops) for flops in (1e21, 1e27))
    widths = [high - low for low, high in (loss_range(CHINCHILLA, near), loss_range(CHINCHILLA, far))]

    assert widths[0] == pytest.approx(2 * 1.2815516 * 0.03)
    assert widths[1] > widths[0]


def test_critical_batches_grow_with_the_run_and_cost_a_fifth_more_tokens() -> None:
    small, large = critical_batches(2.1, 1e11), critical_batches(1.9, 1e13)

    assert all(small[law] < large[law] for law in small)
    assert large["zhang"] == pytest.approx(22.91 * 1e7**0.47 * 512)
    assert token_factor(large["zhang"], large["zhang"]) == 1.2
    assert token_factor(0, 1e6) == 1


@settings(max_examples=60)
@given(parameters=st.floats(7.5, 13.5).map(lambda exponent: 10**exponent), sparse=st.booleans())
def test_a_shape_has_the_parameters_asked_for(parameters, sparse) -> None:
    model = model_of(parameters, sparse=sparse)

    tolerance = 0.35 if parameters < 1e8 else 0.06
    dense = model if not sparse else model_of(parameters)
    assert dense.parameters == pytest.approx(parameters, rel=tolerance)
    assert model.active_parameters == pytest.approx(dense.parameters, rel=0.1)  # routers come on top
    assert model == model_of(parameters, sparse=sparse)
    assert (model.moe is not None) == sparse


def test_llama_3_405b_is_a_member_of_the_family() -> None:
    model = model_of(405e9)

    assert (model.hidden, model.heads, model.kv_heads) == (16384, 128, 8)
    assert model.layers == pytest.approx(126, abs=8)


def test_a_target_keeps_the_compute_or_the_loss_with_the_shape_that_there_is() -> None:
    of_compute, of_loss = target_of_compute(CHINCHILLA, 1e23), target_of_loss(CHINCHILLA, 2.05)

    assert of_compute.split.flops == pytest.approx(1e23)
    assert of_loss.loss == 2.05
    assert loss_of(CHINCHILLA, of_loss.split) == pytest.approx(2.05)


@pytest.fixture(scope="module")
def frontier() -> ScalePoint:
    return point(1e24)


def test_the_answer_is_in_time_and_worse_than_the_ideal(frontier) -> None:
    assert frontier.meets_deadline
    assert frontier.time_s.value <= 90 * 86400
    assert frontier.total_kg.value > 1.5 * frontier.ideal_kg
    assert frontier.total_kg.low < frontier.total_kg.value < frontier.total_kg.high
    assert frontier.total_kg.value == pytest.approx(frontier.operational_kg.value + frontier.embodied_kg.value)
    assert "loss law beyond 3e+21 FLOP" in frontier.extrapolated


def test_less_time_takes_more_devices_and_no_less_carbon(frontier) -> None:
    hurried = point(1e24, deadline_days=30)

    assert hurried.meets_deadline
    assert hurried.devices > frontier.devices
    assert hurried.total_kg.value >= frontier.total_kg.value


def test_a_larger_critical_batch_never_costs_more_carbon_at_scale(frontier) -> None:
    answers = sorted(frontier.by_batch_law.values(), key=lambda item: item.critical_batch)

    assert [item.total_kg for item in answers] == sorted((item.total_kg for item in answers), reverse=True)
    assert frontier.total_kg.low <= answers[-1].total_kg


def test_newer_hardware_needs_less_carbon_for_the_same_compute(frontier) -> None:
    older, newer = point(1e24, "a100-sxm-80gb"), point(1e24, "b200-sxm")

    assert older.total_kg.value > frontier.total_kg.value > newer.total_kg.value


def test_what_cannot_be_done_in_time_is_given_as_the_fastest_and_marked() -> None:
    late = point(1e25, deadline_days=2)

    assert not late.meets_deadline
    assert late.time_s.value > 2 * 86400
    assert any(name.startswith("step time beyond 6,144 devices") for name in late.extrapolated)


def test_a_cleaner_grid_changes_operational_carbon_only_and_raises_the_embodied_share() -> None:
    usa, france = answer(target_of_compute(CHINCHILLA, 1e22), "h100-sxm", [USA, FRANCE], 90).points

    assert (usa.zone, france.zone) == ("USA", "FRA")
    assert usa.embodied_kg.value == pytest.approx(france.embodied_kg.value)
    assert usa.operational_kg.value > 5 * france.operational_kg.value
    assert france.embodied_share > 4 * usa.embodied_share


def test_a_range_gives_the_exponents_of_the_law_and_of_the_real_run() -> None:
    targets = [target_of_compute(CHINCHILLA, flops) for flops in logarithmic_steps(1e22, 1e24, 3)]
    result = sweep(targets, ["v100"], [USA, FRANCE], 90)

    assert [(item.zone, item.points) for item in result.exponents] == [("USA", 3), ("FRA", 3)]
    exponents = result.exponents[0]
    # Carbon ~ C and reducible loss ~ C^-(alpha beta / (alpha + beta)).
    assert exponents.ideal_loss == pytest.approx(1 / CHINCHILLA.alpha + 1 / CHINCHILLA.beta, rel=0.01)
    assert exponents.real_loss > exponents.ideal_loss
    assert min(exponents.last_compute, exponents.real_compute) > 1
    rows = list(csv.DictReader(io.StringIO(csv_text(rows_of(result.points, CHINCHILLA)))))
    assert len(rows) == len(result.points) == 6
    assert float(rows[0]["total_t"]) == pytest.approx(result.points[0].total_kg.value / 1e3, rel=1e-3)


def test_a_model_that_fits_nowhere_is_listed_with_the_reason() -> None:
    result = sweep([target_of_compute(CHINCHILLA, 1e27)], ["t4"], [USA], 90)

    assert result.points == ()
    assert "fits on none of the clusters of t4" in result.infeasible[0]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: target_of_loss(CHINCHILLA, 1.8), r"loss: 1\.8 is not above 1\.8172"),
        (lambda: target_of_compute(CHINCHILLA, math.inf), "compute: inf FLOP"),
        (lambda: tokens_to_reach(CHINCHILLA, 2.0, 1e6), "out of reach of 1 M parameters"),
        (lambda: point(1e22, deadline_days=-1), "deadline_days is -1"),
        (lambda: answer(target_of_compute(CHINCHILLA, 1e22), "h100-sxm", [], 90), "zone: give at least one"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(ask, message) -> None:
    with pytest.raises(SpecError, match=message) as error:
        ask()
    assert "\n" not in str(error.value)
