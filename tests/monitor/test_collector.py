"""Nodes without a shared directory: reports in datagrams, lost ones, foreign ones, and a real job of two hosts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Close, DeviceEnergy, Manifest, Projection, Window
from carbon_plugin.monitor.collector import Address, Collector, Reporter, collector_address
from carbon_plugin.monitor.report import REPORT_BYTES, pack_report, unpack_report
from carbon_plugin.monitor.totals import FileTotals, run_totals
from carbon_plugin.spec.devices import DeviceIdentity


def node(
    number: int, *, gpus: int = 4, windows: int = 3, joules: float = 100.0, share: float | None = None
) -> FileTotals:
    devices = [
        DeviceIdentity(
            key=f"GPU-{number}-{i}", name="H100", rung="gpu", scope="gpu", meter="m", energy_kind="counter", share=share
        )
        for i in range(gpus)
    ]
    devices.append(
        DeviceIdentity(key=f"{number}/host", name="host", rung="host", scope="host", meter="m", energy_kind="modelled")
    )
    totals = FileTotals()
    totals.add(
        Manifest(
            version=1, run_id="run", attempt=0, node=number, nodes=3, host_key=f"boot-{number}", hostname="h",
            world_size=12, started_unix_s=100.0, reserved_since_unix_s=90.0, devices=devices, effective={}, factors={},
            versions={}, host_share=0.5,
        )
    )  # fmt: skip
    for index in range(windows):
        energies = [
            DeviceEnergy(key=d.key, energy_j=joules, kind=d.energy_kind, low_j=0.9 * joules, high_j=1.2 * joules)
            for d in devices
        ]
        totals.add(
            Window(
                index=index, phase="train", start_unix_s=100.0 + 10 * index, duration_s=10.0, energies=energies,
                steps=5, last_step=5 * index + 5, tokens=0, intensity_g_per_kwh=50.0, pue=1.1,
            )
        )  # fmt: skip
    return totals


@pytest.fixture
def address() -> Address:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return Address(free.getsockname())


@pytest.fixture
def collector(address: Address) -> Iterator[Collector]:
    collector = Collector(address, "run")
    yield collector
    collector.close()


@pytest.mark.parametrize("share", [None, 2 / 7])
def test_a_report_says_of_a_node_what_its_ledger_says(share: float | None) -> None:
    own, other = node(0), node(1, share=share)
    record = pack_report("node-1.attempt-0.jsonl", other, "run")
    assert record is not None
    assert len(record) == REPORT_BYTES < 1400  # one datagram, unfragmented
    report = unpack_report(record, "run")
    assert report is not None
    name, totals = report

    read = run_totals({"a": own, name: other}, attempt_started_s=0.0)
    heard = run_totals({"a": own, name: totals}, attempt_started_s=0.0)

    assert name == "node-1.attempt-0.jsonl"
    assert (heard.gpus, heard.gpus_measured, heard.nodes_seen) == (read.gpus, read.gpus_measured, read.nodes_seen)
    assert (heard.last_step, heard.steady_s, heard.steady_steps) == (read.last_step, read.steady_s, read.steady_steps)
    assert heard.energy_j == pytest.approx(read.energy_j)
    assert heard.power_w == pytest.approx(read.power_w)
    for mine, theirs in ((heard.spent, read.spent), (heard.steady, read.steady)):
        assert [(i.rung, i.scope, i.kind) for i in mine] == [(i.rung, i.scope, i.kind) for i in theirs]
        assert [i.high_j for i in mine] == pytest.approx([i.high_j for i in theirs])
    assert [i.intensity_g_per_kwh for i in heard.spent] == pytest.approx([i.intensity_g_per_kwh for i in read.spent])
    assert [r.time_s for r in heard.reserved] == pytest.approx([r.time_s for r in read.reserved])


@given(st.binary(max_size=2 * REPORT_BYTES), st.integers(0, REPORT_BYTES - 1))
def test_noise_damage_and_other_runs_are_dropped(noise: bytes, place: int) -> None:
    record = pack_report("node-1.attempt-0.jsonl", node(1), "run")
    assert record is not None
    damaged = record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :]

    assert unpack_report(noise, "run") is None
    assert unpack_report(damaged, "run") is None
    assert unpack_report(record, "another run") is None


def test_the_last_report_of_each_node_counts_once_whatever_was_lost_or_came_late(address, collector) -> None:
    first, second = Reporter(address, "run"), Reporter(address, "run")
    stranger = Reporter(address, "another run")

    for windows in (1, 2, 5, 3, 5):  # 4 was lost, 3 came late, 5 came twice
        first.send("node-1.attempt-0.jsonl", node(1, windows=windows))
    second.send("node-2.attempt-0.jsonl", node(2))
    stranger.send("node-1.attempt-0.jsonl", node(1, windows=50))
    collector.poll()

    totals = run_totals(collector.files, attempt_started_s=0.0)
    assert (totals.nodes_seen, totals.gpus, collector.dropped) == (2, 8, 1)
    assert totals.energy_j == pytest.approx(5 * 100 * (5 + 3))


def test_nobody_listening_costs_a_node_nothing(address) -> None:
    reporter = Reporter(address, "run")

    for _ in range(3):  # the second one meets the refusal of the first
        reporter.send("node-1.attempt-0.jsonl", node(1))

    reporter.close()


def test_a_node_without_a_manifest_reports_nothing() -> None:
    assert pack_report("node-1.attempt-0.jsonl", FileTotals(), "run") is None


@pytest.mark.parametrize("stated", ["node-0", "node-0:", ":29600", "node-0:port", "node-0:70000"])
def test_an_address_that_is_none_is_refused(stated: str) -> None:
    with pytest.raises(SpecError, match=r"CARBON_PLUGIN_COLLECTOR is .*, expected host:port"):
        collector_address({"CARBON_PLUGIN_COLLECTOR": stated})


def test_without_the_variable_there_is_no_collector() -> None:
    assert collector_address({}) is None
    assert collector_address({"CARBON_PLUGIN_COLLECTOR": "[::1]:29600"}) == ("::1", 29600)


def test_rank_0_projects_a_node_whose_ledger_it_cannot_see(job, tmp_path, address) -> None:
    # Another TMPDIR is another host to the election; each has a run directory of its own.
    (tmp_path / "elsewhere").mkdir()
    common = {
        "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "GROUP_WORLD_SIZE": 2, "LOCAL_RANK": 0,
        "CARBON_PLUGIN_RUN_ID": "run", "CARBON_PLUGIN_COLLECTOR": f"localhost:{address[1]}",
    }  # fmt: skip
    first = job("close", tmp_path / "a", 3.0, spec="gpus=1;power=300", **common, RANK=0, GROUP_RANK=0)
    second = job(
        "close", tmp_path / "b", 2.0, spec="gpus=1;power=400", **common, RANK=1, GROUP_RANK=1,
        TMPDIR=tmp_path / "elsewhere",
    )  # fmt: skip
    for process in (second, first):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors

    (own,), (other,) = (read_run(tmp_path / folder).files for folder in "ab")
    last = [record for record in own.records if isinstance(record, Projection)][-1]
    both = sum(record.energy_j for file in (own, other) for record in file.records if isinstance(record, Close))
    assert (last.nodes_seen, last.nodes) == (2, 2)
    assert last.spent_energy_j == pytest.approx(both, rel=0.02)
