"""Modelled meters: power over time with its range, and the host's overhead on what its GPUs draw."""

from __future__ import annotations

import os

import pytest

from carbon_plugin.meters.host.model_meter import CpuPower, GpuDraw, ModelledPart, ModelMeter, constant, with_overhead
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.spec.metered import DeviceIdentity, EnergyKind
from carbon_plugin.spec.numbers.range import Range

HOST = DeviceIdentity(key="boot/host", name="host", rung="host", scope="host", meter="model", energy_kind="modelled")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Load:
    """Core-seconds that the test has spent."""

    scope = "the test"

    def __init__(self) -> None:
        self.spent_s = 100.0

    def busy_s(self) -> float:
        return self.spent_s


def gpu(at_s: float, energy_j: float | None, kind: EnergyKind = "counter") -> Reading:
    energy = None if energy_j is None else Range(energy_j, 0.95 * energy_j, 1.05 * energy_j)
    return Reading(key="GPU-1", monotonic_s=at_s, energy=energy, kind=kind)


def test_constant_power_adds_up_with_its_range_and_is_labelled() -> None:
    clock = Clock()
    meter = ModelMeter([ModelledPart(HOST, constant(Range(100.0, 50.0, 200.0)))], clock)
    for clock.now_s in (10.0, 25.0):
        (reading,) = meter.read()
    assert (reading.energy.low, reading.energy_j, reading.energy.high) == (1250, 2500, 5000)
    assert (reading.kind, reading.power_w, reading.fault) == ("modelled", 100, None)


def test_two_reads_at_one_moment_add_nothing() -> None:
    clock = Clock()
    power = CpuPower(Load(), Range(100.0, 100.0, 100.0), 4, 1.0)
    meter = ModelMeter([ModelledPart(HOST, power)], clock)
    assert [meter.read()[0].energy_j for _ in range(2)] == [0, 0]


def test_cpu_power_follows_the_core_seconds_of_the_stretch() -> None:
    load = Load()
    power = CpuPower(load, Range(100.0, 100.0, 100.0), logical_cores=4, reserved_share=1.0)
    load.spent_s += 20
    assert power(10.0).value == pytest.approx(10 + 0.5 * 90)
    assert power(10.0).value == pytest.approx(10)


def test_overhead_is_charged_on_the_energy_of_the_gpus() -> None:
    draw = GpuDraw(unmetered=0, assumed_w=None)
    power = with_overhead(Range(2000.0, 1000.0, 3000.0), Range(0.10, 0.05, 0.20), draw)
    draw.observe([gpu(0, 0.0)])
    draw.observe([gpu(10, 7000.0)])
    assert power(10.0).value == pytest.approx(2000 + 0.10 * 700)
    assert power(10.0).value == pytest.approx(2000)


def test_a_gpu_that_cannot_be_read_counts_with_its_assumed_power_and_only_once() -> None:
    draw = GpuDraw(unmetered=0, assumed_w=500.0)
    for reading in (gpu(0, 0.0), gpu(10, 0.0, "absent"), gpu(20, 12_000.0)):
        draw.observe([reading])
    assert draw.power_since(20.0).value == pytest.approx(12_000 / 20)


def test_gpus_without_any_meter_count_with_their_assumed_power() -> None:
    assert GpuDraw(unmetered=8, assumed_w=500.0).power_since(10.0).value == pytest.approx(4000)
    assert GpuDraw(unmetered=8, assumed_w=None).power_since(10.0).value == 0


def test_a_forked_child_and_a_closed_meter_read_nothing() -> None:
    meter = ModelMeter([ModelledPart(HOST, constant(Range(1.0, 1.0, 1.0)))])
    pid = os.fork()
    if pid == 0:
        os._exit(len(meter.read()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    meter.close()
    assert meter.read() == []
