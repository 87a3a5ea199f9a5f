"""Runs of many windows and many files: flat memory, and the same numbers in however many processes."""

from __future__ import annotations

import logging
import math
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.audit.tally.parts import pass_over
from carbon_plugin.footprint.values import Factors
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.reader import read_ledger, read_run
from carbon_plugin.ledger.records import Manifest, Window
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import Attempt, Job

RUN_ID = "a" * 32


@pytest.fixture
def job(factors: Factors) -> Job:
    """Write a run of four nodes and three attempts whose energies no float holds exactly."""
    attempts = [Attempt(0, 12, closed=False), Attempt(200, 12, 60.0), Attempt(400, 6, 30.0)]
    return Job(nodes=4, attempts=attempts, factors=msgspec.to_builtins(factors))


def numbers(summary: AuditSummary) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(summary)
    del plain["created_unix_s"]
    return plain


def check_same(one: AuditSummary, other: AuditSummary) -> None:
    """Check that two audits are the same to the last bit, except for charts, whose bins were added up in
    another order.
    """
    found, expected = numbers(one), numbers(other)
    series, expected_series = found.pop("series"), expected.pop("series")
    assert found == expected
    assert series["rung_energy_j"].keys() == expected_series["rung_energy_j"].keys()
    for rung, energy_j in series["rung_energy_j"].items():
        assert energy_j == pytest.approx(expected_series["rung_energy_j"][rung], rel=1e-12)
    assert series["operational_kg"] == pytest.approx(expected_series["operational_kg"], rel=1e-12)
    assert series["gpu_power_w"].keys() == expected_series["gpu_power_w"].keys()
    for phase, energy_j in series["phase_energy_j"].items():
        assert energy_j == pytest.approx(expected_series["phase_energy_j"][phase], rel=1e-12, abs=1e-9)
    assert series["steps"] == expected_series["steps"]


def test_two_processes_find_what_one_finds(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path)

    summary = summarise(tmp_path, processes=2)

    check_same(summary, summarise(tmp_path, processes=1))
    windows = [record for file in read_run(tmp_path).files for record in file.records if isinstance(record, Window)]
    energies = [energy.energy_j or 0.0 for window in windows for energy in window.energies]
    assert summary.energy.energy_j == math.fsum(energies)


def test_a_gpu_that_two_files_metered_is_counted_once_in_however_many_processes(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path)
    records = read_ledger(tmp_path / "node-2.attempt-0.jsonl").records
    manifest = records[0]
    assert isinstance(manifest, Manifest)
    metered_again(tmp_path, [msgspec.structs.replace(manifest, node=7, file=""), *records[1:]], node=7)

    summary = summarise(tmp_path, processes=3)

    check_same(summary, summarise(tmp_path, processes=1))
    assert {overlap.file for overlap in summary.coverage.overlaps} == {"node-7.attempt-0.jsonl"}


def test_a_device_that_only_later_manifests_have_in_common_is_counted_once(job: Job, tmp_path: Path) -> None:
    """What the first lines say puts these files into different processes; then everything is done in one."""
    job.attempts = [Attempt(0, 4)]
    job.write(tmp_path)
    records = read_ledger(tmp_path / "node-2.attempt-0.jsonl").records
    manifest = records[0]
    assert isinstance(manifest, Manifest)
    whole = msgspec.structs.replace(manifest, node=7)
    metered_again(tmp_path, [msgspec.structs.replace(whole, devices=[]), whole, *records[1:]], node=7)

    check_same(summarise(tmp_path, processes=5), summarise(tmp_path, processes=1))


def test_a_copy_with_a_manifest_of_its_own_enters_no_sum_in_however_many_processes(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path)
    known = numbers(summarise(tmp_path, processes=1))
    manifest, *rest = read_ledger(tmp_path / "node-2.attempt-0.jsonl").records
    assert isinstance(manifest, Manifest)
    for node in (2, 7):  # as a later attempt of the same node, and as a node of its own
        writer = LedgerWriter(tmp_path, run_id=RUN_ID, node=node)
        stated = msgspec.structs.replace(manifest, node=node, attempt=writer.attempt, file=writer.path.name)
        for record in (stated, *rest):
            writer.write(record)
        writer.close()

    summary = summarise(tmp_path, processes=1)

    check_same(summarise(tmp_path, processes=3), summary)
    found = numbers(summary)
    differ = {name for name in known if found[name] != known[name]}
    assert differ <= {"verification"}, differ
    assert sum("a copy, which counts for nothing" in text for text in summary.verification.problems) == 2


def metered_again(run_dir: Path, records: list[Any], node: int) -> None:
    """Write a ledger of the same devices at nearly the same time, as a second meter would."""
    writer = LedgerWriter(run_dir, run_id=RUN_ID, node=node)
    for record in records:
        later = isinstance(record, Window)
        writer.write(msgspec.structs.replace(record, start_unix_s=record.start_unix_s + 1.0) if later else record)
    writer.close()


def test_the_part_of_a_process_that_fails_is_done_here(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job.write(tmp_path)
    expected = summarise(tmp_path, processes=1)

    monkeypatch.setattr(sys, "executable", "false")
    with caplog.at_level(logging.WARNING):
        check_same(summarise(tmp_path, processes=2), expected)
    assert "its part is done again here" in caplog.text

    monkeypatch.setattr(sys, "executable", str(tmp_path / "no interpreter"))
    with caplog.at_level(logging.WARNING):
        check_same(summarise(tmp_path, processes=2), expected)
    assert "there is no second process" in caplog.text


@pytest.mark.exhaustive
def test_memory_does_not_grow_with_windows(tmp_path: Path) -> None:
    peaks = []
    for windows in (2400, 9600):
        run_dir = tmp_path / str(windows)
        # The run is short, because an audit keeps one number for each second of a run, 8 MB of them at most.
        job = Job(nodes=1, gpus=1, window_s=0.1, step_time_s=0.005, attempts=[Attempt(0, windows)])
        job.write(run_dir)
        paths = ledger_files(run_dir)
        pass_over(paths, RUN_ID)  # what is loaded and kept at the first time is not the run's
        tracemalloc.start()
        passed = pass_over(paths, RUN_ID)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert passed.collected.files[0].steps == 20 * windows
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.exhaustive
def test_memory_for_the_documents_of_manifests_does_not_grow_with_files(tmp_path: Path) -> None:
    forecast = {"rows": [[float(number), str(number)] for number in range(2000)]}
    peaks = []
    for nodes in (2, 32):
        run_dir = tmp_path / str(nodes)
        Job(nodes=nodes, gpus=1, attempts=[Attempt(0, 1)], forecast=forecast).write(run_dir)
        paths = ledger_files(run_dir)
        tracemalloc.start()
        pass_over(paths, RUN_ID)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]
