"""Nodes without a shared directory: reports in datagrams, lost ones, foreign ones, and a real job of two hosts."""

from __future__ import annotations

import math
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Close, DeviceEnergy, Manifest, Projection, Window
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.collector import Address, Collector, Reporter, collector_address
from carbon_plugin.monitor.run.datagram import _HEAD, DIGEST_BYTES, REPORT_BYTES, _digest, pack_report, unpack_report
from carbon_plugin.monitor.run.key import KEY_FILE, KEY_VARIABLE, run_key
from carbon_plugin.monitor.run.totals import run_totals
from carbon_plugin.spec.metered import DeviceIdentity
from tests.ledger.builder import waited_j
from tests.ports import free_port

KEY = b"the secret of the run"


def node(
    number: int, *, gpus: int = 4, windows: int = 3, joules: float = 100.0, share: float | None = None, attempt: int = 0
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
            version=1, run_id="run", attempt=attempt, node=number, nodes=3, host_key=f"boot-{number}", hostname="h",
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
    return Address(("127.0.0.1", free_port(socket.SOCK_DGRAM)))


@pytest.fixture
def collector(address: Address) -> Iterator[Collector]:
    collector = Collector(address, KEY, 8)
    yield collector
    collector.close()


@pytest.mark.parametrize("share", [None, 2 / 7])
def test_a_report_says_of_a_node_what_its_ledger_says(share: float | None) -> None:
    own, other = node(0), node(1, share=share)
    record = pack_report("node-1.attempt-0.jsonl", other, KEY)
    assert record is not None
    assert len(record) == REPORT_BYTES < 1400  # one datagram, unfragmented
    report = unpack_report(record, KEY)
    assert report is not None
    name, totals = report

    read = run_totals({"a": own, name: other}, attempt_started_s=0.0)
    heard = run_totals({"a": own, name: totals}, attempt_started_s=0.0)

    assert name == "node-1.attempt-0.jsonl"
    assert (heard.gpus, heard.gpus_measured, heard.nodes_seen) == (read.gpus, read.gpus_measured, read.nodes_seen)
    assert (heard.last_step, heard.steady_s, heard.steady_steps) == (read.last_step, read.steady_s, read.steady_steps)
    assert heard.energy_j == pytest.approx(read.energy_j)
    assert heard.power_w == pytest.approx(read.power_w)
    assert [(i.rung, i.scope, i.kind) for i in heard.steady] == [(i.rung, i.scope, i.kind) for i in read.steady]
    assert [i.energy.high for i in heard.steady] == pytest.approx([i.energy.high for i in read.steady])
    assert heard.spent.keys() == read.spent.keys()
    for mine, theirs in zip(heard.spent.values(), read.spent.values(), strict=True):
        assert mine.kind == theirs.kind
        assert mine.energy.high == pytest.approx(theirs.energy.high)
        assert mine.g_per_kwh == pytest.approx(theirs.g_per_kwh)
    assert [r.time_s for r in heard.reserved] == pytest.approx([r.time_s for r in read.reserved])


@given(st.binary(max_size=2 * REPORT_BYTES), st.integers(0, REPORT_BYTES - 1))
def test_noise_damage_and_other_runs_are_dropped(noise: bytes, place: int) -> None:
    record = pack_report("node-1.attempt-0.jsonl", node(1), KEY)
    assert record is not None
    damaged = record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :]

    assert unpack_report(noise, KEY) is None
    assert unpack_report(damaged, KEY) is None
    assert unpack_report(record, b"another key") is None


