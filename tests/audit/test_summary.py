"""The audit's numbers, from ledgers that the real writer wrote."""

from __future__ import annotations

import contextlib
import math
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import opening, warnings
from carbon_plugin.audit.sentences.phrases import energy_quality
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import LedgerError
from carbon_plugin.footprint.values import Factors
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.held.unobserved import UNOBSERVED_PHASE, idle_power
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.reader import read_ledger, read_run
from carbon_plugin.ledger.records import DeviceEnergy, Manifest, Record, Span, Window
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import RUN_START_UNIX_S, Attempt, Job

RUN_ID = "a" * 32


def windows_of(run_dir: Path) -> list[Window]:
    return [record for file in read_run(run_dir).files for record in file.records if isinstance(record, Window)]


def energies_of(windows: list[Window]) -> list[float]:
    return [energy.energy_j for window in windows for energy in window.energies if energy.energy_j is not None]


def write(run_dir: Path, records: list[Record], node: int = 0) -> Path:
    writer = LedgerWriter(run_dir, run_id=RUN_ID, node=node)
    for record in records:
        writer.write(record)
    writer.close()
    return writer.path


@pytest.fixture
def job(factors: Factors, forecast_document: dict[str, Any], prediction_document: dict[str, Any]) -> Job:
    plain = msgspec.to_builtins(factors)
    return Job(
        factors=plain,
        forecast=forecast_document,
        prediction=prediction_document,
        intensity_g_per_kwh=factors.intensity.figure.value,
        pue=1.2,
    )


@pytest.fixture
def run_dir(job: Job, tmp_path: Path) -> Path:
    job.write(tmp_path / "run")
    return tmp_path / "run"


def test_total_is_exactly_the_sum_of_the_windows(run_dir: Path) -> None:
    summary = summarise(run_dir)
    assert summary.energy.energy_j == math.fsum(energies_of(windows_of(run_dir)))
    assert summary.verification.ok


@pytest.mark.parametrize("seed", range(5))
def test_energy_that_was_all_measured_is_called_so_however_it_rounds(job: Job, tmp_path: Path, seed: int) -> None:
    job.host_power_w, job.seed = None, seed
    job.write(tmp_path)
    summary = summarise(tmp_path)
    for energy in (summary.energy, *summary.by_phase.values(), *(device.energy for device in summary.devices)):
        assert energy.measured_j == energy.energy_j
        assert energy_quality(energy) == "measured"


def test_every_grouping_adds_up_to_the_total(run_dir: Path) -> None:
    summary = summarise(run_dir)
    for parts in (
        [energy.energy_j for energy in summary.by_rung.values()],
        [energy.energy_j for energy in summary.by_phase.values()],
        [device.energy.energy_j for device in summary.devices],
        [energy for rung in summary.series.rung_energy_j.values() for energy in rung],
    ):
        assert math.fsum(parts) == pytest.approx(summary.energy.energy_j, rel=1e-12)
    assert summary.by_phase["evaluation"].energy_j == math.fsum(
        energies_of([window for window in windows_of(run_dir) if window.phase == "evaluation"])
    )


def test_an_energy_has_one_range_wherever_it_is_stated(run_dir: Path) -> None:
    summary = summarise(run_dir)
    assert summary.footprint is not None
    sampled = summary.footprint.energy_j

    def ends(one: Any) -> tuple[float, float, float]:
        return one.value, one.low, one.high

    assert ends(summary.energy.range) == pytest.approx(ends(sampled["it"]))
    for rung, energy in summary.by_rung.items():
        assert ends(energy.range) == pytest.approx(ends(sampled[rung])), rung
    for phase, energy in summary.by_phase.items():
        share = energy.energy_j / summary.energy.energy_j
        assert ends(energy.range) == pytest.approx([share * one for one in ends(sampled["it"])]), phase


