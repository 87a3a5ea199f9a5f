"""Faults of GPUs, all in one job on a simulated machine with a GPU for each: what is recorded against what was drawn.

The meters are read every two seconds, as windows do every ten, and the times of faults count from the second read on,
so that each begins between two reads. Recorded energy is right within five percent, or the truth lies in the stated
range; and whatever is not measured says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Fault(NamedTuple):
    """Faults of one GPU, the code that its readings must show, and whether only the range must hold the truth."""

    spec: str
    code: str
    in_range: bool = False


FAULTS = {
    "jumps by 100 kJ": Fault("offset@0.7=1e5", "counter_jump"),
    "jumps by 1 GJ": Fault("offset@0.7=1e9", "counter_jump"),
    "reads 2^64-1 for 6 s": Fault("counter_reads@0.7-6.7=1e30", "counter_jump"),
    "reads 0 for 6 s": Fault("counter_reads@0.7-6.7=0", "counter_reset"),
    "goes back for 6 s and returns": Fault("offset@0.7-6.7=-5e5", "counter_reset"),
    "goes back by 2 kJ": Fault("offset@0.7=-2000", "counter_reset"),
    "goes back by less than a window": Fault(
        "offset@0.7=-500,{gpu}:offset@4.7=-500", "counter_disagrees", in_range=True
    ),
    "resets three times in a window": Fault("reset@0.4,{gpu}:reset@0.8,{gpu}:reset@1.2", "counter_reset"),
    "sticks within a window": Fault("stuck@0.7", "counter_stuck"),
    "disagrees with the power all run": Fault("power_reads=520", "counter_disagrees", in_range=True),
    "no counter, power garbage for 1.2 s": Fault("no_counter,{gpu}:power_reads@1.2-3.2=3.7e6", "power_implausible"),
    "no counter, power garbage always": Fault("no_counter,{gpu}:power_reads=4e6", "power_implausible", in_range=True),
    "power garbage and a counter reset": Fault(
        "power_reads@0.7-6.7=4e6,{gpu}:reset@2.7", "counter_reset", in_range=True
    ),
    "lost for 6 s": Fault("lost@0.7-6.7", "lost"),
    "lost for good": Fault("lost@0.7", "lost", in_range=True),
    "sticks, and power is 0 W": Fault("stuck@0.7,{gpu}:power_reads@0.7=0", "counter_stuck", in_range=True),
    "sticks, and tells no power": Fault("no_power,{gpu}:stuck@0.7", "counter_stuck", in_range=True),
    "no counter, and power is 0 W": Fault("no_counter,{gpu}:power_reads=0", "power_implausible", in_range=True),
    "no fault": Fault("throttle=1", ""),
}

SCRIPT = """
meters = open_meters(JobPart(include_host=False), boot_id="boot-1")
rounds = [meters.read()]
for number in range(6):
    wait(2)
    rounds.append(meters.read())
    arm()
show(rounds)
"""


class Metered(NamedTuple):
    """The readings of one GPU, and the joules that it drew between the first and the last of them."""

    readings: list[dict[str, Any]]
    true_j: float

    def recorded(self, field: str = "energy_j") -> float:
        return float(self.readings[-1][field] - self.readings[0][field])


@pytest.fixture(scope="module")
def metered(metering_module: Callable[..., Any]) -> dict[str, Metered]:
    watts = [300 if gpu % 2 == 0 else 400 for gpu in range(len(FAULTS))]
    faults = ",".join(f"{gpu}:{fault.spec.format(gpu=gpu)}" for gpu, fault in enumerate(FAULTS.values()))
    spec = f"gpus={len(FAULTS)};power={','.join(map(str, watts))};fault={faults}"
    rounds = metering_module(spec, SCRIPT)
    found = {}
    for gpu, name in enumerate(FAULTS):
        readings = [one[gpu] for one in rounds]
        seconds = readings[-1]["monotonic_s"] - readings[0]["monotonic_s"]
        found[name] = Metered(readings, watts[gpu] * seconds)
    return found


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if not fault.in_range])
def test_recorded_energy_is_within_five_percent_of_the_truth(metered: dict[str, Metered], name: str) -> None:
    assert metered[name].recorded() / metered[name].true_j == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", FAULTS)
def test_the_truth_lies_in_the_stated_range(metered: dict[str, Metered], name: str) -> None:
    one = metered[name]
    assert one.recorded("low_j") <= one.true_j * 1.005
    assert one.recorded("high_j") >= one.true_j * 0.995


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.code])
def test_every_fault_is_named_with_a_sentence(metered: dict[str, Metered], name: str) -> None:
    told = {reading["fault"]: reading["message"] for reading in metered[name].readings if reading["fault"]}
    assert FAULTS[name].code in told
    assert all(told.values())


def test_without_a_fault_nothing_is_told_and_nothing_estimated(metered: dict[str, Metered]) -> None:
    readings = metered["no fault"].readings
    assert {reading["fault"] for reading in readings} == {None}
    assert {reading["estimated_j"] for reading in readings} == {0}
    assert {reading["kind"] for reading in readings} == {"counter"}


@pytest.mark.parametrize("name", ["lost for good", "no counter, power garbage always"])
def test_what_no_meter_tells_is_labelled_and_stands_apart_in_the_total(metered: dict[str, Metered], name: str) -> None:
    last = metered[name].readings[-1]
    assert last["kind"] == "modelled"
    assert "its energy is estimated at" in last["message"]
    assert last["estimated_j"] > 0.5 * metered[name].recorded()


def test_a_gpu_that_answers_again_has_no_estimate_left(metered: dict[str, Metered]) -> None:
    readings = metered["lost for 6 s"].readings
    assert {"modelled", "counter"} == {reading["kind"] for reading in readings}
    assert max(reading["estimated_j"] for reading in readings) > 0
    assert readings[-1]["estimated_j"] == 0


def test_energy_never_falls_under_any_fault(metered: dict[str, Metered]) -> None:
    for one in metered.values():
        energies = [reading["energy_j"] for reading in one.readings]
        assert energies == sorted(energies)


def test_no_power_is_told_that_cannot_be(metered: dict[str, Metered]) -> None:
    powers = [r["power_w"] for one in metered.values() for r in one.readings if r["power_w"] is not None]
    assert max(powers) <= 700
