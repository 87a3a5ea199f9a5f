"""Energy windows: every joule in exactly one window, joined without gap, cut where the phase changed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor.clock import Mark, Transition
from carbon_plugin.monitor.node.windows import (
    APPORTIONED,
    MAX_PIECES,
    Snapshot,
    aligned,
    at_its_moment,
    cut,
    energies,
    merged,
    moment_of,
)
from carbon_plugin.spec.numbers.range import Range

PHASES = st.sampled_from(["train", "evaluation", "checkpoint", "data_wait"])


def mark(steps: int, at: float = 0.0) -> Mark:
    return Mark(steps, at, 0, steps)


def reading(key: str, energy_j: float | None, **fields: object) -> Reading:
    kind, energy = ("absent", None) if energy_j is None else ("counter", Range.exactly(energy_j))
    return Reading(**{"key": key, "monotonic_s": 0.0, "energy": energy, "kind": kind} | fields)


def snapshot(at: float, steps: int, *readings: Reading) -> Snapshot:
    return Snapshot(monotonic_s=at, readings={r.key: r for r in readings}, mark=mark(steps, at))


@st.composite
def stretches(draw):
    start, length = draw(st.floats(0, 1e6)), draw(st.floats(0.5, 60))
    moments = sorted(draw(st.lists(st.floats(0, 1), max_size=30)))
    steps = sorted(draw(st.lists(st.integers(0, 100), min_size=len(moments), max_size=len(moments))))
    transitions = [
        Transition(start + share * length, draw(PHASES), mark(step, start + share * length))
        for share, step in zip(moments, steps, strict=True)
    ]
    return snapshot(start, 0), snapshot(start + length, 100), transitions


@given(stretches())
def test_pieces_join_and_cover_everything_between_two_reads(stretch):
    before, after, transitions = stretch

    for pieces in (cut(before, after, "train", transitions), merged(cut(before, after, "train", transitions))):
        assert pieces[0].start_s == before.monotonic_s
        assert pieces[-1].end_s == pytest.approx(after.monotonic_s)
        assert all(a.end_s == b.start_s for a, b in pairwise(pieces))
        assert sum(piece.end.steps - piece.start.steps for piece in pieces) == 100
        assert all(piece.duration_s > 0 for piece in pieces)


@given(stretches())
def test_merging_keeps_the_time_of_each_phase(stretch):
    before, after, transitions = stretch
    pieces = cut(before, after, "train", transitions)

    def by_phase(some):
        sums = {}
        for piece in some:
            sums[piece.phase] = sums.get(piece.phase, 0.0) + piece.duration_s
        return sums

    kept = by_phase(merged(pieces))
    for phase, length_s in by_phase(pieces).items():
        assert kept.get(phase, 0.0) == pytest.approx(length_s, abs=1e-9)
    assert len(merged(pieces)) <= MAX_PIECES


@given(stretches(), st.floats(0, 1e9), st.floats(0, 1e6))
def test_shares_of_the_energy_add_up(stretch, energy_j, more_j):
    before, after, transitions = stretch
    first, last = {"g": reading("g", energy_j)}, {"g": reading("g", energy_j + more_j)}
    length = after.monotonic_s - before.monotonic_s

    shares = [energies(first, last, p.duration_s / length)[0] for p in cut(before, after, "train", transitions)]

    assert sum(share.energy_j for share in shares) == pytest.approx(last["g"].energy_j - energy_j)


def test_share_of_a_reading_says_so():
    (whole,), (half,) = (energies({"g": reading("g", 0)}, {"g": reading("g", 10)}, share) for share in (1.0, 0.5))

    assert (whole.energy_j, whole.note) == (10, None)
    assert (half.energy_j, half.note) == (5, APPORTIONED)


def test_absent_device_has_no_energy_and_is_never_zero():
    lost = reading("g", 7.0, kind="absent", fault="lost", message="g is lost")

    assert energies({"g": reading("g", 7)}, {"g": lost}, 1.0)[0].energy_j is None
    assert energies({}, {"g": reading("g", 7)}, 1.0) == []  # it begins at the end of this window


def test_a_device_that_had_nothing_to_say_yet_has_counted_nothing():
    assert energies({"g": reading("g", None)}, {"g": reading("g", 7)}, 1.0)[0].energy_j == 7


def test_what_is_estimated_is_named_and_taken_back_when_it_is_measured():
    steps = [reading("g", joules, estimated_j=part) for joules, part in ((0, 0), (100, 100), (120, 0), (150, 0))]
    found = [energies({"g": first}, {"g": last}, 0.5)[0] for first, last in pairwise(steps)]

    assert [one.energy_j for one in found] == [50, 10, 15]
    assert [one.estimated_j for one in found] == [50, -50, None]


def test_device_that_answers_again_brings_the_energy_of_the_gap():
    held = reading("g", 100.0, kind="absent")

    (energy,) = energies({"g": held}, {"g": reading("g", 250)}, 1.0)

    assert (energy.energy_j, energy.kind) == (150, "counter")


def test_range_of_a_window_is_that_of_its_own_energy():
    first = reading("g", 100, energy=Range(100, 95, 105))
    last = reading("g", 200, energy=Range(200, 190, 210))

    (energy,) = energies({"g": first}, {"g": last}, 1.0)

    assert (energy.low_j, energy.energy_j, energy.high_j) == (95, 100, 105)


def test_change_that_was_noted_while_reading_belongs_to_the_edge():
    before, after = snapshot(10.0, 5), snapshot(20.0, 9)
    late = Transition(20.5, "evaluation", mark(9, 20.4))

    pieces = cut(before, after, "train", [late])

    assert [(piece.phase, piece.end_s) for piece in pieces] == [("train", 20.0)]


WATTS = {"a": 300.0, "b": 400.0, "host": 100.0}
"""Two GPUs and a host."""


def hung(slow: str | None) -> tuple[Snapshot, Snapshot]:
    """Return two rounds of readings: all devices at 0 s, and one after the other from 10 s on, when the reading of one
    may take 2 s.
    """
    clock_s, readings = 10.0, []
    for key, power_w in WATTS.items():
        clock_s += 2.0 if key == slow else 0.0
        energy_j = power_w * clock_s
        energy = Range(energy_j, 0.9 * energy_j, 1.2 * energy_j)
        readings.append(reading(key, energy_j, monotonic_s=clock_s, energy=energy))
    moment_s = moment_of(readings, ["a", "b"])
    assert moment_s is not None
    before = snapshot(0.0, 0, *(reading(key, 0.0) for key in WATTS))
    return before, aligned(before, snapshot(moment_s, 10, *readings))


@pytest.mark.parametrize(("slow", "moment_s"), [(None, 10.0), ("a", 12.0), ("b", 10.0)])
def test_devices_of_a_window_are_set_against_the_same_time_when_a_gpu_hangs(slow, moment_s):
    before, after = hung(slow)

    assert after.monotonic_s == moment_s
    for energy in energies(before.readings, after.readings, 1.0):
        expected_j = WATTS[energy.key] * moment_s
        assert (energy.energy_j, energy.low_j, energy.high_j) == pytest.approx(
            (expected_j, 0.9 * expected_j, 1.2 * expected_j)
        )


@pytest.mark.parametrize("late_s", [0.0, 0.3, 3.0])
def test_device_that_was_first_read_late_has_used_what_it_drew_since_the_moment_of_the_read(late_s):
    lates_s = {key: late_s if key == "b" else 0.0 for key in WATTS}
    first = snapshot(50.0, 0, *(reading(key, 0.0, monotonic_s=50.0 + late) for key, late in lates_s.items()))
    readings = (reading(key, WATTS[key] * (10.0 - late), monotonic_s=60.0) for key, late in lates_s.items())
    then = snapshot(60.0, 10, *readings)

    for energy in energies(at_its_moment(first, then).readings, then.readings, 1.0):
        assert energy.energy_j == pytest.approx(WATTS[energy.key] * 10.0)


def test_what_a_hang_delayed_is_in_the_next_window():
    before, after = hung("b")
    later = snapshot(20.0, 20, *(reading(key, watts * 20.0) for key, watts in WATTS.items()))

    for first, second in zip(
        energies(before.readings, after.readings, 1.0), energies(after.readings, later.readings, 1.0), strict=True
    ):
        assert first.energy_j + second.energy_j == pytest.approx(WATTS[first.key] * 20.0)


def test_sample_of_a_meter_that_asks_by_itself_keeps_its_moment():
    before = snapshot(0.0, 0, reading("a", 0.0), reading("node", 0.0))
    readings = [reading("a", 3000.0, monotonic_s=10.0), reading("node", 500.0, monotonic_s=5.0)]

    assert moment_of(readings, ["a"]) == 10.0
    assert aligned(before, snapshot(10.0, 10, *readings)) == snapshot(10.0, 10, *readings)