def test_carbon_is_computed_from_joules_and_factors(run_dir: Path, factors: Factors) -> None:
    summary = summarise(run_dir)
    assert summary.footprint is not None
    intensity = factors.intensity.figure.value
    operational_kg = summary.energy.energy_j * 1.2 * intensity / 3.6e9
    assert summary.footprint.operational_kg.value == pytest.approx(operational_kg, rel=1e-12)
    assert summary.energy.operational_kg == pytest.approx(operational_kg, rel=1e-12)
    assert summary.footprint.energy_j["facility"].value == pytest.approx(1.2 * summary.energy.energy_j, rel=1e-12)
    year_s = 365.25 * 86400 * factors.lifetime_years.value
    device_kg = 160.0 * summary.reserved.device_s / year_s
    assert summary.footprint.embodied_parts_kg["device"].value == pytest.approx(device_kg, rel=1e-12)
    assert sum(summary.series.operational_kg) == pytest.approx(operational_kg, rel=1e-9)


phases = st.sampled_from(["startup", "train", "evaluation", "checkpoint", "data_wait", "idle"])
device_energy = st.one_of(st.none(), st.floats(0, 1e5))
window_parts = st.tuples(
    phases,
    st.floats(0.001, 1e4),
    st.lists(device_energy, min_size=2, max_size=2),
    st.floats(0, 1200),
    st.floats(1, 2.5),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(window_parts, max_size=12), min_size=1, max_size=3))
def test_any_ledger_adds_up(factors: Factors, nodes: list[list[Any]]) -> None:
    """Random phases, durations, energies (also absent ones), intensities and PUEs, on one to three nodes."""
    job = Job(nodes=len(nodes), gpus=1, factors=msgspec.to_builtins(factors))
    expected_j, expected_kg = [], []
    with tempfile.TemporaryDirectory() as directory:
        for node, parts in enumerate(nodes):
            records: list[Record] = job.records(RUN_ID, node, 0, Attempt(0, 0), 0.0)[:1]
            start_s = 0.0
            for index, (phase, duration_s, energies, intensity, pue) in enumerate(parts):
                keys = (job.gpu_key(node, 0), job.host_key(node))
                window = Window(
                    index=index,
                    phase=phase,
                    start_unix_s=start_s,
                    duration_s=duration_s,
                    energies=[
                        DeviceEnergy(key=key, energy_j=energy_j, kind="absent" if energy_j is None else "counter")
                        for key, energy_j in zip(keys, energies, strict=True)
                    ],
                    steps=0,
                    last_step=0,
                    tokens=0,
                    intensity_g_per_kwh=intensity,
                    pue=pue,
                )
                start_s += duration_s
                records.append(window)
                expected_j += energies_of([window])
                expected_kg += [energy_j * pue * intensity / 3.6e9 for energy_j in energies_of([window])]
            write(Path(directory), records, node)
        summary = summarise(directory)
    assert summary.verification.ok, summary.verification.problems
    assert summary.energy.energy_j == math.fsum(expected_j)
    assert math.fsum(one.energy_j for one in summary.by_phase.values()) == pytest.approx(
        math.fsum(expected_j), rel=1e-12
    )
    assert (summary.footprint is None) is (not expected_j)
    if summary.footprint is not None:
        assert summary.footprint.operational_kg.value == pytest.approx(math.fsum(expected_kg), rel=1e-9, abs=1e-12)


def test_intensity_that_changes_during_the_run_is_weighted_with_energy(job: Job, tmp_path: Path) -> None:
    records = job.records(RUN_ID, 0, 0, Attempt(0, 6), 0.0)
    changed = [
        msgspec.structs.replace(record, intensity_g_per_kwh=100.0 * (record.index % 3), pue=1.0 + 0.1 * record.index)
        if isinstance(record, Window)
        else record
        for record in records
    ]
    write(tmp_path, changed)
    summary = summarise(tmp_path)
    expected_kg = sum(
        energy_j * (1.0 + 0.1 * window.index) * 100.0 * (window.index % 3) / 3.6e9
        for window in windows_of(tmp_path)
        for energy_j in energies_of([window])
    )
    assert summary.footprint is not None
    assert summary.footprint.operational_kg.value == pytest.approx(expected_kg, rel=1e-9)
    assert summary.factors is not None
    assert "mean of the run's windows" in summary.factors.pue.source


def test_attempts_gap_and_progress_are_told(run_dir: Path) -> None:
    period = summarise(run_dir).period
    first, second = period.attempts
    assert (first.ended, second.ended) == (None, "finished")
    assert (first.nodes, first.steps, first.last_step) == (2, 240, 240)
    assert (second.steps, second.last_step) == (240, 440)
    (gap,) = period.gaps
    assert gap.duration_s == pytest.approx(60.0)
    assert period.active_s == pytest.approx(period.wall_s - 60.0)


