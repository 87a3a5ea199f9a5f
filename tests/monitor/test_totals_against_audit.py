"""The live totals at the end are the audit's, on any set of ledgers: attempts, elastic sizes, overlaps, lost nodes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import MACHINE, DeviceEnergy, Manifest, Record, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.totals import FileTotals, RunTotals, run_totals
from carbon_plugin.spec.metered import DeviceIdentity

START_S = 1_760_000_000.0
RUN_ID = "d" * 32


class Ledger(Struct, frozen=True):
    """One file: a node's GPUs at constant power in windows of 10 s, reserved for some time before."""

    node: int
    start_s: float
    windows: int
    gpus: tuple[str, ...]
    share: float | None = None
    reserved_before_s: float = 0.0
    host_share: float = 1.0
    estimated: bool = False
    part: float = 1.0

    def records(self, attempt: int) -> list[Record]:
        host = f"boot-{self.node}"
        devices = [
            DeviceIdentity(
                key=key, name="H100", rung="gpu", scope="gpu", meter="m", energy_kind="counter", share=self.share
            )
            for key in self.gpus
        ]
        devices.append(
            DeviceIdentity(key=f"{host}/host", name="h", rung="host", scope="host", meter="m", energy_kind="modelled")
        )
        found: list[Record] = [
            Manifest(
                version=1, run_id=RUN_ID, attempt=attempt, node=self.node, nodes=3, host_key=host, hostname=host,
                world_size=6, started_unix_s=START_S + self.start_s, devices=devices, effective={}, factors={},
                reserved_since_unix_s=START_S + self.start_s - self.reserved_before_s, versions={},
                host_share=self.host_share,
            )
        ]  # fmt: skip
        for index in range(self.windows):
            energies = [
                DeviceEnergy(
                    key=device.key, energy_j=1000.0 + 10 * len(self.gpus), low_j=900.0, high_j=1200.0,
                    kind="modelled" if self.estimated else "counter", estimated_j=400.0 if self.estimated else None,
                )
                for device in devices
            ]  # fmt: skip
            found.append(
                Window(
                    index=index, phase="train", start_unix_s=START_S + self.start_s + 10 * index, duration_s=10.0,
                    energies=energies, parts=self.parts(devices), steps=2, last_step=2 * (index + 1), tokens=0,
                    intensity_g_per_kwh=None, pue=None,
                )
            )  # fmt: skip
        return found

    def parts(self, devices: list[DeviceIdentity]) -> dict[str, float] | None:
        """As a training that shares the whole machine records it."""
        keys = [MACHINE, *(device.key for device in devices if device.rung == "gpu")]
        return dict.fromkeys(keys, self.part) if self.part < 1 else None


def both(run_dir: Path, ledgers: list[Ledger]):
    """The audit and the live totals of the same ledgers."""
    agree_run(run_dir, name="run", run_id=RUN_ID)
    files = {}
    for ledger in ledgers:
        writer, live = LedgerWriter(run_dir, run_id=RUN_ID, node=ledger.node), FileTotals()
        for record in ledger.records(writer.attempt):
            writer.write(record)
            live.add(record)
        writer.close()
        files[writer.path.name] = live
    return summarise(run_dir), run_totals(files, attempt_started_s=0.0)


def reserved_s(totals: RunTotals, scope: str) -> float:
    return sum(item.units * item.time_s for item in totals.reserved if item.scope == scope)


def assert_equal(ledgers: list[Ledger]) -> RunTotals:
    with tempfile.TemporaryDirectory() as folder:
        summary, live = both(Path(folder), ledgers)
    assert live.energy_j == pytest.approx(summary.energy.energy_j)
    assert live.estimated_j == pytest.approx(summary.energy.estimated_j)
    assert sum(item.low_j for item in live.spent) == pytest.approx(summary.energy.low_j)
    assert sum(item.high_j for item in live.spent) == pytest.approx(summary.energy.high_j)
    assert reserved_s(live, "device") == pytest.approx(summary.reserved.device_s)
    assert reserved_s(live, "host") == pytest.approx(summary.reserved.host_s)
    assert reserved_s(live, "network") == pytest.approx(summary.reserved.device_s)
    return live


LEDGERS = st.builds(
    Ledger,
    node=st.integers(0, 2),
    start_s=st.integers(0, 150).map(float),
    windows=st.integers(1, 8),
    gpus=st.sets(st.sampled_from(["GPU-a", "GPU-b", "GPU-c"]), max_size=3).map(lambda keys: tuple(sorted(keys))),
    share=st.sampled_from([None, 0.25]),
    reserved_before_s=st.integers(0, 60).map(float),
    host_share=st.sampled_from([1.0, 0.5]),
    estimated=st.booleans(),
    part=st.sampled_from([1.0, 0.5, 0.2]),
)


@settings(max_examples=40)
@given(st.lists(LEDGERS, min_size=1, max_size=5, unique_by=lambda ledger: ledger.start_s))
def test_live_totals_at_the_end_are_those_of_the_audit(ledgers):
    assert_equal(ledgers)


def test_restart_on_fewer_gpus_within_an_allocation_reserves_each_gpu_once():
    eight = tuple(f"GPU-{number}" for number in range(8))
    live = assert_equal(
        [
            Ledger(0, 0.0, 360, eight, reserved_before_s=0.0),
            Ledger(0, 3600.0, 360, eight[:7], reserved_before_s=3600.0),
        ]
    )

    assert reserved_s(live, "device") / 3600 == pytest.approx(15)


def test_attempts_that_overlap_for_seconds_lose_those_seconds_only():
    live = assert_equal([Ledger(0, 0.0, 350, ("GPU-a",)), Ledger(0, 3497.0, 360, ("GPU-a",))])

    assert live.energy_j == pytest.approx(2 * 101.0 * (3500 + 3597), rel=1e-3)


def test_runs_that_share_gpus_and_a_machine_together_are_charged_their_time_once():
    """Two runs of 100 s, the second 40 s after the first: 60 s of both are divided."""
    gpus = ("GPU-a", "GPU-b")
    first = [Ledger(0, 0.0, 4, gpus), Ledger(0, 40.0, 6, gpus, part=0.5)]
    second = [Ledger(0, 40.0, 6, gpus, part=0.5), Ledger(0, 100.0, 4, gpus)]

    totals = [assert_equal(ledgers) for ledgers in (first, second)]

    assert [reserved_s(one, "device") for one in totals] == pytest.approx([2 * (40 + 30), 2 * (30 + 40)])
    assert sum(reserved_s(one, "host") for one in totals) == pytest.approx(140)


def test_time_before_the_records_of_a_run_that_shares_is_its_own():
    live = assert_equal([Ledger(0, 100.0, 5, ("GPU-a",), reserved_before_s=60.0, part=0.5)])

    assert reserved_s(live, "device") == pytest.approx(60 + 25)
