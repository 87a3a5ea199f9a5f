"""RAPL through folders shaped like the kernel's powercap tree, and a clock that moves only when told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.meters.gate import ReadingGate
from carbon_plugin.meters.host.rapl import Platform, RaplMeter, open_rapl_meter
from carbon_plugin.meters.host.rapl_domains import find_domains
from carbon_plugin.meters.host.share import HostShare, fixed
from carbon_plugin.meters.protocol import Reading, Unavailable
from carbon_plugin.spec.numbers.range import Range

WRAP_J = 262_143.328850
MACHINE = Platform(cpu_tdp=Range(200.0, 100.0, 400.0), dram=Range(20.0, 10.0, 40.0))


class Machine:
    """A powercap tree in a folder, its clock, and files that only root can read (root runs these tests too)."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.now_s = 1000.0
        self.denied: set[Path] = set()
        self.meter: RaplMeter | None = None
        self.problems: list[Unavailable] = []
        self._gate: ReadingGate | None = None
        real = Path.read_text

        def read_text(path: Path, *arguments: str, **options: str) -> str:
            if path in self.denied:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(Path, "read_text", read_text)

    def add(self, folder: str, name: str, joules: float = 0.0, wrap_j: float | None = WRAP_J) -> Path:
        """Add a domain. Without `wrap_j` only root can read its range."""
        path = self.root / folder
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{(wrap_j or 0) * 1e6:.0f}\n")
        if wrap_j is None:
            self.denied.add(path / "max_energy_range_uj")
        self.shows(path, joules)
        return path

    def shows(self, path: Path, joules: float) -> None:
        (path / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")

    def open(self, share: float = 1.0) -> RaplMeter | None:
        charged = HostShare(part=Range.exactly(share), sentence="for the test")
        self.meter, self.problems = open_rapl_meter(
            "boot-1",
            root=self.root,
            platform=MACHINE,
            share=fixed(charged),
            note=None if share == 1 else f"{share} of the host",
            clock=lambda: self.now_s,
        )
        if self.meter is not None:
            self._gate = ReadingGate(self.meter.bounds, peers={d.key: d.scope for d in self.meter.devices})
            self.read(0.0)
        return self.meter

    def read(self, after_s: float) -> dict[str, Reading]:
        """Return the readings some seconds later, as the gate admits them, by the name of the domain."""
        assert self.meter is not None
        assert self._gate is not None
        self.now_s += after_s
        readings = self._gate.admit(self.meter.read())
        return {reading.key.partition("rapl-")[2]: reading for reading in readings}

    @property
    def reasons(self) -> dict[str, str]:
        return {problem.kind: problem.reason for problem in self.problems}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_packages_and_dram_are_read_and_nothing_that_overlaps_them(machine: Machine) -> None:
    (machine.root / "intel-rapl").mkdir()  # the control type, which has no counter
    for package in (0, 1):
        machine.add(f"intel-rapl:{package}", f"package-{package}")
        machine.add(f"intel-rapl:{package}:0", "core")
        machine.add(f"intel-rapl:{package}:1", "uncore")
        machine.add(f"intel-rapl:{package}:2", "dram")
    machine.add("intel-rapl:2", "psys")
    meter = machine.open()
    assert meter is not None
    assert {(device.key, device.scope) for device in meter.devices} == {
        ("boot-1/rapl-package-0", "package"),
        ("boot-1/rapl-package-1", "package"),
        ("boot-1/rapl-dram-0", "dram"),
        ("boot-1/rapl-dram-1", "dram"),
    }
    assert {device.rung for device in meter.devices} == {"host"}
    assert {device.energy_kind for device in meter.devices} == {"counter"}
    assert machine.problems == []


def test_a_package_that_shows_as_mmio_and_as_msr_counts_once(machine: Machine) -> None:
    machine.add("intel-rapl:0", "package-0")
    machine.add("intel-rapl:0:0", "dram")
    machine.add("intel-rapl-mmio:0", "package-0")
    domains = {one.label: one.folder.name for one in find_domains(machine.root).domains}
    assert domains == {"package-0": "intel-rapl-mmio:0", "dram-0": "intel-rapl:0:0"}


def test_where_the_mmio_counter_is_for_root_only_the_msr_one_is_read(machine: Machine) -> None:
    msr = machine.add("intel-rapl:0", "package-0")
    mmio = machine.add("intel-rapl-mmio:0", "package-0")
    machine.denied.add(mmio / "energy_uj")
    machine.open()
    machine.shows(msr, 500.0)
    assert machine.read(5.0)["package-0"].energy_j == pytest.approx(500)
    assert machine.problems == []


def test_energy_is_what_was_counted_since_the_meter_opened(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0", 7.0)
    machine.open()
    machine.shows(package, 507.0)
    reading = machine.read(5.0)["package-0"]
    assert (reading.energy_j, reading.kind, reading.fault) == (pytest.approx(500), "counter", None)
    assert (reading.energy.low, reading.energy.high) == (pytest.approx(475), pytest.approx(525))


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(1, 700)), min_size=1, max_size=30))
def test_a_counter_that_wraps_goes_on(
    tmp_path_factory: pytest.TempPathFactory, stretches: list[tuple[float, float]]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        machine = Machine(tmp_path_factory.mktemp("powercap"), monkeypatch)
        start_j = joules = WRAP_J - 500.0
        package = machine.add("intel-rapl:0", "package-0", start_j)
        machine.open()
        for seconds, watts in stretches:
            joules += seconds * watts
            machine.shows(package, joules % WRAP_J)
            reading = machine.read(seconds)["package-0"]
            assert (reading.kind, reading.fault) == ("counter", None)
        assert reading.energy_j == pytest.approx(joules - start_j, abs=1e-3)


def test_a_counter_is_looked_at_often_enough_that_a_wrap_cannot_be_taken_for_a_reset(machine: Machine) -> None:
    machine.add("intel-rapl:0", "package-0")
    meter = machine.open()
    assert meter is not None
    assert meter.poll_interval_s == 10.0
    machine.add("intel-rapl:0:0", "dram", wrap_j=400.0)
    meter = machine.open()
    assert meter is not None
    assert meter.poll_interval_s == pytest.approx(400 / 80)


def test_a_counter_that_starts_again_is_a_fault_and_the_stretch_is_estimated(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0", 120_000.0)
    machine.open()
    readings = []
    for second in range(1, 33):
        machine.shows(package, 120_000.0 + 100 * second if second <= 15 else 2_500.0 + 100 * (second - 15))
        readings.append(machine.read(1.0)["package-0"])
    last = readings[-1]
    assert last.energy_j == pytest.approx(3_200)
    assert last.energy is not None
    assert last.energy.low < 3_200 < last.energy.high < 3_800
    (reset,) = (reading for reading in readings if reading.fault)
    assert (reset.fault, reset.kind) == ("counter_reset", "modelled")
    assert reset.message is not None
    assert "went back from 121500 J to 2600 J" in reset.message
    assert f"({package}/energy_uj)" in reset.message
    assert "its energy is estimated at 100 W" in reset.message
    assert last.estimated_j == pytest.approx(100)


def test_a_counter_that_goes_back_by_a_trifle_adds_nothing_and_says_so(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0", 5_000.0)
    machine.open()
    machine.shows(package, 5_100.0)
    machine.read(1.0)
    machine.shows(package, 5_099.999)
    back = machine.read(0.1)["package-0"]
    assert (back.fault, back.energy_j) == ("counter_back", pytest.approx(100))
    machine.shows(package, 5_200.0)
    assert machine.read(0.9)["package-0"].energy_j == pytest.approx(200)


def test_a_counter_that_drifts_back_again_and_again_stays_near_the_truth(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0-die-0", 65_000.0, wrap_j=65_536.0)
    machine.open()
    shown_j = 65_000.0
    for second in range(1, 41):
        shown_j += 10.0 if second % 10 else -4.0
        machine.shows(package, shown_j)
        reading = machine.read(1.0)["package-0-die-0"]
    assert reading.energy_j == pytest.approx(400, rel=0.15)
    assert reading.energy is not None
    assert reading.energy.high < 1_000


def test_a_jump_that_no_package_can_draw_is_refused(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0", 0.0)
    machine.open()
    for second, joules in enumerate((100.0, 200.0, 50_000.0, 50_100.0), start=1):
        machine.shows(package, joules)
        reading = machine.read(1.0)["package-0"]
        assert (reading.fault == "counter_jump") == (second == 3)
    assert reading.energy_j == pytest.approx(400)


def test_dies_that_show_one_counter_of_their_socket_count_once(machine: Machine) -> None:
    dies = [machine.add(f"intel-rapl:{die}", f"package-0-die-{die}", 9_000.0) for die in (0, 1)]
    meter = machine.open()
    for second in range(1, 11):
        for die in dies:
            machine.shows(die, 9_000.0 + 68.0 * second)
        readings = machine.read(1.0)
    assert {name: reading.energy_j for name, reading in readings.items()} == {"package-0": pytest.approx(680)}
    assert meter is not None
    assert meter.devices[0].note == "package-0-die-0 shows the same counter, which counts once"


@pytest.mark.parametrize("start_j", [(9_000.0, 4_000.0), (0.0, 0.0)], ids=["from the start", "later"])
def test_dies_with_counters_of_their_own_add_up(machine: Machine, start_j: tuple[float, float]) -> None:
    dies = [machine.add(f"intel-rapl:{die}", f"package-0-die-{die}", start_j[die]) for die in (0, 1)]
    machine.open()
    for second in range(1, 11):
        for die, watts in ((0, 30.0), (1, 38.0)):
            machine.shows(dies[die], start_j[die] + watts * second)
        readings = machine.read(1.0)
    assert sum(reading.energy_j or 0.0 for reading in readings.values()) == pytest.approx(680)


def test_a_counter_that_never_moves_is_a_fault_and_is_estimated(machine: Machine) -> None:
    machine.add("intel-rapl:0", "package-0", 5_000.0)
    machine.open()
    readings = [machine.read(2.0)["package-0"] for _ in range(10)]
    last = readings[-1]
    assert (last.fault, last.kind) == ("counter_stuck", "modelled")
    assert last.message is not None
    assert "has stood still for 20.0 s" in last.message
    assert last.energy_j == pytest.approx(last.estimated_j) == pytest.approx(20 * (10 + 480) / 2)
    assert (last.energy.low, last.energy.high) == (pytest.approx(20 * 10), pytest.approx(20 * 480))


def test_a_socket_that_stops_is_thought_to_draw_what_it_drew_as_the_other_does(machine: Machine) -> None:
    sockets = [machine.add(f"intel-rapl:{one}", f"package-{one}", 0.0) for one in (0, 1)]
    machine.open()
    for second in range(1, 21):
        machine.shows(sockets[0], 100.0 * min(second, 8))
        machine.shows(sockets[1], 50.0 * min(second, 8) + 25.0 * max(0, second - 8))
        readings = machine.read(1.0)
    stopped = readings["package-0"]
    assert (stopped.fault, stopped.kind) == ("counter_stuck", "modelled")
    assert stopped.message is not None
    assert "estimated at 50 W" in stopped.message
    assert stopped.energy_j == pytest.approx(800 + 12 * 50, rel=0.1)


@pytest.mark.parametrize("wrap_j", [0.0, None], ids=["zero", "for root only"])
def test_a_counter_whose_range_nobody_tells_is_metered_and_its_wrap_is_a_fault(
    machine: Machine, wrap_j: float | None
) -> None:
    package = machine.add("intel-rapl:0", "package-0", 1_000.0, wrap_j=wrap_j)
    machine.open()
    for joules in (1_100.0, 1_200.0, 50.0, 150.0):
        machine.shows(package, joules)
        reading = machine.read(1.0)["package-0"]
    assert reading.energy_j == pytest.approx(400)
    assert reading.estimated_j == pytest.approx(100)
    assert f"package-0: {package}/max_energy_range_uj" in machine.reasons["rapl_range"]


def test_one_socket_for_root_only_is_named_with_its_file_and_the_other_is_metered(machine: Machine) -> None:
    open_one = machine.add("intel-rapl:0", "package-0", 0.0)
    shut = machine.add("intel-rapl:1", "package-1", 0.0)
    machine.denied.add(shut / "energy_uj")
    machine.open()
    machine.shows(open_one, 500.0)
    assert {name: one.energy_j for name, one in machine.read(5.0).items()} == {"package-0": pytest.approx(500)}
    (problem,) = machine.problems
    assert problem.kind == "rapl_permission"
    assert f"package-1: {shut}/energy_uj cannot be read: Permission denied" in problem.reason
    assert problem.advice is not None
    assert f"chmod a+r {shut}/energy_uj" in problem.advice


def test_a_shared_host_is_charged_by_its_share(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0")
    meter = machine.open(share=0.25)
    machine.shows(package, 400.0)
    assert machine.read(5.0)["package-0"].energy_j == pytest.approx(100)
    assert meter is not None
    assert meter.devices[0].note == "0.25 of the host"


def test_a_folder_without_rapl_is_a_reason(tmp_path: Path) -> None:
    meter, problems = open_rapl_meter("boot-1", root=tmp_path / "missing")
    assert meter is None
    assert [problem.kind for problem in problems] == ["rapl_absent"]


def test_counters_for_root_only_are_a_reason_with_the_command_that_helps(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0")
    machine.denied.add(package / "energy_uj")
    assert machine.open() is None
    (problem,) = machine.problems
    assert problem.kind == "rapl_permission"
    assert problem.advice is not None
    assert f"chmod a+r {package}/energy_uj" in problem.advice


def test_a_counter_that_becomes_unreadable_is_estimated_and_covered_when_it_answers_again(machine: Machine) -> None:
    package = machine.add("intel-rapl:0", "package-0")
    machine.open()
    machine.shows(package, 900.0)
    machine.read(9.0)
    machine.denied.add(package / "energy_uj")
    lost = machine.read(10.0)["package-0"]
    assert (lost.kind, lost.fault) == ("modelled", "permission")
    assert (lost.energy_j, lost.estimated_j) == (pytest.approx(1_900), pytest.approx(1_000))
    machine.denied.clear()
    machine.shows(package, 2_500.0)
    again = machine.read(5.0)["package-0"]
    assert (again.kind, again.fault, again.energy_j, again.estimated_j) == ("counter", None, pytest.approx(2_500), 0.0)


def test_a_closed_meter_reads_nothing(machine: Machine) -> None:
    machine.add("intel-rapl:0", "package-0")
    meter = machine.open()
    assert meter is not None
    meter.close()
    meter.close()
    assert meter.read() == []