def test_steps_done_twice_are_waste(run_dir: Path) -> None:
    """Killed at step 240, resumed after step 200: two windows of 20 steps on each node are done again."""
    summary = summarise(run_dir)
    again = [
        window
        for file in read_run(run_dir).files
        if file.path.name.endswith("attempt-1.jsonl")
        for window in file.records
        if isinstance(window, Window) and window.steps and window.last_step <= 240
    ]
    assert len(again) == 4
    assert summary.waste.redone_steps == 40
    assert summary.waste.redone_energy_j == pytest.approx(math.fsum(energies_of(again)), rel=1e-12)
    assert summary.progress.steps == 480
    assert summary.progress.last_step == 440
    assert summary.progress.tokens == 480 * 8192
    restarts = [
        window
        for file in read_run(run_dir).files
        if file.path.name.endswith("attempt-1.jsonl")
        for window in file.records
        if isinstance(window, Window) and window.phase == "startup"
    ]
    assert summary.waste.restart_energy_j == pytest.approx(math.fsum(energies_of(restarts)), rel=1e-12)


@pytest.mark.parametrize(
    ("loaded_at", "done_before", "redone"),
    [(70, 0, 50), (60, 5, 65), (110, 20, 30)],
    ids=["between windows", "in the middle of a window", "a whole window before"],
)
def test_steps_after_a_checkpoint_was_loaded_while_training_are_done_twice(
    job: Job, tmp_path: Path, loaded_at: int, done_before: int, redone: int
) -> None:
    """After six windows of 20 steps each, `done_before` more ones, and then the run goes on after `loaded_at`."""
    job.nodes = 1
    records = job.records(RUN_ID, 0, 0, Attempt(0, 18), RUN_START_UNIX_S)
    back = 120 + done_before - loaded_at
    again = [
        msgspec.structs.replace(record, last_step=record.last_step - back)
        if isinstance(record, Window) and record.last_step > 120
        else record
        for record in records
    ]
    write(tmp_path, again)

    summary = summarise(tmp_path)

    assert summary.waste.redone_steps == redone == back
    per_step_j = summary.by_phase["train"].energy_j / (18 * 20)
    assert summary.waste.redone_energy_j == pytest.approx(redone * per_step_j, rel=0.02)


def test_run_without_a_restart_wastes_nothing(job: Job, tmp_path: Path) -> None:
    job.attempts = [Attempt(0, 10)]
    job.write(tmp_path)
    waste = summarise(tmp_path).waste
    assert (waste.redone_steps, waste.redone_energy_j, waste.restart_energy_j) == (0, 0.0, 0.0)


def test_training_in_which_no_step_ends_is_told(job: Job, tmp_path: Path) -> None:
    """Four windows of 20 steps each and then none any more, as after an interrupt in a notebook."""
    records = job.records(RUN_ID, 0, 0, Attempt(0, 12), RUN_START_UNIX_S)
    last = [record for record in records if isinstance(record, Window) and record.phase == "train"][3]
    stalled = [
        msgspec.structs.replace(record, phase="train", steps=0, last_step=last.last_step)
        if isinstance(record, Window) and record.index > last.index
        else record
        for record in records
    ]
    write(tmp_path / "stalled", stalled)
    write(tmp_path / "usual", records)

    after = [record for record in stalled if isinstance(record, Window) and record.index > last.index]
    summary = summarise(tmp_path / "stalled")
    assert summary.period.stalled_s == pytest.approx(sum(window.duration_s for window in after))
    assert any("no step ended" in warning for warning in warnings(summary))
    assert summarise(tmp_path / "usual").period.stalled_s == 0


def test_tokens_say_how_they_were_counted(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path / "by-steps")
    said = summarise(tmp_path / "by-steps").progress
    records = job.records(RUN_ID, 0, 0, Attempt(0, 4), RUN_START_UNIX_S)
    write(
        tmp_path / "counted",
        [
            msgspec.structs.replace(record, tokens=record.tokens + record.index)
            if isinstance(record, Window)
            else record
            for record in records
        ],
    )

    assert said.tokens_source == "steps times 8,192"
    assert summarise(tmp_path / "counted").progress.tokens_source == "counted step by step"