def test_the_last_report_of_each_node_counts_once_whatever_was_lost_or_came_late(address, collector) -> None:
    first, second = Reporter(address, KEY), Reporter(address, KEY)
    stranger = Reporter(address, b"another key")

    for windows in (1, 2, 5, 3, 5):  # 4 was lost, 3 came late, 5 came twice
        first.send("node-1.attempt-0.jsonl", node(1, windows=windows))
    second.send("node-2.attempt-0.jsonl", node(2))
    stranger.send("node-1.attempt-0.jsonl", node(1, windows=50))
    collector.poll()

    totals = run_totals(collector.files, attempt_started_s=0.0)
    assert (totals.nodes_seen, totals.gpus, collector.dropped) == (2, 8, 1)
    waited_j = 8 * 10 * (70 + 2000 / 8 + 0.1 * 70)  # 10 s of 8 idle H100 with their host before the first record
    assert totals.energy_j == pytest.approx(5 * 100 * (5 + 3) + waited_j)


def test_nobody_listening_costs_a_node_nothing(address) -> None:
    reporter = Reporter(address, KEY)

    for _ in range(3):  # the second one meets the refusal of the first
        reporter.send("node-1.attempt-0.jsonl", node(1))

    reporter.close()


def test_a_node_without_a_manifest_reports_nothing() -> None:
    assert pack_report("node-1.attempt-0.jsonl", FileTotals(), KEY) is None


@pytest.mark.parametrize("stated", ["node-0", "node-0:", ":29600", "node-0:port", "node-0:70000"])
def test_an_address_that_is_none_is_refused(stated: str) -> None:
    with pytest.raises(SpecError, match=r"CARBON_PLUGIN_COLLECTOR is .*, expected host:port"):
        collector_address({"CARBON_PLUGIN_COLLECTOR": stated})


def test_without_the_variable_there_is_no_collector() -> None:
    assert collector_address({}) is None
    assert collector_address({"CARBON_PLUGIN_COLLECTOR": "[::1]:29600"}) == ("::1", 29600)


def forged(**changes: float) -> bytes:
    """Return a record of the run with some of its numbers replaced."""
    record = pack_report("node-1.attempt-0.jsonl", node(1), KEY)
    assert record is not None
    body = bytearray(record[:-DIGEST_BYTES])
    head = list(_HEAD.unpack_from(body))
    places = {"node": 4, "nodes": 5, "world_size": 7, "gpus": 8, "measured": 9, "started_s": 10, "end_s": 12,
              "steady_s": 14, "host_share": 15, "whole_gpus": 16, "last_step": 17, "last_of_span": 20}  # fmt: skip
    in_rung = {"energy_j": 0, "high_j": 2, "told_j": 3, "facility_j": 5, "weighted": 6, "steady_j": 8, "power_w": 16,
               "count": 17}  # fmt: skip
    for name, value in changes.items():
        if name in places:
            head[places[name]] = value
        else:
            struct.pack_into("<d", body, _HEAD.size + 8 * in_rung[name], value)
    _HEAD.pack_into(body, 0, *head)
    return bytes(body) + _digest(bytes(body), KEY)


IMPOSSIBLE = [
    *({name: value} for name in ("energy_j", "high_j", "told_j", "facility_j", "weighted", "steady_j", "power_w")
      for value in (math.nan, math.inf, -1.0, 1e30)),
    *({name: value} for name in ("started_s", "end_s", "steady_s", "last_step", "last_of_span")
      for value in (math.nan, math.inf, -1.0, 1e30)),
    {"count": 2e7}, {"count": 2e7, "gpus": 20_000_000}, {"count": 0.5}, {"count": math.nan}, {"count": -4.0},
    {"measured": 5}, {"node": 3}, {"world_size": 0}, {"host_share": 2.0}, {"whole_gpus": 9.0},
    {"energy_j": 4 * 5e3 * 100},
]  # fmt: skip


@pytest.mark.parametrize("changes", IMPOSSIBLE, ids=str)
def test_a_report_of_what_cannot_be_is_dropped_although_it_has_the_key(changes: dict[str, float]) -> None:
    assert unpack_report(forged(), KEY) is not None
    assert unpack_report(forged(**changes), KEY) is None


