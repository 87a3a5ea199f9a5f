"""The gate that all readings pass: what is possible goes through as it is, and nothing else becomes a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carbon_plugin.meters.agreement import Agreement
from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.gate import ReadingGate
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.spec.numbers.range import Range

BOUNDS = Bounds(ceiling_w=840.0, limit_w=700.0, idle_w=70.0, source="its power limit of 700 W")


def reading(at_s: float, joules: float | None, key: str = "g", **fields: object) -> Reading:
    kind, energy = ("absent", None) if joules is None else ("counter", Range.exactly(joules))
    return Reading(**{"key": key, "monotonic_s": at_s, "energy": energy, "kind": kind} | fields)


def follow(readings: Sequence[Reading]) -> list[Reading]:
    gate = ReadingGate({"g": BOUNDS})
    return [gate.admit([one])[0] for one in readings]


def test_what_is_possible_goes_through_as_it_is() -> None:
    told = [reading(at_s, 0.0, energy=Range(300.0 * at_s, 285.0 * at_s, 315.0 * at_s)) for at_s in (0.0, 10.0, 20.0)]
    assert follow(told) == told


@pytest.mark.parametrize("absurd_j", [1e9, math.inf, math.nan, -5.0])
def test_a_figure_that_is_not_possible_is_an_estimate_and_the_next_stretch_is_measured(absurd_j: float) -> None:
    then_j = absurd_j + 3_000 if math.isfinite(absurd_j) else 9_000.0
    told = [reading(0.0, 0.0), reading(10.0, 3_000.0), reading(20.0, absurd_j), reading(30.0, then_j)]
    _, _, refused, last = follow(told)
    assert (refused.kind, refused.fault) == ("modelled", "implausible")
    assert (refused.energy.low, refused.energy_j, refused.energy.high) == pytest.approx((3_700, 6_000, 10_000))
    assert refused.estimated_j == pytest.approx(3_000)
    assert last.energy_j == pytest.approx(9_000)


def test_what_is_covered_later_takes_the_place_of_its_estimate() -> None:
    lost = reading(40.0, 3_000.0, kind="absent", covered_s=10.0, fault="lost")
    _, _, estimated, again = follow([reading(0.0, 0.0), reading(10.0, 3_000.0), lost, reading(50.0, 17_000.0)])
    assert (estimated.energy_j, estimated.estimated_j) == pytest.approx((12_000, 9_000))
    assert (again.energy_j, again.estimated_j, again.kind) == (17_000, 0, "counter")


def test_energy_stands_still_where_less_is_measured_than_was_estimated_and_its_low_end_says_so() -> None:
    lost = reading(40.0, 3_000.0, kind="absent", covered_s=10.0, fault="lost")
    *_, held, ahead = follow(
        [reading(0.0, 0.0), reading(10.0, 3_000.0), lost, reading(50.0, 5_000.0), reading(100.0, 20_000.0)]
    )
    assert (held.energy.low, held.energy_j, held.estimated_j) == (5_000, 12_000, 7_000)
    assert (ahead.energy.low, ahead.energy_j, ahead.estimated_j) == (20_000, 20_000, 0)


def test_time_before_the_first_answer_has_the_power_of_the_first_answer() -> None:
    pending = [reading(at_s, None, covered_s=0.0) for at_s in (0.0, 1.0)]
    first = follow(
        [
            *pending,
            reading(8.0, 0.0, covered_s=0.0, power_w=300.0),
        ]
    )[-1]
    assert (first.energy_j, first.estimated_j) == pytest.approx((2_400, 2_400))


def test_a_meter_that_falls_silent_keeps_what_it_has_measured() -> None:
    silent = follow([reading(0.0, 0.0), reading(6.0, 1_800.0), reading(7.0, None, covered_s=0.0)])[-1]
    assert (silent.energy_j, silent.estimated_j) == pytest.approx((2_100, 300))


def test_a_model_stands_in_where_there_is_one() -> None:
    gate = ReadingGate({"h": BOUNDS}, models={"h": lambda _seconds: Range(200.0, 100.0, 400.0)})
    gate.admit([reading(0.0, 0.0, "h")])
    (host,) = gate.admit([reading(10.0, 0.0, "h", kind="absent", covered_s=0.0)])
    assert (host.energy.low, host.energy_j, host.energy.high) == (1_000, 2_000, 4_000)


def test_a_device_of_which_nothing_is_known_stays_absent() -> None:
    gate = ReadingGate({"x": Bounds(ceiling_w=0.0, limit_w=None, source="a device that NVML does not list")})
    readings = [gate.admit([reading(at_s, None, "x")])[0] for at_s in (0.0, 10.0)]
    assert {(one.energy_j, one.kind) for one in readings} == {(None, "absent")}


anything = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 1e6))


@example([(1.0, None, None), (1.0, None, None), (4.0, 5181.0, None), (1.0, None, None)])
@given(st.lists(st.tuples(st.floats(0.1, 60), anything, anything), min_size=1, max_size=30))
def test_whatever_a_meter_tells_energy_is_finite_possible_and_never_falls(
    rows: list[tuple[float, float | None, float | None]],
) -> None:
    at_s, told = 0.0, [reading(0.0, 0.0, power_w=300.0)]
    for seconds, joules, watts in rows:
        at_s += seconds
        told.append(reading(at_s, joules, power_w=watts, covered_s=0.0 if joules is None else None))
    before_j = 0.0
    for one in follow(told):
        assert one.energy_j is not None
        assert one.energy is not None
        assert before_j <= one.energy_j <= 840.0 * (one.monotonic_s + len(told)) + 1e-6
        assert -1e-6 <= one.energy.low <= one.energy_j <= one.energy.high
        assert one.estimated_j <= one.energy_j + 1e-6
        assert one.power_w is None or 0 <= one.power_w <= 840.0 * 1.5
        before_j = one.energy_j


def agreement(counted_w: float, powers_w: Sequence[float]) -> Agreement:
    sums = Agreement()
    for power_w in powers_w:
        sums = sums.observe(10.0, 10.0 * counted_w, power_w, power_w)
    return sums


@pytest.mark.parametrize(
    ("counted_w", "powers_w", "contradicts"),
    [
        (300, [300] * 6, False),
        (171, [300] * 6, True),
        (300, [171] * 6, True),
        (171, [300] * 3, False),  # too few to know how power varies
        (400, [700, 300, 690, 680, 120, 700], False),  # a load that varies more than six samples tell
    ],
)
def test_counter_and_power_contradict_each_other_only_beyond_what_samples_explain(
    counted_w: float, powers_w: Sequence[float], contradicts: bool
) -> None:
    assert agreement(counted_w, powers_w).contradicts is contradicts