def test_missing_node_makes_the_total_n_of_m(run_dir: Path) -> None:
    assert summarise(run_dir).coverage.gpus_measured == 4
    for path in run_dir.glob("node-1.*"):
        path.unlink()
    coverage = summarise(run_dir).coverage
    assert (coverage.nodes_seen, coverage.nodes) == (1, 2)
    assert (coverage.gpus_measured, coverage.gpus_seen, coverage.gpus) == (2, 2, 4)


def test_lost_gpu_is_absent_and_not_zero(job: Job, tmp_path: Path) -> None:
    job.lost_gpu = (0, 1, 6)
    job.write(tmp_path)
    summary = summarise(tmp_path)
    lost = next(device for device in summary.devices if device.identity.key == job.gpu_key(0, 1))
    assert 0 < lost.energy.meters.absent < 0.5
    assert lost.energy.meters.quality == "mixed"
    assert lost.notes == ["GPU is lost"]
    assert lost.mean_power_w is not None
    assert 300.0 < lost.mean_power_w < 400.0  # start-up and evaluation draw less; the lost time is not averaged in
    assert summary.coverage.gpus_measured == 4
    assert summary.by_rung["host"].meters.quality == "modelled"


def own_windows(records: list, writer: int) -> list:
    """Return what a second writer records of the same time. It is no copy of the first one's records, because its first
    window is a microsecond shorter.
    """
    return [
        msgspec.structs.replace(record, duration_s=record.duration_s - 1e-6 * writer * (record.index == 0))
        if isinstance(record, Window)
        else record
        for record in records
    ]


def test_gpu_that_two_files_metered_is_counted_once_and_reported(job: Job, tmp_path: Path) -> None:
    """Two containers on one host that both read the same GPU."""
    job.nodes, job.gpus, job.attempts = 1, 1, [Attempt(0, 6)]
    records = job.records(RUN_ID, 0, 0, Attempt(0, 6), 0.0)
    first = write(tmp_path, records)
    once_j = summarise(tmp_path).energy.energy_j
    manifest = records[0]
    assert isinstance(manifest, Manifest)
    write(tmp_path, [msgspec.structs.replace(manifest, node=1, nodes=2), *own_windows(records[1:], 1)], node=1)
    summary = summarise(tmp_path)
    assert summary.energy.energy_j == once_j
    assert {(overlap.file, overlap.counted_in) for overlap in summary.coverage.overlaps} == {
        ("node-1.attempt-0.jsonl", first.name)
    }
    assert summary.reserved.device_s == pytest.approx(summary.period.active_s)


def test_reserved_time_starts_at_the_allocation(job: Job, tmp_path: Path) -> None:
    job.attempts = [Attempt(0, 6, reserved_before_s=600.0)]
    job.write(tmp_path)
    summary = summarise(tmp_path)
    assert summary.reserved.before_first_record_s == pytest.approx(4 * 600.0)
    assert summary.reserved.device_s == pytest.approx(4 * (summary.period.active_s + 600.0))
    assert summary.reserved.host_s == pytest.approx(2 * 0.25 * (summary.period.active_s + 600.0))


def idle_w(profile: str, summary: AuditSummary) -> float:
    """Return the power of an idle device with its part of the rungs that the run names, W."""
    power = idle_power(profile, summary.coverage.nodes)
    assert power is not None
    return sum(watts.value for rung, watts in power.by_rung.items() if rung in summary.by_rung)


