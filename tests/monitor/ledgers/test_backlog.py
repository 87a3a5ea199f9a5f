"""Records that wait for a disk: bounded, in order, and none of their energy, time or steps is lost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.ledger.records import Close, DeviceEnergy, Event, Manifest, Window
from carbon_plugin.monitor.ledgers.backlog import Backlog, by_phase, thinned

PHASES = st.lists(st.sampled_from(["train", "train", "train", "evaluation", "checkpoint"]), max_size=60)


def manifest() -> Manifest:
    return Manifest(
        version=1, run_id="run", attempt=0, node=0, nodes=1, host_key="h", hostname="h", world_size=1,
        started_unix_s=0.0, reserved_since_unix_s=None, devices=[], effective={}, factors={}, versions={},
    )  # fmt: skip


def window(index: int, phase: str = "train", kind: str = "counter", start_s: float | None = None) -> Window:
    energy = DeviceEnergy(key="GPU", energy_j=100.0, kind=kind, high_j=110.0)
    return Window(
        index=index, phase=phase, start_unix_s=10.0 * index if start_s is None else start_s, duration_s=10.0,
        energies=[energy], steps=2, last_step=2 * (index + 1), tokens=5, intensity_g_per_kwh=50.0, pue=None,
    )  # fmt: skip


def written(backlog: Backlog) -> list:
    records = []
    while len(backlog):
        records.append(backlog.first())
        backlog.done()
    return records


@given(PHASES)
def test_a_backlog_that_overflows_keeps_every_joule_second_and_step(phases):
    backlog = Backlog(most=8)
    backlog.add(manifest())
    windows = [window(index, phase) for index, phase in enumerate(phases)]
    for one in windows:
        backlog.add(one)
        backlog.add(Event(at_unix_s=0.0, kind="fault", message="m"))

    records = written(backlog)
    kept = [record for record in records if isinstance(record, Window)]

    assert isinstance(records[0], Manifest)
    assert [one.index for one in kept] == list(range(len(kept)))
    assert math.fsum(one.energies[0].energy_j for one in kept) == 100.0 * len(windows)
    for phase in set(phases):
        seconds = sum(one.duration_s for one in kept if one.phase == phase)
        assert seconds == pytest.approx(10.0 * phases.count(phase))
    assert sum(one.steps for one in kept) == 2 * len(windows)
    assert [one.start_unix_s for one in kept] == sorted(one.start_unix_s for one in kept)


@pytest.mark.parametrize("phases", [["train"], ["train", "evaluation", "train", "checkpoint"]])
def test_memory_is_bounded_over_weeks(phases):
    backlog = Backlog(most=100)
    backlog.add(manifest())
    for index in range(5000):
        backlog.add(window(index, phases[index % len(phases)]))

    assert len(backlog) <= 100
    assert backlog.seconds == 50_000


def test_windows_are_numbered_and_counted_as_they_are_written():
    backlog = Backlog(most=4)
    for index in range(6):
        backlog.add(window(index))
    backlog.add(Close(at_unix_s=60.0, reason="closed", steps=12, windows=6, energy_j=600.0))

    *windows, close = written(backlog)

    assert close.windows == len(windows) < 6


def test_bounds_of_joined_windows_add_up():
    (both,) = by_phase([window(0), window(1)])

    assert (both.energies[0].energy_j, both.energies[0].low_j, both.energies[0].high_j) == (200.0, 200.0, 220.0)
    assert (both.duration_s, both.last_step, both.tokens) == (20.0, 4, 10)


def test_windows_that_differ_in_more_than_sums_stay_apart():
    assert len(by_phase([window(0), window(1, kind="modelled"), window(2, "evaluation")])) == 3
    assert len(thinned([window(0), window(1, start_s=3600.0)])) == 2


def test_phases_that_alternate_are_laid_one_after_the_other():
    train, evaluation = by_phase([window(index, ("train", "evaluation")[index % 2]) for index in range(7)])

    assert (train.start_unix_s, train.duration_s, evaluation.start_unix_s, evaluation.duration_s) == (0, 40, 40, 30)
    assert (train.last_step, evaluation.last_step) == (14, 14)
