"""A process that is stopped between the call of a counter and its look at the clock: the sum stays right, and the
windows on both sides say how far they may be off."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from carbon_plugin.ledger.records import DeviceEnergy
from carbon_plugin.meters.gate import ReadingGate
from carbon_plugin.meters.gpu.board_reader import BoardReader
from carbon_plugin.meters.gpu.boards import Board
from carbon_plugin.meters.gpu.driver import Gpu
from carbon_plugin.meters.host.rapl import open_rapl_meter
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.monitor.node.windows import energies

GPU = Gpu(
    index=0, uuid="GPU-0", name="H100", minor=0, compute_capability=(9, 0), power_limit_w=700.0, memory_bytes=None
)
BOARD = Board(gpu=GPU, scope=None, counter=True, power=True, module=False)
POWER_W = 400.0
ENDS_S = (10.0, 20.0, 30.0)
"""The moments at which windows end."""


class StoppedProcess:
    """A clock and a driver. The process is stopped after a call of the counter for as long as `stops_s` says, by the
    number of the call."""

    def __init__(self, stops_s: dict[int, float]) -> None:
        self.now_s, self.calls, self._stops_s = 0.0, 0, stops_s

    def energy_j(self, uuid: str, scope: str | None) -> float:
        told_j = POWER_W * self.now_s
        self.now_s += self._stops_s.get(self.calls, 0.0)
        self.calls += 1
        return told_j

    def power_w(self, uuid: str, scope: str | None) -> float:
        return POWER_W


def windows(stops_s: dict[int, float], ends_s: Sequence[float]) -> list[DeviceEnergy]:
    process = StoppedProcess(stops_s)
    driver: Any = process
    reader = BoardReader(driver, [BOARD], lambda: process.now_s, slow_call_s=1.0)
    gate = ReadingGate({GPU.uuid: BOARD.bounds})
    readings: list[Reading] = []
    for end_s in (0.0, *ends_s):
        process.now_s = max(end_s, process.now_s)
        asked_s = process.now_s
        reader.sample_all()
        readings += gate.admit(reader.readings(asked_s, process.now_s, 0.0)[1])
    return [energies({"GPU-0": before}, {"GPU-0": after}, 1.0)[0] for before, after in pairwise(readings)]


@pytest.mark.parametrize("stop_s", [0.08, 5.0, 60.0])
@pytest.mark.parametrize("call", [0, 1])
def test_energy_of_all_windows_together_is_that_of_the_counter(stop_s: float, call: int) -> None:
    last_s = ENDS_S[-1] + 60

    found = windows({call: stop_s}, (*ENDS_S, last_s))

    assert sum(one.energy_j or 0.0 for one in found) == pytest.approx(POWER_W * last_s)
    assert {one.kind for one in found} == {"counter"}


def test_windows_on_both_sides_say_how_far_they_may_be_off() -> None:
    shifted_j = 2.0 * POWER_W

    before, after, later = windows({1: 2.0}, ENDS_S)

    assert before.energy_j == pytest.approx(10 * POWER_W)
    assert (before.high_j or 0.0) >= 12 * POWER_W  # it lasted 12 s
    assert after.energy_j == pytest.approx(10 * POWER_W)
    assert (after.low_j or 0.0) <= after.energy_j - shifted_j  # it lasted 8 s
    assert (later.low_j, later.high_j) == pytest.approx((0.95 * 10 * POWER_W, 1.05 * 10 * POWER_W))


def test_counter_of_a_package_that_was_read_long_before_its_moment_counts_as_well(tmp_path) -> None:
    domain = tmp_path / "intel-rapl:0"
    domain.mkdir()
    counter = domain / "energy_uj"
    (domain / "name").write_text("package-0")
    (domain / "max_energy_range_uj").write_text(str(10**15))
    counter.write_text("0")
    now = SimpleNamespace(s=0.0, late_s=0.0, looks=0)

    def clock() -> float:
        """Return the time, which goes on by `late_s` when the reading and its counter have looked at the clock."""
        now.looks += 1
        return float(now.s + (now.late_s if now.looks > 2 else 0.0))

    meter, _ = open_rapl_meter("host", root=tmp_path, clock=clock)
    assert meter is not None
    told = []
    for at_s, late_s in ((1.0, 0.0), (11.0, 300.0), (321.0, 0.0)):
        counter.write_text(str(int(at_s * 200e6)))
        now.s, now.late_s, now.looks = at_s, late_s, 0
        told.append(meter.read()[0])

    assert told[1].late_s == pytest.approx(300.0)
    assert (told[2].energy_j or 0.0) - (told[0].energy_j or 0.0) == pytest.approx(320 * 200.0)
    assert told[2].fault is None