def test_reserved_time_without_records_is_in_the_energy_as_idle_and_has_a_line_of_its_own(
    factors: Factors, job: Job, tmp_path: Path
) -> None:
    """An idle H100 draws 70 W, and its eighth of a host of 2,000 W with 10 % of the device's power 257 W."""
    job.factors = msgspec.to_builtins(factors)
    job.intensity_g_per_kwh, job.pue = factors.intensity.figure.value, factors.pue.value
    job.attempts = [Attempt(0, 6)]
    job.write(tmp_path / "recorded")
    recorded = summarise(tmp_path / "recorded")
    job.attempts = [Attempt(0, 6, reserved_before_s=60.0)]
    job.write(tmp_path / "waited")

    summary = summarise(tmp_path / "waited")

    waited = summary.by_phase[UNOBSERVED_PHASE]
    assert waited.energy_j == pytest.approx(4 * 60.0 * idle_w("h100-sxm", summary))
    assert waited.energy_j == pytest.approx(4 * 60.0 * (70.0 + 2000.0 / 8 + 0.1 * 70.0))
    assert waited.measured_j == 0.0
    assert summary.energy.energy_j == pytest.approx(recorded.energy.energy_j + waited.energy_j)
    assert summary.energy.measured_j == pytest.approx(recorded.energy.measured_j)
    assert summary.footprint is not None
    assert recorded.footprint is not None
    assert summary.footprint.operational_kg.value == pytest.approx(
        summary.energy.energy_j * 1.2 * factors.intensity.figure.value / 3.6e9
    )
    assert sum(rung.energy_j for rung in summary.by_rung.values()) == pytest.approx(summary.energy.energy_j)
    assert "modelled as idle (h100-sxm in" in " ".join(warnings(summary))
    assert not summary.reserved.unknown_s


def test_reserved_time_of_a_device_without_a_profile_is_said_to_be_in_no_total(job: Job, tmp_path: Path) -> None:
    job.attempts, job.gpus = [Attempt(0, 6, reserved_before_s=60.0)], 0
    job.write(tmp_path)

    summary = summarise(tmp_path)

    assert UNOBSERVED_PHASE not in summary.by_phase
    assert summary.reserved.unknown_s == pytest.approx(2 * 60.0)
    said = "of reserved device time are in no record (before the first one of an attempt): their energy is in no total"
    assert said in " ".join(warnings(summary))


def test_slices_of_gpus_are_charged_as_parts_of_them(job: Job, tmp_path: Path) -> None:
    job.attempts, job.gpu_share = [Attempt(0, 6)], 0.25
    job.write(tmp_path)
    summary = summarise(tmp_path)
    coverage = summary.coverage
    assert (coverage.gpus, coverage.gpu_slices, coverage.whole_gpus) == (4, 4, 1.0)
    assert summary.reserved.device_s == pytest.approx(1.0 * summary.period.active_s)
    assert summary.reserved.devices_from == "GPUs that the ledgers name, a MIG slice as its share of a GPU"
    assert "on 4 MIG slices of 2 nodes" in opening(summary)


def test_gap_counts_as_reserved_only_when_the_allocation_spans_it(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path / "released")
    released = summarise(tmp_path / "released")
    assert released.reserved.device_s == pytest.approx(4 * released.period.active_s)
    job.attempts = [Attempt(0, 12, closed=False), Attempt(200, 12, 60.0, reserved_before_s=100.0)]
    job.write(tmp_path / "held")
    held = summarise(tmp_path / "held")
    assert held.reserved.device_s == pytest.approx(4 * held.period.wall_s)


def test_part_of_a_host_is_charged_in_part(job: Job, tmp_path: Path) -> None:
    job.nodes = 1
    records = job.records(RUN_ID, 0, 0, Attempt(0, 6), 0.0)
    manifest = records[0]
    assert isinstance(manifest, Manifest)
    write(tmp_path, [msgspec.structs.replace(manifest, host_share=0.25), *records[1:]])
    summary = summarise(tmp_path)
    assert summary.reserved.host_s == pytest.approx(0.25 * summary.period.active_s)


def test_containers_of_a_host_add_up_and_gpus_that_two_of_them_read_count_once(job: Job, tmp_path: Path) -> None:
    gpu_j = []
    for container, of_node in enumerate((0, 1, 1)):
        records = job.records(RUN_ID, of_node, 0, Attempt(0, 4), RUN_START_UNIX_S)
        manifest = records[0]
        assert isinstance(manifest, Manifest)
        part = msgspec.structs.replace(manifest, host_key="boot-0", host_share=0.5, node=container, nodes=3)
        write(tmp_path, [part, *own_windows(records[1:], container)], container)
        summary = summarise(tmp_path)
        gpu_j.append(summary.by_rung["gpu"].energy_j)
    assert gpu_j[0] < 0.6 * gpu_j[1]
    assert gpu_j[2] == gpu_j[1]
    assert summary.coverage.gpus_seen == 4
    assert summary.reserved.host_s == pytest.approx(summary.period.wall_s)
    assert summary.reserved.device_s == pytest.approx(4 * summary.period.wall_s)
    assert {overlap.key for overlap in summary.coverage.overlaps} >= {job.gpu_key(1, 0), job.gpu_key(1, 1)}


