"""What the GPUs have used since a process began, told by readings of a moment at which it was held up."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from carbon_plugin.meters.gpu.driver import Inventory
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor.clock import TrainingClock
from carbon_plugin.monitor.node import baseline
from carbon_plugin.spec.numbers.range import Range

POWER_W = 300.0


class Meter:
    """A meter of two GPUs whose readings come at the given moments, s."""

    def __init__(self, *moments_s: float, late_s: float = 0.0, apart_s: float = 0.0) -> None:
        self.shown = Inventory(driver_version="1", gpus=())
        self._moments_s = iter(moments_s)
        self._late_s, self._apart_s = late_s, apart_s

    def read(self) -> list[Reading]:
        """Return the readings of the next moment. The first ones may be late, and that of the second GPU may come some
        seconds after that of the first one."""
        at_s, late_s, apart_s = next(self._moments_s), self._late_s, self._apart_s
        self._late_s = self._apart_s = 0.0
        return [replace(one, late_s=late_s) for one in (counted(at_s), replace(counted(at_s + apart_s), key="GPU-1"))]


def counted(at_s: float, since_s: float = 0.0) -> Reading:
    """Return a reading of the energy since a moment, s."""
    return Reading(key="GPU-0", monotonic_s=at_s, energy=Range.exactly(POWER_W * (at_s - since_s)), kind="counter")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch):
    def begin(meter: Meter) -> baseline.Baseline:
        monkeypatch.setattr(baseline, "_open", lambda: meter)
        return baseline.Baseline(TrainingClock(lambda: None, 1.0))

    return begin


def test_time_between_the_readings_of_two_meters_is_not_used_before_the_start(begun):
    first = begun(Meter(10.0, 15.0))

    (start,) = first.from_start([counted(13.0, since_s=12.0)])  # the process was held up for two seconds after it

    assert start.monotonic_s == 10.0
    assert start.energy.value == pytest.approx(-2.0 * POWER_W)


def test_a_first_reading_that_was_late_stays_so(begun):
    first = begun(Meter(10.0, 13.0, late_s=1.5))

    (start,) = first.from_start([counted(13.0)])

    assert start.late_s == 1.5


def test_gpu_that_was_first_read_late_counts_from_its_own_first_reading(begun):
    first = begun(Meter(10.0, 15.0, apart_s=2.0))  # the process was held up between the two

    starts = first.from_start([counted(13.0), replace(counted(13.0), key="GPU-1")])

    assert first.start_s == 10.0
    assert [(start.monotonic_s, start.energy.value) for start in starts] == [
        (10.0, pytest.approx(10.0 * POWER_W)),
        (12.0, pytest.approx(12.0 * POWER_W)),
    ]


def test_gpu_that_the_driver_shows_no_more_is_taken_to_have_drawn_its_power_since_its_own_first_reading(
    begun, monkeypatch: pytest.MonkeyPatch
):
    meter = Meter(10.0, 15.0, apart_s=2.0)
    first = begun(meter)
    monkeypatch.setattr(meter, "read", list)

    (start,) = first.from_start([replace(counted(13.0), key="GPU-1", power_w=POWER_W)])

    assert (start.monotonic_s, start.energy.value) == (12.0, pytest.approx(12.0 * POWER_W))
