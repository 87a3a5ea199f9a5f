"""The live totals at the end are the audit's, on any set of ledgers: attempts, elastic sizes, overlaps, lost nodes."""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import MACHINE, Close, DeviceEnergy, Manifest, Record, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.follower import LedgerFollower
from carbon_plugin.monitor.run.projection import outlook, spent_carbon
from carbon_plugin.monitor.run.projector import NOTHING
from carbon_plugin.monitor.run.totals import RunTotals, run_totals, without_copies
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.site import Site

START_S = 1_760_000_000.0
RUN_ID = "d" * 32


CLUSTER = Cluster(accelerator=load_accelerator("h100-sxm"), node=load_node("dgx-h100"), nodes=1, devices_per_node=8)
FACTORS = resolve_factors(Site(zone="FRA", pue=1.2), CLUSTER)
WINDOW_S = 10.0


class Ledger(Struct, frozen=True):
    """One file: GPUs and the host of a node in windows of 10 s, reserved for some time before.

    With a `seed` energies, phases and factors differ from window to window; `clock_ahead_s` is by how much the host's
    clock was set forward when the file was written, which the clock since its boot tells. `closed_after_s` is when the
    closing record was written after the last window, None for a process that was killed."""

    node: int
    start_s: float
    windows: int
    gpus: tuple[str, ...]
    share: float | None = None
    reserved_before_s: float = 0.0
    host_share: float = 1.0
    estimated: bool = False
    part: float = 1.0
    seed: int | None = None
    clock_ahead_s: float = 0.0
    closed_after_s: float | None = None
    stated: bool = True
    profile: str | None = None

    @property
    def started_s(self) -> float:
        return START_S + self.start_s + self.clock_ahead_s

    def records(self, attempt: int) -> list[Record]:
        host = f"boot-{self.node}"
        devices = [
            DeviceIdentity(
                key=key,
                name="H100",
                rung="gpu",
                scope="gpu",
                meter="m",
                energy_kind="counter",
                share=self.share,
                profile=self.profile,
            )
            for key in self.gpus
        ]
        devices.append(
            DeviceIdentity(key=f"{host}/host", name="h", rung="host", scope="host", meter="m", energy_kind="modelled")
        )
        found: list[Record] = [
            Manifest(
                version=1, run_id=RUN_ID, attempt=attempt, node=self.node, nodes=3, host_key=host, hostname=host,
                world_size=6, started_unix_s=self.started_s, devices=devices, effective={},
                factors=msgspec.to_builtins(FACTORS) if self.stated else {}, versions={},
                reserved_since_unix_s=self.started_s - self.reserved_before_s, host_share=self.host_share,
                started_boot_s=1000.0 + self.start_s,
            )
        ]  # fmt: skip
        for index in range(self.windows):
            found.append(self.window(index, devices))
        if self.closed_after_s is not None:
            at_s = self.started_s + WINDOW_S * self.windows + self.closed_after_s
            found.append(Close(at_unix_s=at_s, reason="end", steps=0, windows=self.windows, energy_j=0.0))
        return found

    def window(self, index: int, devices: list[DeviceIdentity]) -> Window:
        draw = None if self.seed is None else random.Random(1000 * self.seed + index)
        own_factors = draw is not None and draw.random() < 0.7
        return Window(
            index=index,
            phase=draw.choice(["startup", "train", "evaluation", "checkpoint", "idle"]) if draw else "train",
            start_unix_s=self.started_s + WINDOW_S * index,
            duration_s=WINDOW_S,
            energies=[self.energy(device, draw) for device in devices],
            parts=self.parts(devices),
            steps=0 if draw and draw.random() < 0.2 else 2,
            last_step=2 * (index + 1),
            tokens=0,
            intensity_g_per_kwh=draw.uniform(50, 600) if draw and own_factors else None,
            pue=draw.uniform(1.1, 1.5) if draw and own_factors else None,
        )

    def energy(self, device: DeviceIdentity, draw: random.Random | None) -> DeviceEnergy:
        energy_j = draw.uniform(500.0, 5000.0) if draw else 1000.0 + 10 * len(self.gpus)
        if draw and draw.random() < 0.1:
            return DeviceEnergy(key=device.key, energy_j=None, kind="absent")
        estimated_j = 0.4 * energy_j if self.estimated else None
        if draw and self.estimated and draw.random() < 0.5:
            estimated_j = draw.choice([None, -0.2 * energy_j])
        return DeviceEnergy(
            key=device.key,
            energy_j=energy_j,
            low_j=0.9 * energy_j,
            high_j=1.2 * energy_j,
            kind="modelled" if (self.estimated and not draw) or device.rung == "host" else "counter",
            estimated_j=estimated_j,
        )

    def parts(self, devices: list[DeviceIdentity]) -> dict[str, float] | None:
        """Return the parts that a training records which shares the whole machine."""
        keys = [MACHINE, *(device.key for device in devices if device.rung == "gpu")]
        return dict.fromkeys(keys, self.part) if self.part < 1 else None


def both(run_dir: Path, ledgers: list[Ledger]) -> tuple[AuditSummary, RunTotals]:
    """Return the audit and the live totals of the same ledgers."""
    agree_run(run_dir, name="run", run_id=RUN_ID)
    for ledger in ledgers:
        writer = LedgerWriter(run_dir, run_id=RUN_ID, node=ledger.node)
        for record in ledger.records(writer.attempt):
            writer.write(record)
        writer.close()
    follower = LedgerFollower(run_dir, None)
    while not follower.caught_up:
        follower.poll()
    files = without_copies(follower.files)
    live = run_totals(files, attempt_started_s=0.0, windows_until=follower.windows_until)
    return summarise(run_dir, processes=1), live


