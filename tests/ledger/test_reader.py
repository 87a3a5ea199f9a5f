"""Reading ledgers that are whole, torn, edited, old or from the future."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.reader import LedgerStream, manifest_of, read_ledger, read_run
from carbon_plugin.ledger.records import Close, Event, Manifest, Projection, Span, Window
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import Job

GOLDEN = Path(__file__).parent / "data" / "version-1"


def first_file(run_dir: Path) -> Path:
    return run_dir / "node-0.attempt-0.jsonl"


def test_directory_without_ledgers_is_no_empty_run(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger here, expected files node-\*\.attempt-\*\.jsonl"):
        read_run(tmp_path)


def test_run_is_read_with_all_nodes_and_attempts(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert run.identity is not None
    assert run.identity.programme == "simulated-llm"
    assert [file.path.name for file in run.files] == [
        f"node-{node}.attempt-{attempt}.jsonl" for node in (0, 1) for attempt in (0, 1)
    ]
    assert all(file.intact and not file.problems for file in run.files)


@pytest.mark.parametrize("kept", [0, 1, 10, 33, 200, 1_000_000])
def test_torn_last_line_is_left_out_and_breaks_nothing(run_dir: Path, kept: int) -> None:
    path = first_file(run_dir)
    whole = read_ledger(path)
    lines = path.read_bytes().splitlines(keepends=True)
    torn = lines[-1].rstrip(b"\n")[:kept]
    path.write_bytes(b"".join(lines[:-1]) + torn)
    ledger = read_ledger(path)
    assert ledger.records == whole.records[:-1]
    assert ledger.intact
    assert ledger.torn_tail == bool(torn)


def test_edited_digit_is_found_and_only_that_line_is_blamed(run_dir: Path) -> None:
    path = first_file(run_dir)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = re.sub(
        rb'"energy_j":(\d)', lambda match: b'"energy_j":%d' % ((int(match[1]) + 1) % 10), lines[4], count=1
    )
    path.write_bytes(b"".join(lines))
    ledger = read_ledger(path)
    assert not ledger.intact
    assert ledger.problems[0] == "line 5 does not follow from the line before it: edited, or lines are missing"
    assert {problem[:7] for problem in ledger.problems} == {"line 5 ", "line 5:"}
    assert len(ledger.records) == len(lines)


def test_dropped_line_is_found(run_dir: Path) -> None:
    path = first_file(run_dir)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6] + lines[7:]))
    assert read_ledger(path).problems == [
        "line 7 does not follow from the line before it: edited, or lines are missing"
    ]


def test_swapped_lines_are_found(run_dir: Path) -> None:
    path = first_file(run_dir)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[6], lines[7] = lines[7], lines[6]
    path.write_bytes(b"".join(lines))
    assert not read_ledger(path).intact


@pytest.mark.parametrize("garbage", [b"\n", b"\x00" * 100 + b"\n", b"not a ledger\n", b"0" * 32 + b" {}\n", b"\xff\n"])
def test_garbage_between_records_is_reported_and_skipped(run_dir: Path, garbage: bytes) -> None:
    path = first_file(run_dir)
    whole = read_ledger(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], garbage, *lines[3:]]))
    ledger = read_ledger(path)
    assert not ledger.intact
    assert ledger.problems[0].startswith("line 4 ")
    assert ledger.records == whole.records


def test_every_line_broken_is_said_in_few_words(run_dir: Path) -> None:
    path = first_file(run_dir)
    path.write_bytes(b"x\n" * 500)
    ledger = read_ledger(path)
    assert len(ledger.problems) == 21
    assert ledger.problems[-1] == "480 more problems of lines"


def test_empty_file_is_intact_and_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "node-0.attempt-0.jsonl"
    path.touch()
    ledger = read_ledger(path)
    assert (ledger.records, ledger.intact, ledger.torn_tail, ledger.head) == ([], True, False, "")


def test_file_of_another_run_is_found(run_dir: Path) -> None:
    problems = read_ledger(first_file(run_dir), run_id="d" * 32).problems
    assert problems == [f"line 1 belongs to run {'a' * 32}, expected run {'d' * 32}"]


def test_file_without_a_manifest_in_front_is_found(run_dir: Path) -> None:
    path = first_file(run_dir)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    assert read_ledger(path).problems == ["line 1 is not a manifest, the record that a ledger begins with"]


def test_ledger_from_the_future_names_both_versions(run_dir: Path) -> None:
    path = first_file(run_dir)
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":99', 1))
    with pytest.raises(LedgerError, match="ledger version 99, but this carbon-plugin reads versions 1 to 1"):
        read_ledger(path)


def test_missing_file_and_directory_are_one_readable_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"node-0\.attempt-0\.jsonl: cannot be read: No such file"):
        read_ledger(first_file(tmp_path))
    with pytest.raises(LedgerError, match="nowhere: no such run directory"):
        read_run(tmp_path / "nowhere")


def test_later_manifest_replaces_the_earlier_one(tmp_path: Path) -> None:
    early = Job(total_steps=None).records("e" * 32, 0, 0, Job().attempts[0], 0.0)[0]
    late = Job(total_steps=77).records("e" * 32, 0, 0, Job().attempts[0], 0.0)[0]
    writer = LedgerWriter(tmp_path, run_id="e" * 32, node=0)
    writer.write(early)
    writer.write(late)
    assert manifest_of(read_ledger(writer.path).records) == late


def test_stream_does_not_hold_the_file_in_memory(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path, run_id="f" * 32, node=0)
    for record in Job(attempts=[]).records("f" * 32, 0, 0, Job().attempts[0], 0.0)[:1]:
        writer.write(record)
    event = Event(at_unix_s=0.0, kind="note", message="x" * 2000)
    for _ in range(3000):
        writer.write(event)
    tracemalloc.start()
    count = sum(1 for _ in LedgerStream(writer.path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 3001
    assert peak_bytes < writer.path.stat().st_size / 10


def test_golden_ledger_of_version_1_stays_readable() -> None:
    """Written by the first release's format and never touched again: whoever changes the records must still read it."""
    (ledger,) = read_run(GOLDEN).files
    assert ledger.intact
    assert ledger.problems == []
    assert ledger.head == "fc1e91f0ff77e023ef6b89f84b0968ca"
    manifest, startup, window, span, event, projection, close = ledger.records
    assert isinstance(manifest, Manifest)
    assert manifest.world_size == 2
    assert manifest.devices[0].key == "GPU-aaaa"
    assert manifest.devices[1].energy_kind == "modelled"
    assert manifest.factors["pue"]["value"] == 1.2
    assert isinstance(startup, Window)
    assert startup.phase == "startup"
    assert startup.energies[0].energy_j is None
    assert startup.energies[0].kind == "absent"
    assert isinstance(window, Window)
    assert (window.start_unix_s, window.duration_s, window.steps, window.last_step, window.tokens) == (
        1_760_000_005.0,
        10.0,
        20,
        20,
        163_840,
    )
    assert [energy.energy_j for energy in window.energies] == [3000.25, 1500.0]
    assert (window.energies[1].low_j, window.energies[1].high_j) == (900.0, 2250.0)
    assert (window.intensity_g_per_kwh, window.pue) == (41.4, 1.2)
    assert isinstance(span, Span)
    assert (span.step_time_s, span.predicted_step_time_s) == (0.5, 0.45)
    assert isinstance(event, Event)
    assert event.data == {"field": "tp", "planned": 2, "detected": 1}
    assert isinstance(projection, Projection)
    assert projection.energy_j == (1000.0, 2000.0, 3000.0)
    assert isinstance(close, Close)
    assert close.energy_j == 4500.25
