"""Intervals hold the share of runs that they say, also for sources that differ by an offset of their own."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest

from carbon_plugin.calibrate.random_effects import median_of_sources, random_effects, sided_effects
from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.predict.uncertainty import interval
from carbon_plugin.predict.uncertainty.interval import EFFECTS, NOT_VALIDATED, SpreadLeft, spread_of
from carbon_plugin.validate.step.spreads import FEWEST_BLIND, FEWEST_SOURCES, class_spreads, rewrite_effects
from carbon_plugin.validate.step.validated_row import ValidatedRow


def test_both_spreads_are_found_again() -> None:
    draw = np.random.default_rng(7)
    sources = np.repeat(np.arange(200).astype(str), 20)
    offsets = draw.normal(0, 0.2, 200)
    errors = np.repeat(offsets, 20) + draw.normal(0, 0.05, 4000)
    found = random_effects(errors, sources)
    assert found.sources == pytest.approx(200, abs=3)
    assert found.between == pytest.approx(float(np.sqrt(np.mean(offsets**2))), rel=0.1)
    assert found.within == pytest.approx(0.05, rel=0.1)


def test_an_odd_source_counts_and_how_odd_it_is_does_not() -> None:
    usual = [0.05, -0.04, 0.06, -0.05, 0.04] * 2
    names = np.arange(11).astype(str)
    far, further, absent = (random_effects(np.array([*usual, odd]), names) for odd in (0.6, 2.5, 0.04))
    assert far == further
    assert far.sources == 11
    assert absent.between < far.between < 0.1


def test_long_tails_within_a_source_count_as_far_as_the_range_reaches() -> None:
    draw = np.random.default_rng(3)
    tailed = draw.standard_t(2, (30, 60)) * 0.05
    names = np.repeat(np.arange(30).astype(str), 60)
    found = random_effects(tailed.ravel(), names)
    assert found.within < float(np.sqrt(np.mean(np.var(tailed, axis=1, ddof=1))))
    held = np.abs(tailed) <= 1.2816 * found.within
    assert np.mean(held) == pytest.approx(0.8, abs=0.05)


def test_of_a_few_sources_none_is_odd() -> None:
    """One of five is a fifth of what may come: the range of such a class has to know it."""
    found = random_effects(np.array([0.05, -0.04, 0.06, -0.05, 2.5]), np.arange(5).astype(str))
    assert found.sources == 5
    assert found.between > 1


def test_a_source_whose_rows_differ_much_counts_as_much_as_one_whose_rows_agree() -> None:
    draw = np.random.default_rng(11)
    spreads = np.repeat([0.02, 0.12], 100)
    errors = np.concatenate([draw.normal(0, spread, 30) for spread in spreads])
    found = random_effects(errors, np.repeat(np.arange(200).astype(str), 30))
    assert found.within == pytest.approx(float(np.sqrt(np.mean(spreads**2))), rel=0.1)


def test_more_than_one_source_of_ten_is_no_exception() -> None:
    near, far = [0.02, -0.02, 0.03, -0.03, 0.02], [0.5, 0.6]
    found = random_effects(np.array(near + far), np.arange(7).astype(str))
    assert found.sources == 7
    assert found.between > 0.15


def test_the_range_holds_its_share_of_sources_that_are_near_or_far_and_nothing_between() -> None:
    """Three of ten sources are off by a half: more than the range may miss, so that it has to reach to them."""
    errors = np.array([0.05, -0.05, 0.05, -0.05, 0.05, -0.05, 0.05, 0.5, -0.5, 0.5] * 3)
    found = interval.factors(random_effects(errors, np.arange(30).astype(str)))
    assert np.log(found.p90) == pytest.approx(0.5)


@pytest.mark.parametrize("rows", [1, 7])
def test_two_of_ten_sources_are_missed_however_many_rows_they_have(rows: int) -> None:
    near, far = [0.05, -0.05, 0.04, -0.04], 0.5
    errors, sources = [*near * 10, *[far] * 8 * rows], [*range(40), *np.repeat(range(40, 48), rows)]
    found = interval.factors(random_effects(np.array(errors), np.array(sources).astype(str)))
    assert 0.05 < np.log(found.p90) < 0.2


def test_each_end_of_the_range_is_passed_by_its_own_tenth() -> None:
    """Errors have a long tail above: a range that is symmetrical would hold as many and be missed on one side alone."""
    draw = np.random.default_rng(5)
    errors = draw.exponential(0.2, 400) - 0.05
    found = interval.factors(sided_effects(errors, np.arange(400).astype(str)))
    both = interval.factors(random_effects(errors, np.arange(400).astype(str)))

    assert np.mean(errors < np.log(found.p10)) == pytest.approx(0.1, abs=0.01)
    assert np.mean(errors > np.log(found.p90)) == pytest.approx(0.1, abs=0.01)
    assert np.mean(errors < np.log(both.p10)) == 0


def test_an_end_lies_between_two_sources_and_does_not_jump_from_one_to_the_other() -> None:
    """Of 24 sources 0.9 * 25 stands half way between the 22nd and the 23rd."""
    found = interval.factors(sided_effects(np.arange(1, 25) / 10, np.arange(24).astype(str)))
    assert np.log(found.p90) == pytest.approx(2.25)


def test_the_side_of_a_few_sources_is_that_of_both_sides_together() -> None:
    errors, names = np.array([0.3, 0.2, -0.05, 0.1, 0.25, 0.3, 0.1, 0.0]), np.arange(8).astype(str)
    assert sided_effects(errors, names) == random_effects(errors, names)


@pytest.mark.parametrize("kind", EFFECTS)
def test_runs_of_ones_own_bring_both_ends_nearer(kind) -> None:
    none, one, many = (spread_of(kind, left=SpreadLeft(left, left)) for left in (1, 0.5, 0))
    assert none.p10 <= one.p10 <= many.p10 < 1 < many.p90 < one.p90 < none.p90
    assert many.p10 == pytest.approx(1 / many.p90, rel=1e-3)


@pytest.mark.parametrize("kind", EFFECTS)
def test_intervals_hold_the_prediction_and_grow_with_what_is_not_known(kind) -> None:
    plain, assumed = spread_of(kind), spread_of(kind, assumed=True)
    assert plain.low95 < plain.p10 < 1 < plain.p90 < plain.high95
    assert assumed.p10 < plain.p10 < plain.p90 < assumed.p90


def test_ordinary_software_is_less_certain_than_tuned() -> None:
    assert spread_of("ordinary").p90 > spread_of("calibrated").p90


def test_every_class_has_a_spread_that_gives_a_finite_range() -> None:
    assert set(EFFECTS) == set(get_args(AccuracyClass))
    assert set(NOT_VALIDATED) < set(EFFECTS)
    for effects in EFFECTS.values():
        assert 0 < effects.between < 1.5
        assert 0 < effects.within < 1
        assert effects.sources >= FEWEST_SOURCES


def rows(kind: AccuracyClass, errors: dict[str, list[float]]) -> list[ValidatedRow]:
    """Return rows that were measured exp(error) times as long as they were predicted without their source."""
    return [
        ValidatedRow(
            id=f"{source}-{index}",
            source=source,
            origin=source,
            accuracy_class=kind,
            measured_step_time_s=2 * float(np.exp(error)),
            left_out_step_time_s=2.0,
            predicted_step_time_s=1.0,
        )
        for source, many in errors.items()
        for index, error in enumerate(many)
    ]


def test_spreads_of_a_class_come_from_the_residuals_without_the_source() -> None:
    errors = {str(index): [offset - 0.05, offset + 0.05] for index, offset in enumerate((0.1, -0.2, 0.15, -0.1, 0.2))}
    (found,) = class_spreads(rows("moe", errors))
    all_errors = np.array([error for many in errors.values() for error in many])
    expected = random_effects(all_errors, np.repeat(list(errors), 2))
    assert found.effects == pytest.approx(expected, abs=5e-4)
    assert (found.rows, found.sources) == (10, 5)


def test_coverage_counts_every_source_once_however_many_rows_it_has() -> None:
    (found,) = class_spreads(rows("moe", {"a": [0.0] * 30, "b": [0.01], "c": [-0.01], "odd": [3.0, 3.0]}))
    assert found.coverage == pytest.approx(0.75)


def test_a_class_of_one_source_takes_how_sources_differ_from_the_related_class() -> None:
    calibrated = rows(
        "calibrated", {name: [offset] for name, offset in zip("abcd", (0.1, -0.1, 0.2, -0.2), strict=True)}
    )
    _, found = class_spreads([*calibrated, *rows("host_bound", {"e": [0.3, 0.32]})])
    assert (found.kind, found.sources, found.effects.sources) == ("host_bound", 1, 5)
    # The one offset of its own that is known makes the range of the next one wider than five would.
    both = random_effects(np.array([0.1, -0.1, 0.2, -0.2, 0.3, 0.32]), np.array(list("abcdee")))
    assert found.effects.between == pytest.approx(both.between * np.sqrt(2 / 1.2), abs=1e-3)


def test_the_spreads_are_written_into_their_own_lines_only() -> None:
    text = Path(interval.__file__).read_text("utf-8")
    changed = rewrite_effects(text, class_spreads(rows("moe", {"a": [0.1], "b": [0.2], "c": [-0.1]})))
    different = [new for old, new in zip(text.splitlines(), changed.splitlines(), strict=True) if old != new]
    assert len(different) == 1
    assert different[0].strip().startswith('"moe": Effects(')


def test_a_row_that_was_predicted_blind_counts_with_that_prediction_and_not_with_a_later_one() -> None:
    mended = rows("moe", {"a": [0.0], "b": [0.0], "c": [0.0], "d": [0.0]})
    blind = {row.id: 2 * float(np.exp(-offset)) for row, offset in zip(mended, (0.4, -0.4, 0.3, -0.3), strict=True)}

    (after,), (before,) = class_spreads(mended, {}), class_spreads(mended, blind)

    assert after.effects.between == 0
    assert before.effects.between == pytest.approx(np.sqrt(np.mean(np.square([0.4, 0.3]))), abs=1e-3)
    assert before.coverage == after.coverage == 1


@pytest.mark.parametrize("blind_sources", [FEWEST_BLIND - 1, FEWEST_BLIND])
def test_sources_that_were_in_sight_count_only_where_few_were_predicted_blind(blind_sources: int) -> None:
    seen = rows("moe", {f"seen-{index}": [0.0] for index in range(20)})
    unseen = rows("moe", {f"blind-{index}": [0.3 * (-1) ** index] for index in range(blind_sources)})
    predicted = {row.id: row.left_out_step_time_s or 0.0 for row in unseen}

    (found,) = class_spreads([*seen, *unseen], predicted)

    assert found.effects.sources == (blind_sources if blind_sources == FEWEST_BLIND else 20 + blind_sources)
    assert (found.rows, found.sources) == (20 + blind_sources,) * 2


def test_a_blind_error_counts_in_the_class_in_which_the_row_was_predicted() -> None:
    good = rows("calibrated", {"a": [0.0], "b": [0.0], "c": [0.0]})
    odd = [msgspec.structs.replace(row, id=f"odd-{row.id}") for row in rows("calibrated", {"d": [0.6]})]
    plain = rows("ordinary", {"e": [0.1], "f": [-0.1], "g": [0.1]})

    def effects(told: dict[str, str]) -> dict[str, float]:
        return {found.kind: found.effects.between for found in class_spreads([*good, *odd, *plain], {}, told)}

    there, here = effects({}), effects({odd[0].id: "ordinary"})

    assert here["calibrated"] == 0 < there["calibrated"]
    assert here["ordinary"] > there["ordinary"]


def test_the_median_counts_every_source_once_however_many_rows_it_has() -> None:
    errors = np.array([0.3, 0.1, 0.1, 0.1, 0.1, -0.2])

    assert median_of_sources(errors, np.array(["a", "b", "b", "b", "b", "c"])) == pytest.approx(0.1)
    assert median_of_sources(errors[:1], np.array(["a"])) == pytest.approx(0.3)
