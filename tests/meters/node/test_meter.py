"""The meter of a node: what is left beside its GPUs, each joule once, whatever the source does."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.gate import ReadingGate
from carbon_plugin.meters.host.share import WHOLE, HostShare, ShareSource, fixed
from carbon_plugin.meters.node.address import parse_address
from carbon_plugin.meters.node.files import CsvSource, PmCountersSource
from carbon_plugin.meters.node.meter import GpuHistory, NodeMeter, open_node_meter
from carbon_plugin.meters.node.open import open_source
from carbon_plugin.meters.node.poller import NodePoller
from carbon_plugin.meters.node.source import NodeAnswer, NodeSource
from carbon_plugin.meters.protocol import Reading, Unavailable
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.numbers.range import ZERO, Range

BOUNDS = Bounds(ceiling_w=6000.0, limit_w=None, source="a node for the test", lag_s=30.0)
IDENTITY = DeviceIdentity(key="boot-1/host", name="host", rung="host", scope="", meter="", energy_kind="counter")


def ended(poller: NodePoller) -> None:
    """Close a poller and wait for the end of its thread."""
    poller.close()
    for thread in threading.enumerate():
        if thread.name == "carbon-plugin-node":
            thread.join(60.0)
            assert not thread.is_alive()


def asked_by_the_test(source: NodeSource, clock: Callable[[], float]) -> NodePoller:
    """Return a poller that has one answer, and whose thread has ended, so that the test decides when it asks again."""
    poller = NodePoller(source, BOUNDS, clock)
    ended(poller)
    return poller


class Counters:
    """The folder of a Cray node's counters, and a clock that moves only when told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 0.0
        self.pollers: dict[NodeMeter, NodePoller] = {}
        self.write(1000.0)

    def write(self, joules: float, watts: float = 1000.0) -> None:
        for name, value, unit in (("power", watts, "W"), ("energy", joules, "J")):
            file = self.folder / name
            file.with_suffix(".new").write_text(f"{value:.0f} {unit} 0 us\n")
            file.with_suffix(".new").replace(file)

    def clock(self) -> float:
        return self.now_s

    def meter(self, gpus: GpuHistory | None, share: HostShare = WHOLE) -> NodeMeter:
        source = PmCountersSource(parse_address(f"pm_counters://{self.folder}"))
        source.poll_s = 0.01
        return self.of(source, gpus, fixed(share))

    def of(self, source: NodeSource, gpus: GpuHistory | None, share: ShareSource) -> NodeMeter:
        poller = asked_by_the_test(source, self.clock)
        meter = NodeMeter(poller, IDENTITY, bounds=BOUNDS, share=share, gpus=gpus, clock=self.clock)
        self.pollers[meter] = poller
        return meter

    def asked(self, meter: NodeMeter) -> Reading:
        """Return the reading after one more answer of the source."""
        self.pollers[meter].ask_once()
        (reading,) = meter.read()
        return reading


@pytest.fixture
def counters(tmp_path: Path) -> Counters:
    return Counters(tmp_path)


def gpu(joules: float, at_s: float, key: str = "GPU-1") -> Reading:
    return Reading(key=key, monotonic_s=at_s, energy=Range(joules, 0.95 * joules, 1.05 * joules), kind="counter")


def test_the_host_is_what_the_node_draws_beside_its_gpus(counters: Counters) -> None:
    gpus = GpuHistory()
    gpus.observe([gpu(0.0, 0.0), gpu(0.0, 0.0, "GPU-2")])
    meter = counters.meter(gpus)
    gpus.observe([gpu(300.0, 10.0), gpu(300.0, 10.0, "GPU-2")])
    counters.now_s = 10.0
    counters.write(2000.0)
    reading = counters.asked(meter)
    assert reading.energy_j == pytest.approx(400.0)
    assert reading.kind == "counter"
    assert reading.energy.low == pytest.approx(400.0 - (50.0**2 + 30.0**2) ** 0.5)
    assert reading.energy.high == pytest.approx(400.0 + (50.0**2 + 30.0**2) ** 0.5)
    meter.close()