@given(st.binary(min_size=REPORT_BYTES - DIGEST_BYTES, max_size=REPORT_BYTES - DIGEST_BYTES), st.booleans())
def test_no_report_raises_or_holds_more_than_a_node_has(noise: bytes, start: bool) -> None:
    valid = forged()[:-DIGEST_BYTES]
    body = valid[:140] + noise[140:] if start else noise[:140] + valid[140:]

    report = unpack_report(body + _digest(body, KEY), KEY)

    assert report is None or len(report[1].devices) <= 2000


def test_rank_0_hears_of_a_fixed_number_of_ledgers(address) -> None:
    collector = Collector(address, KEY, 3)
    reporter = Reporter(address, KEY)

    for attempt in range(9):
        reporter.send(f"node-1.attempt-{attempt}.jsonl", node(1, attempt=attempt))
    collector.poll()

    assert sorted(collector.files) == [f"node-1.attempt-{attempt}.jsonl" for attempt in range(3)]
    assert collector.dropped == 6
    collector.close()


def test_rank_0_listens_on_the_named_address_only(collector) -> None:
    bound = collector._socket.getsockname()

    assert bound[0] == collector.host == "127.0.0.1"
    assert collector.is_loopback
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", bound[1]))  # free, which it is not where somebody listens on all addresses


def test_the_key_is_a_secret_of_the_run_that_its_nodes_read(tmp_path) -> None:
    assert run_key(tmp_path, "run", {}, make=False) is None

    made = run_key(tmp_path, "run", {}, make=True)

    assert made is not None
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert run_key(tmp_path, "run", {}, make=True) == run_key(tmp_path, "run", {}, make=False) == made
    assert run_key(tmp_path, "another run", {}, make=False) != made
    stated = {KEY_VARIABLE: "0123456789abcdef"}
    assert run_key(tmp_path, "run", stated, make=True) not in (made, None)


@pytest.mark.parametrize("kind", ["readable by others", "a link", "a FIFO", "too short"])
def test_a_key_that_is_no_secret_is_refused(tmp_path, kind) -> None:
    environ = {KEY_VARIABLE: "secret"} if kind == "too short" else {}
    path = tmp_path / KEY_FILE
    if kind == "a link":
        (tmp_path / "elsewhere").write_text("known to others")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "a FIFO":
        os.mkfifo(path, 0o600)
    elif not environ:
        path.write_text("known to others")
        path.chmod(0o644)

    with pytest.raises((SpecError, OSError)):
        run_key(tmp_path, "run", environ, make=True)


def test_rank_0_projects_a_node_whose_ledger_it_cannot_see(job, tmp_path, address) -> None:
    # Another TMPDIR is another host to the election; each has a run directory of its own.
    (tmp_path / "elsewhere").mkdir()
    common = {
        "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "GROUP_WORLD_SIZE": 2, "LOCAL_RANK": 0,
        "CARBON_PLUGIN_RUN_ID": "run", "CARBON_PLUGIN_COLLECTOR": f"127.0.0.1:{address[1]}",
        "CARBON_PLUGIN_RUN_KEY": "0123456789abcdef",
    }  # fmt: skip
    first = job(
        "close", tmp_path / "a", 2.0, spec="gpus=1;power=300", **common, RANK=0, GROUP_RANK=0,
        JOB_UNTIL=tmp_path / "the other has ended",
    )  # fmt: skip
    second = job(
        "close", tmp_path / "b", 2.0, spec="gpus=1;power=400", **common, RANK=1, GROUP_RANK=1,
        TMPDIR=tmp_path / "elsewhere",
    )  # fmt: skip
    for process in (second, first):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        (tmp_path / "the other has ended").touch()

    (own,), (other,) = (read_run(tmp_path / folder).files for folder in "ab")
    last = [record for record in own.records if isinstance(record, Projection)][-1]
    both = sum(record.energy_j for file in (own, other) for record in file.records if isinstance(record, Close))
    assert (last.nodes_seen, last.nodes) == (2, 2)
    both += waited_j(tmp_path / "a") + waited_j(tmp_path / "b")
    assert last.spent_energy_j == pytest.approx(both, rel=0.02)