def test_cpu_run_counts_ranks_as_devices(job: Job, tmp_path: Path) -> None:
    records = job.records(RUN_ID, 0, 0, Attempt(0, 6), 0.0)
    manifest, host = records[0], job.host_key(0)
    assert isinstance(manifest, Manifest)
    cpu_only = [
        msgspec.structs.replace(record, energies=[energy for energy in record.energies if energy.key == host])
        for record in records
        if isinstance(record, Window)
    ]
    devices = [device for device in manifest.devices if device.key == host]
    write(tmp_path, [msgspec.structs.replace(manifest, nodes=1, world_size=2, devices=devices), *cpu_only])
    summary = summarise(tmp_path)
    assert summary.coverage.gpus == 0
    assert summary.reserved.device_s == pytest.approx(2 * summary.period.active_s)
    assert summary.reserved.devices_from == "ranks, because no GPU was seen"
    assert summary.forecast is not None
    assert summary.forecast.parts


def test_run_without_a_site_has_energy_and_says_why_it_has_no_carbon(job: Job, tmp_path: Path) -> None:
    job.factors, job.intensity_g_per_kwh, job.pue = {}, None, None
    job.write(tmp_path)
    summary = summarise(tmp_path)
    assert summary.energy.energy_j > 0
    assert summary.energy.operational_kg is None
    assert summary.footprint is None
    assert summary.no_carbon_reason == "the run was given no site, and a grid intensity is never guessed"
    assert summary.forecast is not None
    assert summary.forecast.no_parts_reason == "the run has no carbon to compare with"


def test_forecast_error_adds_up_to_the_difference(run_dir: Path) -> None:
    summary = summarise(run_dir)
    forecast, footprint = summary.forecast, summary.footprint
    assert forecast is not None
    assert footprint is not None
    assert forecast.embodied_kg is not None
    operational_kg = sum(part.carbon_kg for part in forecast.parts)
    difference_kg = footprint.total_kg.value - forecast.footprint.total_kg.value
    assert operational_kg + forecast.embodied_kg == pytest.approx(difference_kg, rel=1e-9)
    ratio = footprint.operational_kg.value / forecast.footprint.operational_kg.value
    assert math.prod(part.factor for part in forecast.parts) == pytest.approx(ratio, rel=1e-9)
    factors = {part.cause: part.factor for part in forecast.parts}
    assert factors["spec drift"] == pytest.approx(0.45 / 0.4 * 390 / 380)
    assert factors["step time"] == pytest.approx(0.5 / 0.45, rel=0.03)


def test_measured_steps_are_compared_with_the_prediction_of_one_node(run_dir: Path) -> None:
    steps = summarise(run_dir).steps
    assert steps is not None
    assert (steps.steps, steps.spans, steps.node) == (480, 24, 0)
    assert steps.measured_step_time_s.value == pytest.approx(0.5, rel=0.03)
    assert steps.measured_step_time_s.kind == "measured"
    assert steps.predicted_step_time_s is not None
    assert steps.predicted_step_time_s.value == pytest.approx(0.45)
    assert steps.predicted_step_time_s.low == pytest.approx(0.85 * 0.45)
    assert steps.measured_gpu_energy_per_step_j == pytest.approx(0.5 * 800, rel=0.03)


def test_run_without_prediction_shows_measured_steps_only(job: Job, tmp_path: Path) -> None:
    job.prediction = job.predicted_step_time_s = None
    job.write(tmp_path)
    summary = summarise(tmp_path)
    assert summary.steps is not None
    assert summary.steps.predicted_step_time_s is None
    assert set(summary.series.steps.predicted_s) == {None}
    assert summary.forecast is not None
    step_time = next(part for part in summary.forecast.parts if part.cause == "step time")
    assert "spec drift" not in {part.cause for part in summary.forecast.parts}
    assert step_time.explanation.endswith("because nothing predicted the spec that ran")
    assert math.prod(part.factor for part in summary.forecast.parts) == pytest.approx(
        summary.footprint.operational_kg.value / summary.forecast.footprint.operational_kg.value
    )


