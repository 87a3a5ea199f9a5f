"""Comparison spans run between step boundaries, leave out warm-up and other phases, and interpolate the energy."""

from __future__ import annotations

from itertools import pairwise

import pytest

from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor.clock import Mark, Transition
from carbon_plugin.monitor.node.spans import SpanTracker
from carbon_plugin.monitor.node.windows import Snapshot, cut
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.options import SpanRule


class Loop:
    """A loop of equal steps at constant power, read every 10 s a little after a step ended."""

    def __init__(self, step_s: float, watts: float = 300.0, rule: SpanRule | None = None) -> None:
        self.step_s, self.watts = step_s, watts
        self.tracker = SpanTracker(rule or SpanRule(), ["gpu"])
        self.last = self.snapshot(0.0)
        self.phase = "train"

    def snapshot(self, at: float, *, kind: str = "counter") -> Snapshot:
        steps = int(at / self.step_s + 1e-9)
        reading = Reading(key="gpu", monotonic_s=at, energy=Range.exactly(self.watts * at), kind=kind)
        return Snapshot(monotonic_s=at, readings={"gpu": reading}, mark=Mark(steps, steps * self.step_s, 0, 0))

    def read(self, at: float, *transitions: Transition, kind: str = "counter"):
        before, self.last = self.last, self.snapshot(at, kind=kind)
        spans = self.tracker.observe(before, self.last, cut(before, self.last, self.phase, transitions))
        if transitions:
            self.phase = transitions[-1].phase
        return spans


def test_span_has_the_time_and_the_energy_of_its_steps():
    loop = Loop(0.3)

    (span,) = [span for at in (10.1, 20.1) for span in loop.read(at)]

    assert span.duration_s / span.steps == pytest.approx(0.3)
    assert span.gpu_energy_j / span.steps == pytest.approx(0.3 * 300)
    assert (span.first_step, span.last_step) == (34, 67)
    assert span.boundary_error_s == pytest.approx(0.6)


def test_next_span_begins_where_the_last_one_ended():
    loop = Loop(0.3)

    spans = [span for at in range(1, 10) for span in loop.read(10.1 * at)]

    assert len(spans) > 2
    assert all(a.last_step + 1 == b.first_step for a, b in pairwise(spans))


@pytest.mark.parametrize("step_s", [0.0007, 0.03, 0.3, 0.8, 0.97])
def test_each_window_of_ten_seconds_ends_a_span(step_s):
    loop = Loop(step_s)
    moments_s = [10 * number + late_s for number, late_s in zip(range(1, 20), [0.2, 0.0, 0.4, 0.1] * 5, strict=False)]

    spans = [loop.read(at) for at in moments_s]

    assert [len(found) for found in spans] == [0] + [1] * 18
    assert all(span.steps >= 10 and span.duration_s > 9 for (span,) in spans[1:])


def test_long_steps_need_three_of_them():
    loop = Loop(20.0, rule=SpanRule(warmup_steps=1))

    spans = [span for at in range(10, 200, 10) for span in loop.read(at + 0.5)]

    assert {span.steps for span in spans} == {3}
    assert spans[0].boundary_error_s == 2.0


def test_warm_up_is_left_out():
    loop = Loop(0.3, rule=SpanRule(warmup_steps=60))

    spans = [span for at in (10.1, 20.1, 30.1, 40.1) for span in loop.read(at)]

    assert min(span.first_step for span in spans) > 60


def test_evaluation_ends_a_span_and_the_next_begins_after_it():
    loop = Loop(0.5, rule=SpanRule(min_s=4, min_steps=5))
    loop.read(10.2)
    evaluation = (
        Transition(15.2, "evaluation", Mark(30, 15.0, 0, 0)),
        Transition(17.0, "train", Mark(30, 15.0, 0, 0)),
    )

    during = loop.read(20.2, *evaluation)
    after = loop.read(30.2)

    assert [(span.first_step, span.last_step) for span in during] == [(21, 30)]
    assert after[0].first_step == 31
    assert after[0].start_s == pytest.approx(16.8)  # 0.2 s of step 31 had gone by when the evaluation began


