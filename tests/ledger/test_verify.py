"""Verification: what honest software does passes, and what it does not do is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import Close, DeviceEnergy, Event, Manifest, Record, Window
from carbon_plugin.ledger.verify import HEADS_EVENT, verify_run
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import Attempt, Job

RUN_ID = "b" * 32


def written(run_dir: Path, records: list[Record], node: int = 0) -> Path:
    writer = LedgerWriter(run_dir, run_id=RUN_ID, node=node)
    for record in records:
        writer.write(record)
    writer.close()
    return writer.path


def one_attempt(node: int = 0, **job: Any) -> list[Record]:
    return Job(attempts=[Attempt(0, 6)], **job).records(RUN_ID, node, 0, Attempt(0, 6), 1000.0)


def windows_changed(change: Callable[[int, Window], Window | None]) -> list[Record]:
    """The records of one attempt, each window replaced by what `change` makes of it, or dropped."""
    records: list[Record] = []
    for record in one_attempt():
        if isinstance(record, Window):
            changed = change(record.index, record)
            if changed is not None:
                records.append(changed)
        else:
            records.append(record)
    return records


def rechain(path: Path) -> None:
    """What a forger does: compute the chain of a changed file anew."""
    value = chain.seed("a" * 32)
    lines = []
    for line in path.read_bytes().splitlines():
        payload = line[chain.HEX_DIGITS + 1 :]
        value = chain.extend(value, payload)
        lines.append(chain.join_line(value, payload))
    path.write_bytes(b"".join(lines))


def test_honest_run_passes_and_its_killed_attempt_is_only_a_note(run_dir: Path) -> None:
    check = verify_run(run_dir)
    assert check.ok, check.all_problems
    by_file = {file.file: file for file in check.files}
    assert by_file["node-1.attempt-1.jsonl"].closed == "finished"
    assert by_file["node-1.attempt-0.jsonl"].closed is None
    assert by_file["node-1.attempt-0.jsonl"].notes == ["no closing record: the writer was killed, or the run goes on"]


def test_torn_tail_is_a_note(run_dir: Path) -> None:
    path = run_dir / "node-0.attempt-0.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    check = verify_run(run_dir)
    assert check.ok
    assert any("last line is incomplete" in note for file in check.files for note in file.notes)


def test_file_without_a_record_is_a_note(run_dir: Path) -> None:
    (run_dir / "node-7.attempt-0.jsonl").touch()
    check = verify_run(run_dir)
    assert check.ok
    assert check.files[-1].notes == ["no complete record: the writer was killed before its first one"]


def test_edited_digit_fails_and_names_file_and_line(run_dir: Path) -> None:
    path = run_dir / "node-1.attempt-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"duration_s":10.0', b'"duration_s":11.0')
    path.write_bytes(b"".join(lines))
    check = verify_run(run_dir)
    assert not check.ok
    assert "node-1.attempt-1.jsonl: line 3 does not follow" in check.all_problems[0]


def test_rechained_forgery_passes_alone_and_fails_with_the_anchor(run_dir: Path) -> None:
    path = run_dir / "node-0.attempt-1.jsonl"
    anchor = read_ledger(path).head
    assert verify_run(run_dir, [anchor]).ok
    path.write_bytes(path.read_bytes().replace(b'"kind":"layout_difference"', b'"kind":"nothing_to_see"'))
    rechain(path)
    assert verify_run(run_dir).ok
    check = verify_run(run_dir, [anchor])
    assert not check.ok
    assert check.all_problems == [
        f"anchor {anchor} is not in any ledger of this run: lines were changed or removed since it was made"
    ]


def test_cut_off_end_passes_alone_and_fails_with_the_anchor(run_dir: Path) -> None:
    path = run_dir / "node-0.attempt-1.jsonl"
    anchor = read_ledger(path).head
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
    assert verify_run(run_dir).ok
    assert not verify_run(run_dir, [anchor]).ok


def test_anchor_taken_during_the_run_vouches_for_the_lines_before_it(run_dir: Path) -> None:
    path = run_dir / "node-0.attempt-1.jsonl"
    lines = path.read_bytes().splitlines()
    anchor = lines[9][: chain.HEX_DIGITS].decode()
    (found,) = verify_run(run_dir, [anchor.upper()]).anchors
    assert (found.file, found.line, found.lines) == (path.name, 10, len(lines))


@pytest.mark.parametrize("text", ["", "abc", "z" * 32, "0" * 31, "0" * 33])
def test_anchor_that_is_no_chain_is_one_readable_error(run_dir: Path, text: str) -> None:
    with pytest.raises(LedgerError, match="expected 32 hex digits"):
        verify_run(run_dir, [text])


def test_one_anchor_stands_for_all_nodes_when_their_heads_were_written_down(tmp_path: Path) -> None:
    other = written(tmp_path, one_attempt(node=1), node=1)
    heads = Event(
        at_unix_s=0.0, kind=HEADS_EVENT, message="heads", data={"heads": {other.name: read_ledger(other).head}}
    )
    records = one_attempt()
    own = written(tmp_path, [*records[:-1], heads, records[-1]])
    anchor = read_ledger(own).head
    assert verify_run(tmp_path, [anchor]).ok

    content = other.read_bytes()
    other.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    (problem,) = verify_run(tmp_path, [anchor]).all_problems
    assert problem.startswith("node-1.attempt-0.jsonl: does not hold chain")

    other.unlink()
    (problem,) = verify_run(tmp_path, [anchor]).all_problems
    assert problem.startswith("node-1.attempt-0.jsonl: missing, but node-0.attempt-0.jsonl line")


def test_missing_window_is_a_problem(tmp_path: Path) -> None:
    written(tmp_path, windows_changed(lambda index, window: None if index == 3 else window))
    problems = verify_run(tmp_path).all_problems
    assert any("window 4 where window 3 should be" in problem for problem in problems)
    assert any("closes with 9 windows, but the file has 8" in problem for problem in problems)
    assert any("but the windows add up to" in problem for problem in problems)


def test_overlapping_windows_are_a_problem(tmp_path: Path) -> None:
    def stretch(index: int, window: Window) -> Window:
        return msgspec.structs.replace(window, duration_s=14.0) if index == 2 else window

    written(tmp_path, windows_changed(stretch))
    (problem,) = verify_run(tmp_path).all_problems
    assert "window 3 begins 4.000 s before the one before it ends" in problem


def test_gap_between_windows_is_a_note(tmp_path: Path) -> None:
    def shorten(index: int, window: Window) -> Window:
        return msgspec.structs.replace(window, duration_s=4.0) if index == 2 else window

    written(tmp_path, windows_changed(shorten))
    check = verify_run(tmp_path)
    assert check.ok
    assert check.files[0].notes == ["no energy is known for 6.000 s before window 3"]


def test_energy_that_makes_no_sense_is_a_problem(tmp_path: Path) -> None:
    wrong = [
        DeviceEnergy(key="GPU-0000-0000", energy_j=-1.0, kind="counter"),
        DeviceEnergy(key="GPU-0000-0001", energy_j=None, kind="counter"),
        DeviceEnergy(key="GPU-unknown", energy_j=1.0, kind="counter"),
    ]

    def spoil(index: int, window: Window) -> Window:
        return msgspec.structs.replace(window, energies=wrong) if index == 2 else window

    written(tmp_path, windows_changed(spoil))
    problems = "\n".join(verify_run(tmp_path).all_problems)
    assert "device GPU-0000-0000 has -1.0 J" in problems
    assert "device GPU-0000-0001 has no energy but kind counter" in problems
    assert "energy of device GPU-unknown, which no manifest names" in problems


def test_step_that_runs_backwards_is_a_problem(tmp_path: Path) -> None:
    def turn_back(index: int, window: Window) -> Window:
        return msgspec.structs.replace(window, last_step=1) if index == 4 else window

    written(tmp_path, windows_changed(turn_back))
    assert any("step 1 comes after step 60" in problem for problem in verify_run(tmp_path).all_problems)


def test_records_after_the_close_are_a_problem(tmp_path: Path) -> None:
    written(tmp_path, [*one_attempt(), Event(at_unix_s=0.0, kind="note", message="late")])
    (problem,) = verify_run(tmp_path).all_problems
    assert "comes after the closing record" in problem


def test_total_of_another_size_is_a_problem(tmp_path: Path) -> None:
    *records, close = one_attempt()
    assert isinstance(close, Close)
    written(tmp_path, [*records, msgspec.structs.replace(close, energy_j=close.energy_j * 1.001)])
    (problem,) = verify_run(tmp_path).all_problems
    assert "but the windows add up to" in problem


def test_manifest_of_another_node_in_the_file_is_a_problem(tmp_path: Path) -> None:
    manifest, *rest = one_attempt()
    assert isinstance(manifest, Manifest)
    written(tmp_path, [manifest, msgspec.structs.replace(manifest, node=5), *rest])
    (problem,) = verify_run(tmp_path).all_problems
    assert "a manifest of node 5 attempt 0 in this file" in problem


def test_many_problems_are_said_in_few_words(tmp_path: Path) -> None:
    manifest = one_attempt()[0]
    events: list[Record] = [Event(at_unix_s=0.0, kind="n", message="m")] * 100
    written(tmp_path, [manifest, Close(at_unix_s=0.0, reason="x", steps=0, windows=0, energy_j=0.0), *events])
    problems = verify_run(tmp_path).all_problems
    assert len(problems) == 21
    assert problems[-1].endswith("more problems of this kind are left out")


def test_directory_without_a_ledger_suggests_the_run_inside_it(run_dir: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger here .*; did you mean .*/run\?"):
        verify_run(run_dir.parent)
    empty = run_dir.parent / "empty"
    empty.mkdir()
    with pytest.raises(LedgerError, match=r"no ledger here \(no file node-\*\.attempt-\*\.jsonl\)$"):
        verify_run(empty)