def test_tampered_ledger_is_summed_up_and_not_believed(run_dir: Path) -> None:
    path = run_dir / "node-0.attempt-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"duration_s":10.0', b'"duration_s":10.5', 1))
    summary = summarise(run_dir)
    assert not summary.verification.ok
    assert summary.verification.problems[0].startswith("node-0.attempt-0.jsonl: line ")
    assert summary.energy.energy_j == math.fsum(energies_of(windows_of(run_dir)))


def test_torn_ledger_loses_only_its_last_record(run_dir: Path) -> None:
    path = run_dir / "node-1.attempt-1.jsonl"
    records = read_ledger(path).records
    path.write_bytes(path.read_bytes()[:-20])
    summary = summarise(run_dir)
    assert summary.verification.state == "incomplete"
    assert read_ledger(path).records == records[:-1]
    assert summary.energy.energy_j == math.fsum(energies_of(windows_of(run_dir)))


def test_attempt_killed_before_its_first_record_changes_nothing(run_dir: Path) -> None:
    before = summarise(run_dir)
    (run_dir / "node-0.attempt-2.jsonl").touch()
    after = summarise(run_dir)
    assert after.energy == before.energy
    assert after.verification.ok


def test_anchor_is_looked_up(run_dir: Path) -> None:
    head = read_ledger(run_dir / "node-0.attempt-1.jsonl").head
    assert summarise(run_dir, [head]).verification.anchors[0].file == "node-0.attempt-1.jsonl"
    assert not summarise(run_dir, ["0" * 32]).verification.ok


def test_manifest_that_came_after_detection_is_the_one_in_force(job: Job, tmp_path: Path) -> None:
    records = job.records(RUN_ID, 0, 0, Attempt(0, 3), 0.0)
    early = msgspec.structs.replace(records[0], effective={}, total_steps=None, prediction=None)
    write(tmp_path, [early, records[1], records[0], *records[2:]])
    summary = summarise(tmp_path)
    assert summary.verification.ok
    assert summary.progress.total_steps == 1000
    assert summary.run.effective["layout.dp_shard"]["source"] == "FSDP2 device mesh"


def test_single_window_is_a_run(job: Job, tmp_path: Path) -> None:
    write(tmp_path, job.records(RUN_ID, 0, 0, Attempt(0, 0), RUN_START_UNIX_S)[:2])
    summary = summarise(tmp_path)
    assert summary.energy.energy_j == math.fsum(energies_of(windows_of(tmp_path)))
    assert summary.steps is None
    assert summary.period.wall_s == pytest.approx(15.0)


def test_manifest_alone_is_a_run_of_unknown_energy(job: Job, tmp_path: Path) -> None:
    write(tmp_path, job.records(RUN_ID, 0, 0, Attempt(0, 0), RUN_START_UNIX_S)[:1])
    summary = summarise(tmp_path)
    assert summary.energy.energy_j == 0
    assert summary.energy.meters.quality == "absent"
    assert not summary.energy.is_known
    assert summary.footprint is None