def test_a_share_of_the_host_has_its_own_range(counters: Counters) -> None:
    meter = counters.meter(None, HostShare(part=Range(0.5, 0.25, 1.0), sentence="for the test"))
    counters.now_s = 10.0
    counters.write(2000.0)
    reading = counters.asked(meter)
    assert (reading.energy.low, reading.energy_j, reading.energy.high) == pytest.approx((0.25 * 950, 500, 1050))
    meter.close()


def test_a_share_is_that_of_the_whole_stretch_between_two_answers(counters: Counters) -> None:
    stretches = iter([0.25, 0.75])

    def share() -> HostShare:
        value = next(stretches)
        return HostShare(part=Range.exactly(value), sentence="for the test")

    source = PmCountersSource(parse_address(f"pm_counters://{counters.folder}"))
    source.poll_s = 0.01
    meter = counters.of(source, None, share)
    for seconds, joules in ((10.0, 250.0), (20.0, 1000.0)):
        for _ in range(3):
            meter.read()  # nothing new: no stretch ends
        counters.now_s = seconds
        counters.write(1000.0 + 100 * seconds)
        assert counters.asked(meter).energy_j == pytest.approx(joules)
    meter.close()


def test_a_source_that_fails_is_absent_with_its_reason_and_the_counter_covers_the_gap(counters: Counters) -> None:
    meter = counters.meter(None)
    assert meter.read()[0].kind == "counter"
    (counters.folder / "energy").unlink()
    lost = counters.asked(meter)
    assert lost.kind == "absent"
    assert (lost.fault, lost.energy_j) == ("not_supported", 0.0)
    assert lost.message is not None
    assert "energy cannot be read" in lost.message
    counters.now_s = 60.0
    counters.write(61_000.0)
    again = counters.asked(meter)
    assert again.fault is None
    assert again.energy_j == pytest.approx(60_000.0)
    meter.close()


def test_power_alone_is_integrated_with_a_wider_range_across_a_gap(tmp_path: Path) -> None:
    def write(watts: float) -> None:
        (tmp_path / "new").write_text(f"time,node_w\n{time.time()},{watts}\n")
        (tmp_path / "new").replace(tmp_path / "power.csv")

    now_s = 0.0
    write(100.0)
    source = CsvSource(parse_address(f"csv://{tmp_path}/power.csv?column=node_w"))
    source.poll_s = 0.01
    poller = asked_by_the_test(source, lambda: now_s)
    meter = NodeMeter(poller, IDENTITY, bounds=BOUNDS, share=fixed(WHOLE), gpus=None, clock=lambda: now_s)
    assert meter.read()[0].kind == "power_integrated"
    (tmp_path / "power.csv").unlink()
    poller.ask_once()
    assert (meter.read()[0].kind, meter.read()[0].fault) == ("absent", "not_supported")
    now_s = 10.0
    write(300.0)
    poller.ask_once()
    (reading,) = meter.read()
    assert (reading.energy.low, reading.energy_j, reading.energy.high) == pytest.approx((1400.0, 2000.0, 2600.0))
    meter.close()


def test_energy_never_falls_when_a_gpu_makes_up_for_a_gap(counters: Counters) -> None:
    gpus = GpuHistory()
    gpus.observe([gpu(0.0, 0.0)])
    meter = counters.meter(gpus)
    gpus.observe([gpu(0.0, 10.0)])  # lost: it holds its energy
    counters.now_s = 10.0
    counters.write(2000.0)
    held = counters.asked(meter)
    assert held.energy_j == pytest.approx(1000.0)
    gpus.observe([gpu(1200.0, 20.0)])  # back: its counter covers the gap, which the host had
    counters.now_s = 20.0
    counters.write(3000.0)
    assert counters.asked(meter).energy_j == pytest.approx(1000.0)
    gpus.observe([gpu(1800.0, 30.0)])
    counters.now_s = 30.0
    counters.write(4000.0)
    assert counters.asked(meter).energy_j == pytest.approx(1200.0)
    meter.close()


