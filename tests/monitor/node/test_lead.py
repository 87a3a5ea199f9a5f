"""The time before the first reading of a driver that takes long to open: with its steps, its energy and its label."""

from __future__ import annotations

import pytest

from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor.clock import Mark
from carbon_plugin.monitor.node.lead import stretches
from carbon_plugin.monitor.node.windows import Snapshot
from carbon_plugin.spec.numbers.range import Range

START = Mark(0, 100.0, 0, 0)


def snapshot(moment_s: float, joules: float, kind: str = "counter", steps: int = 0) -> Snapshot:
    reading = Reading(key="GPU-1", monotonic_s=moment_s, energy=Range(joules, 0.9 * joules, 1.1 * joules), kind=kind)
    return Snapshot(monotonic_s=moment_s, readings={"GPU-1": reading}, mark=Mark(steps, moment_s, 0, 0))


def lead() -> Snapshot:
    return Snapshot(monotonic_s=100.0, readings={}, mark=START)


def estimate(_key: str) -> Range:
    return Range(350.0, 70.0, 700.0)


def test_a_driver_that_opens_in_an_instant_leaves_a_first_window_from_the_start_that_is_measured():
    (stretch,) = stretches(lead(), snapshot(100.5, 0.0), snapshot(110.5, 3000.0, steps=20), estimate)
    (energy,) = stretch.used(1.0)

    assert (stretch.before.monotonic_s, stretch.before.mark, stretch.after.mark.steps) == (100.0, START, 20)
    assert energy.energy_j == pytest.approx(3150)  # at the mean power of what was measured
    assert (energy.kind, energy.estimated_j) == ("counter", None)
    assert energy.low_j == pytest.approx(0.9 * 3150)


def test_what_was_drawn_before_a_late_first_reading_is_an_estimate_of_its_own():
    first, then = stretches(lead(), snapshot(106.0, 0.0, steps=9), snapshot(116.0, 3000.0, steps=30), estimate)
    (before,), (after,) = first.used(0.5), then.used(1.0)

    assert (first.before.monotonic_s, first.after.monotonic_s, first.after.mark.steps) == (100.0, 106.0, 9)
    assert (before.low_j, before.energy_j, before.high_j) == (70 * 3, 350 * 3, 700 * 3)
    assert (before.kind, before.estimated_j) == ("modelled", 1050)
    assert (after.kind, after.energy_j, after.estimated_j) == ("counter", 3000, None)


def test_what_is_modelled_all_the_time_has_the_range_of_its_model_before_its_first_reading_too():
    first, _ = stretches(lead(), snapshot(106.0, 0.0, "modelled"), snapshot(116.0, 3000.0, "modelled"), estimate)
    (energy,) = first.used(1.0)

    assert (energy.energy_j, energy.estimated_j) == (pytest.approx(1800), None)
    assert (energy.low_j, energy.high_j) == (pytest.approx(0.9 * 1800), pytest.approx(1.1 * 1800))


def test_a_training_that_ends_before_its_first_reading_has_all_of_its_time():
    ended = snapshot(103.0, 0.0, steps=5)
    (only,) = stretches(lead(), snapshot(106.0, 0.0), ended, estimate)
    (energy,) = only.used(1.0)

    assert (only.before.monotonic_s, only.after.monotonic_s, only.after.mark.steps) == (100.0, 103.0, 5)
    assert (energy.energy_j, energy.kind, energy.estimated_j) == (1050, "modelled", 1050)