def test_what_a_step_did_before_an_evaluation_counts_towards_that_step():
    loop = Loop(1.0, rule=SpanRule(min_s=4, min_steps=4, warmup_steps=2))
    loop.read(5.1)
    loop.read(9.7, Transition(9.6, "evaluation", Mark(9, 9.0, 0, 0)))
    # The evaluation takes 8 s, in which no step ends: 0.6 s of step 10 lie before it, and 0.4 s after it.
    loop.last = Snapshot(monotonic_s=17.5, readings=loop.snapshot(17.5).readings, mark=Mark(9, 9.0, 0, 0))
    resumed = Snapshot(monotonic_s=22.1, readings=loop.snapshot(22.1).readings, mark=Mark(14, 22.0, 0, 0))
    back = [Transition(17.6, "train", Mark(9, 9.0, 0, 0))]

    (span,) = loop.tracker.observe(loop.last, resumed, cut(loop.last, resumed, "evaluation", back))

    assert (span.first_step, span.last_step) == (10, 14)
    assert span.duration_s / span.steps == pytest.approx(1.0)
    assert span.gpu_energy_j / span.steps == pytest.approx(300.0)


def test_waiting_for_data_is_part_of_a_step():
    loop = Loop(0.5, rule=SpanRule(min_s=4, min_steps=5))
    loop.read(10.2)
    waits = []
    for step in range(21, 40):
        waits.append(Transition(step / 2 + 0.1, "data_wait", Mark(step, step / 2, 0, 0)))
        waits.append(Transition(step / 2 + 0.2, "train", Mark(step, step / 2, 0, 0)))

    spans = loop.read(20.2, *waits)

    assert [span.steps for span in spans] == [8, 8]


def test_span_with_an_absent_gpu_has_time_but_no_energy():
    loop = Loop(0.3)
    loop.read(10.1)
    loop.read(15.1)

    (span,) = loop.read(21.1, kind="absent")

    assert span.gpu_energy_j is None
    assert span.duration_s > 0


def test_cpu_has_neither_gpu_energy_nor_a_queue():
    loop = Loop(0.3)
    loop.tracker = SpanTracker(SpanRule(), [])
    loop.read(10.1)

    (span,) = loop.read(25.1)

    assert (span.gpu_energy_j, span.boundary_error_s) == (None, 0.0)


def test_run_that_ends_before_a_span_is_long_enough_has_a_short_one_with_a_wider_error():
    loop = Loop(2.0)
    assert [span for at in (10.1, 16.1) for span in loop.read(at)] == []

    (span,) = loop.tracker.finish()

    assert span.short
    assert (span.first_step, span.last_step) == (6, 8)
    assert span.duration_s / span.steps == pytest.approx(2.0)
    assert span.gpu_energy_j / span.steps == pytest.approx(600)
    assert span.boundary_error_s == pytest.approx(2.0 + 2.0)
    assert loop.tracker.finish() == []


def test_stretches_that_an_evaluation_ends_are_short_spans_until_there_is_a_long_one():
    loop = Loop(1.0)
    loop.read(10.1)

    def evaluated(at: float):
        mark = Mark(int(at), float(int(at)), 0, 0)
        return Transition(at, "evaluation", mark), Transition(at + 0.5, "train", mark)

    (short,) = loop.read(20.1, *evaluated(15.2))
    (long,) = loop.read(30.1)

    assert (short.short, short.first_step, short.last_step) == (True, 11, 15)
    assert not long.short
    assert loop.read(40.1, *evaluated(35.2)) == []


def test_run_of_its_warm_up_only_has_no_span():
    loop = Loop(5.0)
    loop.read(10.1)

    assert loop.tracker.finish() == []