class Told:
    """A source that tells what it is told to."""

    poll_s = 0.01

    def __init__(self, answer: NodeAnswer) -> None:
        self.next = answer

    def ask(self, deadline_s: float) -> NodeAnswer:
        del deadline_s
        return self.next


class Node:
    """A node with GPUs of 2,400 W whose meter tells one thing or another, read every five seconds of its own clock
    through the gate. Its host is modelled at 800 W."""

    def __init__(self, answer: NodeAnswer) -> None:
        self.now_s = 100.0
        self.joules = 0.0
        self.source = Told(answer)
        self.gpus = GpuHistory()
        self.gpus.observe([gpu(0.0, self.now_s)])
        self.poller = asked_by_the_test(self.source, lambda: self.now_s)
        self.meter = NodeMeter(
            self.poller, IDENTITY, bounds=BOUNDS, share=fixed(WHOLE), gpus=self.gpus, clock=lambda: self.now_s
        )
        self.gate = ReadingGate({IDENTITY.key: BOUNDS}, models={IDENTITY.key: lambda _s: Range(800.0, 600.0, 1000.0)})
        self.read()

    def read(self) -> Reading:
        return self.gate.admit(self.meter.read())[0]

    def follow(self, answer: NodeAnswer, seconds: int) -> list[Reading]:
        """Return the readings while the meter tells one answer."""
        readings = []
        for _ in range(0, seconds, 5):
            self.joules += 5 * 2400.0
            self.gpus.observe([gpu(self.joules, self.now_s + 5)])
            self.now_s += 5
            self.source.next = answer
            self.poller.ask_once()
            readings.append(self.read())
        return readings


@pytest.mark.parametrize("file", ["low", "zero"])
def test_a_node_meter_below_its_own_gpus_is_a_fault_and_the_host_is_modelled(file: str, tmp_path: Path) -> None:
    shown = (Path(__file__).parent / f"data/node_below_gpus/{file}.txt").read_text()
    (tmp_path / "ipmitool").write_text(f"#!/bin/sh\ncat <<'END'\n{shown}END\n")
    (tmp_path / "ipmitool").chmod(0o755)
    answer = open_source(parse_address("ipmi"), {"PATH": f"{tmp_path}:{os.environ['PATH']}"}).ask(60.0)
    node = Node(answer)
    last = node.follow(answer, 40)[-1]
    assert (last.kind, last.fault) == ("modelled", "below_gpus")
    assert last.message is not None
    assert "while the GPUs inside the node draw 2400 W" in last.message
    assert (last.energy.low, last.energy_j, last.energy.high) == pytest.approx((40 * 600, 40 * 800, 40 * 1000))
    assert last.estimated_j == last.energy_j
    node.meter.close()


def test_a_node_meter_that_comes_to_its_senses_is_used_from_then_on() -> None:
    node = Node(NodeAnswer(None, 155.0))
    node.follow(NodeAnswer(None, 155.0), 20)
    last = node.follow(NodeAnswer(None, 3000.0), 20)[-1]
    assert (last.kind, last.fault) == ("power_integrated", None)
    assert last.energy_j == pytest.approx(20 * 800 + 20 * 600, rel=0.2)
    node.meter.close()


@pytest.mark.parametrize(
    "absurd",
    [
        NodeAnswer(None, 4294967294.0),
        NodeAnswer(4.2e18),
        NodeAnswer(None, math.nan),
        NodeAnswer(None, math.inf),
        NodeAnswer(math.inf, 1.0),
    ],
)
def test_what_no_node_can_draw_is_a_fault_and_the_host_is_modelled(absurd: NodeAnswer) -> None:
    node = Node(NodeAnswer(None, 3000.0) if absurd.counter_j is None else NodeAnswer(1000.0))
    readings = node.follow(absurd, 20)
    assert readings[-1].kind == "modelled"
    assert {reading.fault for reading in readings} & {"implausible", "counter_jump", "below_gpus"}
    assert readings[-1].energy_j == pytest.approx(20 * 800)
    node.meter.close()