def reserved_s(totals: RunTotals, scope: str) -> float:
    return sum(item.units * item.time_s for item in totals.reserved if item.scope == scope)


def assert_equal(ledgers: list[Ledger]) -> RunTotals:
    with tempfile.TemporaryDirectory() as folder:
        summary, live = both(Path(folder), ledgers)
    whole_j = summary.energy.energy_j
    near = partial(pytest.approx, rel=1e-9, abs=1e-9 * whole_j)
    assert live.energy_j == pytest.approx(whole_j, rel=1e-9)
    assert live.used.remaining_estimate_j == near(summary.energy.estimated_j)
    assert live.used.measured_j == near(summary.energy.measured_j)
    meters = [*(device.energy for device in summary.devices), *summary.unobserved.values()]
    assert sum(used.energy.low for used in live.spent.values()) == near(sum(one.low_j for one in meters))
    assert sum(used.energy.high for used in live.spent.values()) == near(sum(one.high_j for one in meters))
    for rung in ("gpu", "host"):
        audited = summary.by_rung.get(rung)
        joules = sum(used.energy.value for (of, _), used in live.spent.items() if of == rung)
        assert joules == near(audited.energy_j if audited else 0.0)
    assert reserved_s(live, "device") == pytest.approx(summary.reserved.device_s, rel=1e-9)
    assert reserved_s(live, "host") == pytest.approx(summary.reserved.host_s, rel=1e-9)
    assert reserved_s(live, "network") == pytest.approx(summary.reserved.device_s, rel=1e-9)
    if summary.footprint is not None:
        spent, said, whole = (
            outlook(live, None, FACTORS).spent,
            spent_carbon(live, FACTORS),
            outlook(live, NOTHING, FACTORS).whole,
        )
        assert spent is not None
        assert said is not None
        assert whole is not None
        for name in ("operational_kg", "embodied_kg", "total_kg"):
            audited = getattr(summary.footprint, name)
            assert getattr(spent, name) == pytest.approx(audited.value, rel=1e-9)
            for closing in (said, whole):
                found = getattr(closing, name)
                assert (found.value, found.low, found.high) == pytest.approx(
                    (audited.value, audited.low, audited.high), rel=1e-9
                )
    return live


LEDGERS = st.builds(
    Ledger,
    node=st.integers(0, 2),
    start_s=st.integers(0, 150).map(float),
    windows=st.integers(0, 8),
    gpus=st.sets(st.sampled_from(["GPU-a", "GPU-b", "GPU-c"]), max_size=3).map(lambda keys: tuple(sorted(keys))),
    share=st.sampled_from([None, 0.25]),
    reserved_before_s=st.integers(0, 60).map(float),
    host_share=st.sampled_from([1.0, 0.5]),
    estimated=st.booleans(),
    part=st.sampled_from([1.0, 0.5, 0.2]),
    seed=st.none() | st.integers(0, 50),
    clock_ahead_s=st.sampled_from([0.0, 0.0, 30.0, -45.0]),
    closed_after_s=st.sampled_from([None, 0.0, 3.0]),
    stated=st.booleans(),
    profile=st.sampled_from([None, "h100-sxm", "a100-sxm-80gb"]),
)


@settings(max_examples=60)
@given(st.lists(LEDGERS, min_size=1, max_size=5, unique_by=lambda ledger: ledger.start_s))
def test_live_totals_at_the_end_are_those_of_the_audit(ledgers: list[Ledger]) -> None:
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


def test_attempt_without_a_site_is_accounted_with_the_factors_of_the_attempt_that_has_one(tmp_path: Path) -> None:
    ledgers = [Ledger(0, 0.0, 5, ("GPU-a",), stated=False), Ledger(0, 100.0, 5, ("GPU-a",))]

    summary, live = both(tmp_path, ledgers)

    facility_kwh = live.energy_j * FACTORS.pue.value / 3.6e6
    assert summary.footprint is not None
    assert summary.footprint.operational_kg.value == pytest.approx(
        facility_kwh * FACTORS.intensity.figure.value / 1000, rel=1e-9
    )
    assert summary.factors is not None
    assert summary.factors.pue == FACTORS.pue


def test_overlap_of_windows_that_differ_takes_off_the_energy_of_those_windows(tmp_path: Path) -> None:
    """Energies differ from window to window, so that the mean power of the file would take off another energy."""
    first, second = Ledger(0, 0.0, 8, ("GPU-a",), seed=1), Ledger(0, 55.0, 8, ("GPU-a",), seed=2)
    agree_run(tmp_path, name="run", run_id=RUN_ID)
    files = {}
    for ledger in (first, second):
        writer, totals = LedgerWriter(tmp_path, run_id=RUN_ID, node=0), FileTotals()
        for record in ledger.records(writer.attempt):
            writer.write(record)
            totals.add(record)
        writer.close()
        files[writer.path.name] = totals

    exact = run_totals(files, attempt_started_s=0.0, windows_until=LedgerFollower(tmp_path, None).windows_until)
    at_mean_power = run_totals(files, attempt_started_s=0.0)

    audited_j = summarise(tmp_path, processes=1).energy.energy_j
    assert exact.energy_j == pytest.approx(audited_j, rel=1e-9)
    assert at_mean_power.energy_j != pytest.approx(audited_j, rel=1e-3)
