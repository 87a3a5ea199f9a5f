"""A run directory that is full, read-only, moved or removed, at the start, in the middle or to the end: real processes.

Root may write anywhere, so a directory is made unusable by what stops root too: a limit of the size of files for a full
disk, and a file where a directory should be for a place that cannot be written.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.reader import LedgerFile, manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Projection, Window
from carbon_plugin.ledger.verification.verify import verify_run
from tests.ledger.builder import waited_j
from tests.monitor.launching import Launch, Process, Start, wait_until

FIRST_FILE = "node-0.attempt-0.jsonl"


def windows_in(path: Path) -> int:
    return path.read_bytes().count(b'"type":"window"') if path.exists() else 0


def records(file: LedgerFile, kind: type) -> list[Any]:
    return [record for record in file.records if isinstance(record, kind)]


def only_file(run_dir: Path) -> LedgerFile:
    (file,) = read_run(run_dir).files
    return file


def limit_files(process: Process, size_bytes: int) -> None:
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


class Outcome:
    """What a run left: its directory, and what it said on standard error."""

    def __init__(self, run_dir: Path, errors: str) -> None:
        self.run_dir = run_dir
        self.warnings = [
            line
            for line in errors.splitlines()
            if "carbon_plugin" in line and "; the record is " not in line and "report:" not in line
        ]


@pytest.fixture(scope="module")
def outcomes(node: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Run six jobs side by side, one for each kind of trouble with the disk."""
    top = tmp_path_factory.mktemp("disks")
    for name in ("unwritable", "unwritable for good"):
        (top / name).write_text("a file where the run directory should be")
    launches = {
        name: Launch(node, top / name).node(0, 1)
        for name in (
            "full for good",
            "full before its first record",
            "removed",
            "moved",
            "unwritable",
            "unwritable for good",
        )
    }
    # Room for run.json and for what the job says on its standard error, which is a file too, but not for a manifest.
    limit_files(launches["full before its first record"].processes[0], 2000)
    for launch in launches.values():
        launch.await_ready()
        launch.begin()

    full = top / "full for good" / FIRST_FILE
    wait_until(lambda: windows_in(full) >= 2)
    limit_bytes = full.stat().st_size + 100  # room for half a record
    limit_files(launches["full for good"].processes[0], limit_bytes)
    wait_until(lambda: full.stat().st_size >= limit_bytes)

    removed = top / "removed" / FIRST_FILE
    wait_until(lambda: windows_in(removed) >= 2)
    shutil.rmtree(removed.parent)
    wait_until(lambda: windows_in(removed) >= 4 and (removed.parent / "run.json").exists())

    moved = top / "moved to" / FIRST_FILE
    wait_until(lambda: windows_in(top / "moved" / FIRST_FILE) >= 2)
    (top / "moved").rename(moved.parent)
    had = windows_in(moved)
    wait_until(lambda: windows_in(moved) >= had + 3)  # a whole round of the monitor has passed since

    (top / "unwritable").unlink()
    wait_until(lambda: windows_in(top / "unwritable" / FIRST_FILE) >= 4)

    found = {}
    for name, launch in launches.items():
        launch.stop()
        _, errors = launch.processes[0].communicate(timeout=240)
        assert launch.processes[0].returncode == 0, errors
        found[name] = Outcome(top / name, errors)
    return found


def test_a_disk_that_stays_full_is_warned_of_once_and_at_the_end(outcomes):
    begins, ends = outcomes["full for good"].warnings

    assert FIRST_FILE in begins
    assert "kept in memory" in begins
    assert "are not in its ledger" in ends


def test_a_record_that_a_full_disk_cut_off_is_not_called_verified_alone(outcomes):
    summary = summarise(outcomes["full for good"].run_dir)
    verdict = render_text(summary).splitlines()[-1]

    assert summary.energy.energy_j > 0
    assert "no closing record" in verdict


def test_a_disk_that_is_full_from_the_start_is_warned_of_and_harms_nothing(outcomes):
    outcome = outcomes["full before its first record"]

    assert "kept in memory" in outcome.warnings[0]
    assert "this run has no record" in outcome.warnings[-1]
    assert len(outcome.warnings) == 2


def test_a_directory_that_is_removed_is_put_back_with_all_that_it_held(outcomes):
    run_dir = outcomes["removed"].run_dir
    file = only_file(run_dir)
    windows = records(file, Window)

    assert [window.index for window in windows] == list(range(len(windows)))
    assert records(file, Close)[0].windows == len(windows)
    assert verify_run(run_dir).ok, verify_run(run_dir).all_problems
    assert read_identity(run_dir).run_id == manifest_of(file.records).run_id
    assert outcomes["removed"].warnings == []


def test_a_directory_that_is_moved_takes_its_ledger_along_and_nothing_appears_where_it_was(outcomes):
    left, run_dir = outcomes["moved"].run_dir, outcomes["moved"].run_dir.with_name("moved to")
    file = only_file(run_dir)

    assert not left.exists()
    assert records(file, Close)[0].windows == len(records(file, Window))
    assert verify_run(run_dir).ok, verify_run(run_dir).all_problems
    assert read_identity(run_dir).run_id == manifest_of(file.records).run_id
    assert outcomes["moved"].warnings == []


def test_a_directory_that_becomes_writable_holds_the_run_from_its_start(outcomes):
    outcome = outcomes["unwritable"]
    file = only_file(outcome.run_dir)
    windows, manifest = records(file, Window), manifest_of(file.records)

    assert len(outcome.warnings) == 1
    assert windows[0].start_unix_s == pytest.approx(manifest.started_unix_s)
    assert [window.index for window in windows] == list(range(len(windows)))
    assert [event.kind for event in records(file, Event)].count("ledger_trouble") == 1
    assert manifest.run_id == read_identity(outcome.run_dir).run_id
    assert verify_run(outcome.run_dir).ok, verify_run(outcome.run_dir).all_problems
    total_j = records(file, Close)[0].energy_j
    assert records(file, Projection)[-1].spent_energy_j == pytest.approx(total_j + waited_j(outcome.run_dir))


def test_a_directory_that_stays_unwritable_is_said_at_both_ends(outcomes):
    begins, ends = outcomes["unwritable for good"].warnings

    assert str(outcomes["unwritable for good"].run_dir) in begins
    assert "this run has no record" in ends


FULL_FROM_THE_START = """
import resource, sys
from carbon_plugin import CarbonMonitor

sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))  # room for run.json
with CarbonMonitor(run_dir=sys.argv[1], site="FRA") as monitor:
    monitor.step_end()
"""


def test_a_run_without_a_record_names_no_report(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_FROM_THE_START, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=240)

    assert (tmp_path / "run" / FIRST_FILE).exists()
    assert "no report: nothing could be written in" in done.stderr
    assert "report: carbon-plugin audit" not in done.stderr