extreme = st.sampled_from([0.0, -1.0, 1e-300, 1e18, 1e300, -1e300])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, about numbers beyond the range of floats
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nonsense_in_a_ledger_is_a_finding_and_never_a_crash(factors: Factors, data: st.DataObject) -> None:
    """Fields of random records replaced by extreme values, and lines cut or spoilt."""
    job = Job(nodes=1, gpus=1, factors=msgspec.to_builtins(factors))
    records = job.records(RUN_ID, 0, 0, Attempt(0, 4), 0.0)
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(records) - 1))
        record = records[number]
        names = [name for name in record.__struct_fields__ if isinstance(getattr(record, name), int | float)]
        name = data.draw(st.sampled_from(names)) if names else None
        if name and name != "version":
            value = data.draw(extreme)
            kept: Any = int(value) if isinstance(getattr(record, name), int) and abs(value) < 1e18 else value
            records[number] = msgspec.structs.replace(record, **{name: kept})
    with tempfile.TemporaryDirectory() as directory:
        writer = LedgerWriter(directory, run_id=RUN_ID, node=0)
        for record in records:
            try:
                writer.write(record)
            except LedgerError:  # a float in a field of integers: the writer refuses it
                continue
        content = bytearray(writer.path.read_bytes())
        for _ in range(data.draw(st.integers(0, 2))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        writer.path.write_bytes(content)
        with contextlib.suppress(LedgerError):  # nothing readable is left, or a version of the future
            render_text(summarise(directory))


@pytest.mark.parametrize(
    ("cut", "why"),
    [
        (lambda lines: lines[1:], "line 1 is not a manifest"),
        (lambda lines: [lines[0][:100]], "no complete record"),
        (lambda _: [], "no complete record"),
        (lambda _: [b"nonsense\n"], "line 1"),
    ],
)
@pytest.mark.parametrize("nodes", [1, 2])
def test_directory_in_which_no_file_has_a_manifest_names_one_says_why_and_what_helps(
    run_dir: Path, tmp_path: Path, cut: Any, why: str, nodes: int
) -> None:
    lines = sorted(ledger_files(run_dir))[0].read_bytes().splitlines(keepends=True)
    for node in range(nodes):
        (tmp_path / f"node-{node}.attempt-0.jsonl").write_bytes(b"".join(cut(lines)))

    with pytest.raises(LedgerError) as error:
        summarise(tmp_path)

    assert str(error.value).startswith(f"{tmp_path / 'node-0.attempt-0.jsonl'}: {why}")
    assert ("1 other file lacks its manifest too" in str(error.value)) == (nodes == 2)
    assert str(error.value).endswith("Put whole copies of the files back, from a backup or from where they were copied")


def test_summary_survives_json(run_dir: Path) -> None:
    summary = summarise(run_dir)
    encoded = msgspec.json.encode(summary)
    assert msgspec.json.encode(msgspec.json.decode(encoded, type=AuditSummary)) == encoded


def test_ledger_of_the_first_version_can_be_audited() -> None:
    golden = Path(__file__).parents[1] / "ledger" / "data" / "version-1"
    summary = summarise(golden)
    assert summary.verification.ok
    waited_j = summary.by_phase[UNOBSERVED_PHASE].energy_j
    assert waited_j == pytest.approx(summary.reserved.modelled_idle_s * idle_w("h100-sxm", summary), rel=1e-9)
    assert summary.energy.energy_j == 4500.25 + waited_j
    assert summary.no_carbon_reason == "the factors in the ledger are incomplete"


def without_spans(run_dir: Path, *, short: bool) -> AuditSummary:
    """Return the audit of a run without spans that are long enough, with or without short ones in their place."""
    job = Job(nodes=1, attempts=[Attempt(0, 3)])
    identity = agree_run(run_dir, name="run", run_id="c" * 32)
    writer = LedgerWriter(run_dir, run_id=identity.run_id, node=0)
    for record in job.records(identity.run_id, 0, 0, job.attempts[0], RUN_START_UNIX_S):
        if isinstance(record, Span):
            if not short:
                continue
            record = msgspec.structs.replace(record, short=True, boundary_error_s=record.step_time_s)  # noqa: PLW2901
        writer.write(record)
    writer.close()
    return summarise(run_dir)


@pytest.mark.parametrize(("short", "basis"), [(True, "short spans"), (False, "windows")])
def test_a_run_without_a_span_has_a_measured_step_time_with_a_wider_error(tmp_path, short, basis):
    summary = without_spans(tmp_path / "run", short=short)
    job = Job().write(tmp_path / "usual") and summarise(tmp_path / "usual")
    steps, usual = summary.steps, job.steps

    assert (steps.basis, usual.basis) == (basis, "spans")
    assert steps.measured_step_time_s.kind == "measured"
    assert steps.measured_step_time_s.value == pytest.approx(0.5, rel=0.05)
    relative, of_usual = (
        (figure.high - figure.low) / figure.value for figure in (steps.measured_step_time_s, usual.measured_step_time_s)
    )
    assert relative > of_usual
    line = next(line for line in render_text(summary).splitlines() if line.startswith("step time: measured"))
    assert "step" in line.partition("(")[2]