def test_a_meter_that_is_a_few_seconds_behind_its_gpus_loses_nothing() -> None:
    node = Node(NodeAnswer(0.0))
    for joules in (11_000.0, 29_000.0, 45_000.0, 60_000.0):  # 3,000 W, shown late at first
        reading = node.follow(NodeAnswer(joules), 5)[-1]
    assert (reading.kind, reading.fault) == ("counter", None)
    assert reading.energy_j == pytest.approx(60_000 - 20 * 2400)
    assert reading.estimated_j == 0
    node.meter.close()


def test_energy_of_gpus_between_two_rounds_lies_on_a_line() -> None:
    gpus = GpuHistory()
    assert gpus.at(5.0) == ZERO
    gpus.observe([gpu(0.0, 10.0)])
    gpus.observe([gpu(100.0, 20.0)])
    assert [gpus.at(moment_s).value for moment_s in (5.0, 10.0, 15.0, 20.0, 25.0)] == [0, 0, 50, 100, 100]


@given(watts=st.lists(st.floats(0, 10_000), min_size=2, max_size=20), share=st.floats(0, 1))
def test_energy_of_gpus_never_falls_and_meets_every_round(watts: list[float], share: float) -> None:
    gpus, joules = GpuHistory(), 0.0
    for second, power_w in enumerate(watts):
        gpus.observe([gpu(joules, float(second))])
        assert gpus.at(float(second)).value == pytest.approx(joules)
        joules += power_w
    moments = [gpus.at(second + share) for second in range(len(watts))]
    assert moments == sorted(moments, key=lambda energy: energy.value)
    assert all(energy.low <= energy.value <= energy.high for energy in moments)


def test_a_meter_that_does_not_answer_is_a_reason_with_advice(tmp_path: Path) -> None:
    opened = open_node_meter(
        parse_address(f"pm_counters://{tmp_path}"),
        "boot-1",
        bounds=BOUNDS,
        share=fixed(WHOLE),
        gpus=GpuHistory(),
        environ={},
    )
    assert isinstance(opened, Unavailable)
    assert opened.kind == "node_not_supported"
    assert opened.reason.startswith(f"the node meter cannot be used: {tmp_path}/energy cannot be read")
    assert opened.advice is not None


def test_a_source_that_cannot_be_made_is_a_reason_too() -> None:
    opened = open_node_meter(
        parse_address("ipmi://bmc7"), "boot-1", bounds=BOUNDS, share=fixed(WHOLE), gpus=GpuHistory(), environ={}
    )
    assert isinstance(opened, Unavailable)
    assert opened.kind == "node_refused"


def test_a_facility_is_a_rung_of_its_own_with_one_key_for_all_nodes(counters: Counters) -> None:
    gpus = GpuHistory()
    address = parse_address(f"pm_counters://{counters.folder}?covers=facility&share=0.1")
    meters = [
        open_node_meter(address, key, bounds=BOUNDS, share=fixed(WHOLE), gpus=gpus, environ={})
        for key in ("boot-1", "boot-2")
    ]
    identities = []
    for meter in meters:
        assert isinstance(meter, NodeMeter)
        identities += meter.devices
        meter.close()
    assert identities[0] == identities[1]
    assert (identities[0].rung, identities[0].scope) == ("facility", "facility")


def test_a_closed_meter_reads_nothing_and_asks_no_more(counters: Counters) -> None:
    poller = NodePoller(Told(NodeAnswer(power_w=100.0)), BOUNDS, counters.clock)
    meter = NodeMeter(poller, IDENTITY, bounds=BOUNDS, share=fixed(WHOLE), gpus=None, clock=counters.clock)
    meter.close()
    meter.close()
    assert meter.read() == []
    ended(poller)


def test_after_a_fork_the_child_reads_nothing(counters: Counters) -> None:
    meter = counters.meter(None)
    pid = os.fork()
    if pid == 0:
        os._exit(len(meter.read()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    meter.close()
