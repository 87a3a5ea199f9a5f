"""Energy from samples: what a counter or a power reading may do, and what must hold then."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from carbon_plugin.meters.advance import advance, start_track
from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.track import Sample, Step, Traits

BOUNDS = Bounds(ceiling_w=840.0, limit_w=700.0, idle_w=70.0, source="its power limit of 700 W")
MEAN = Traits(bounds=BOUNDS, averaging="trailing_mean")
INSTANT = Traits(bounds=BOUNDS, averaging="instant")


def sample(at_s: float, counter_j: float | None = None, power_w: float | None = None) -> Sample:
    return Sample(monotonic_s=at_s, counter_j=counter_j, power_w=power_w)


def follow(samples: Sequence[Sample], traits: Traits = MEAN) -> list[Step]:
    track, steps = start_track(samples[0], traits.bounds), []
    for one in samples[1:]:
        steps.append(advance(track, one, traits))
        track = steps[-1].track
    return steps


def test_energy_is_the_counter_difference_with_five_percent_either_way() -> None:
    (step,) = follow([sample(0, 1000.0, 300), sample(10, 4000.0, 300)])
    energy = step.track.energy
    assert (energy.value, energy.low, energy.high) == pytest.approx((3000, 2850, 3150))
    assert (step.kind, step.fault) == ("counter", None)


def test_a_counter_that_has_not_stepped_yet_is_no_fault() -> None:
    (step,) = follow([sample(0, 1000.0, 300), sample(0.05, 1000.0, 300)])
    assert (step.track.energy.value, step.kind, step.fault) == (0, "counter", None)


def test_instantaneous_power_is_integrated_by_the_trapezoid() -> None:
    steps = follow([sample(0, power_w=100), sample(1, power_w=300), sample(2, power_w=200)], INSTANT)
    assert steps[-1].track.energy.value == pytest.approx(200 + 250)
    assert steps[-1].kind == "power_integrated"


def test_a_trailing_mean_describes_the_second_that_it_ends() -> None:
    steps = follow([sample(0, power_w=100), sample(1, power_w=300), sample(2, power_w=200)], MEAN)
    assert steps[-1].track.energy.value == pytest.approx(300 + 200)


def test_integration_is_less_certain_than_a_counter_and_a_gap_less_still() -> None:
    second = follow([sample(0, power_w=300), sample(1, power_w=300)], MEAN)[0].track.energy
    gap = follow([sample(0, power_w=300), sample(10, power_w=300)], MEAN)[0].track.energy
    assert second.high / second.value == pytest.approx(1.07)
    assert gap.high / gap.value == pytest.approx(1.30)


def test_a_reset_is_estimated_by_power_times_time_and_counting_goes_on() -> None:
    steps = follow([sample(0, 5000.0, 300), sample(10, 8000.0, 300), sample(20, 900.0, 300), sample(30, 3900.0, 300)])
    reset, after = steps[1], steps[2]
    assert (reset.fault, reset.kind) == ("counter_reset", "power_integrated")
    assert reset.message == (
        "the energy counter went back from 8000 J to 900 J; "
        "the 10.0 s between are estimated by power times time: 3000 J"
    )
    assert (after.kind, after.fault) == ("counter", None)
    assert after.track.energy.value == pytest.approx(3000 + 3000 + 3000)


def test_what_the_counter_shows_after_a_reset_is_within_the_range() -> None:
    reset = follow([sample(0, 9000.0, 100), sample(10, 2000.0, 100)])[0]
    energy = reset.track.energy
    assert (energy.low, energy.value, energy.high) == pytest.approx((700, 1000, 2100))


def test_a_reset_to_an_impossible_value_does_not_count_as_energy() -> None:
    reset = follow([sample(0, 9e6, 100), sample(10, 8e6, 100)])[0]
    assert reset.track.energy.value == pytest.approx(1000)


def test_a_counter_that_stands_still_under_power_is_replaced_by_integration() -> None:
    steps = follow([sample(at_s, 5000.0, 300) for at_s in range(5)])
    assert [step.fault for step in steps] == [None, "counter_stuck", "counter_stuck", "counter_stuck"]
    assert steps[-1].track.energy.value == pytest.approx(4 * 300)


def test_a_stuck_counter_that_catches_up_is_not_added_to_the_estimate() -> None:
    steps = follow([sample(at_s, 5000.0, 300) for at_s in range(5)] + [sample(5, 6500.0, 300)])
    assert steps[-1].track.energy.value == pytest.approx(1500)


def test_a_stuck_counter_that_does_not_catch_up_goes_on_from_where_it_stands() -> None:
    still = [sample(at_s, 5000.0, 300) for at_s in range(10)]
    steps = follow([*still, sample(10, 5300.0, 300), sample(11, 5600.0, 300)])
    assert steps[-1].track.energy.value == pytest.approx(11 * 300)


def test_a_counter_that_fails_for_a_while_covers_that_while_when_it_answers() -> None:
    steps = follow([sample(0, 1000.0, 300), sample(1, None, 310), sample(2, None, 310), sample(3, 1900.0, 300)])
    assert [step.kind for step in steps] == ["power_integrated", "power_integrated", "counter"]
    assert steps[-1].track.energy.value == pytest.approx(900)


def test_a_device_that_says_nothing_holds_its_energy_and_is_covered_later() -> None:
    steps = follow([sample(0, 1000.0, 300), sample(10), sample(20, 7000.0, 300)])
    assert (steps[0].kind, steps[0].track.energy.value) == ("absent", 0)
    assert (steps[1].kind, steps[1].track.energy.value) == ("counter", 6000)


def test_a_counter_that_appears_late_starts_then() -> None:
    steps = follow([sample(0, None, 300), sample(1, 9e6, 300), sample(2, 9e6 + 250, 300)])
    assert steps[-1].track.energy.value == pytest.approx(300 + 250)


def test_what_a_counter_missed_before_it_stood_still_waits_for_a_power() -> None:
    always = Traits(bounds=replace(BOUNDS, always_draws=True), averaging="instant")
    missed = [sample(0, 500, 100), sample(1, 501, 100), sample(4, 501, None), sample(5, 501, 100)]
    counted, absent, known = follow(missed, always)
    assert (absent.kind, absent.energy) == ("absent", counted.energy)
    assert known.kind == "power_integrated"
    assert known.energy.value == pytest.approx(100 * 5)


readings = st.tuples(
    st.floats(0.01, 30),
    st.one_of(st.none(), st.floats(0, 1e6)),
    st.one_of(st.none(), st.floats(0, 700)),
)


@given(
    st.lists(readings, min_size=1, max_size=30),
    st.sampled_from([MEAN, INSTANT, Traits(bounds=replace(BOUNDS, always_draws=True), averaging="instant")]),
)
def test_energy_never_falls_and_stays_in_its_range_whatever_the_device_says(
    rows: list[tuple[float, float | None, float | None]], traits: Traits
) -> None:
    at_s, samples = 0.0, [sample(0, 500.0, 100)]
    for elapsed_s, counter_j, power_w in rows:
        at_s += elapsed_s
        samples.append(sample(at_s, counter_j, power_w))
    before = start_track(samples[0], BOUNDS).energy
    for step in follow(samples, traits):
        after = step.track.energy
        assert after.value >= before.value
        assert after.low <= after.value + 1e-6
        assert after.high >= after.value - 1e-6
        assert step.kind != "absent" or after == before
        before = after


@given(st.lists(st.tuples(st.floats(0.5, 20), st.floats(1, 600)), min_size=1, max_size=30))
def test_a_healthy_counter_is_followed_exactly(stretches: list[tuple[float, float]]) -> None:
    at_s, counter_j, samples = 0.0, 1e6, [sample(0, 1e6, 300)]
    for elapsed_s, power_w in stretches:
        at_s, counter_j = at_s + elapsed_s, counter_j + power_w * elapsed_s
        samples.append(sample(at_s, counter_j, power_w))
    steps = follow(samples)
    assert steps[-1].track.energy.value == pytest.approx(counter_j - 1e6)
    assert {step.kind for step in steps} == {"counter"}
