"""Verification: what honest software does passes, and what it does not do is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.codec import encode_record
from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import HEADS_EVENT, Close, DeviceEnergy, Event, Manifest, Record, Window
from carbon_plugin.ledger.sums import RunningSums
from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import Attempt, Job
from tests.ledger.chaining import chained, payloads_of

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
    """Return the records of one attempt, with each window replaced by what `change` makes of it, or dropped. The
    closing record states the few totals of an early version.
    """
    records: list[Record] = []
    for record in one_attempt():
        if isinstance(record, Close):
            record = msgspec.structs.replace(record, sums=None)  # noqa: PLW2901
        if isinstance(record, Window):
            changed = change(record.index, record)
            if changed is not None:
                records.append(changed)
        else:
            records.append(record)
    return records


def rechain(path: Path) -> None:
    """Compute the chain of a changed file anew, as a forger does."""
    path.write_bytes(chained(payloads_of(path.read_bytes())))


def test_honest_run_passes_and_its_killed_attempt_is_only_a_note(run_dir: Path) -> None:
    check = verify_run(run_dir)
    assert check.ok, check.all_problems
    by_file = {file.file: file for file in check.files}
    assert by_file["node-1.attempt-1.jsonl"].closed == "finished"
    assert by_file["node-1.attempt-0.jsonl"].closed is None
    assert by_file["node-1.attempt-0.jsonl"].notes == [
        "no closing record: the writer was killed, the end was cut off, or the run goes on"
    ]


def test_torn_tail_is_a_note(run_dir: Path) -> None:
    path = run_dir / "node-1.attempt-1.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    check = verify_run(run_dir)
    assert check.ok
    assert check.missing == [f"{path.name}: no closing record: killed, cut off, on a full disk, or still running"]
    assert any("last line is incomplete" in note for file in check.files for note in file.notes)


def test_file_without_a_record_is_a_note(run_dir: Path) -> None:
    (run_dir / "node-7.attempt-0.jsonl").touch()
    check = verify_run(run_dir)
    assert check.ok
    assert check.files[-1].notes == ["no complete record: the writer was killed before its first one"]


def test_edited_digit_fails_and_names_file_and_line(run_dir: Path) -> None:
    path = run_dir / "node-1.attempt-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"duration_s":10.0', b'"duration_s":11.0')
    path.write_bytes(b"".join(lines))
    check = verify_run(run_dir)
    assert not check.ok
    assert "node-1.attempt-1.jsonl: line 4 does not follow" in check.all_problems[0]


def forge(path: Path) -> None:
    """Change a record and compute the chain anew, so that the file is consistent with itself."""
    path.write_bytes(path.read_bytes().replace(b'"kind":"layout_difference"', b'"kind":"nothing_to_see"'))
    rechain(path)


def test_forgery_that_was_chained_again_needs_an_anchor_where_nobody_else_has_seen_the_ledger(tmp_path: Path) -> None:
    Job(nodes=1, attempts=[Attempt(0, 6)]).write(tmp_path)
    path = tmp_path / "node-0.attempt-0.jsonl"
    anchor = read_ledger(path).head
    assert verify_run(tmp_path, [anchor]).state == "verified"
    forge(path)
    assert verify_run(tmp_path).state == "unsealed"
    check = verify_run(tmp_path, [anchor])
    assert check.state == "contradicted"
    assert check.all_problems == [
        f"anchor {anchor} is not in any ledger of this run: lines were changed or removed since it was made"
    ]


def test_forgery_that_was_chained_again_is_found_by_the_ledger_of_another_node(run_dir: Path) -> None:
    assert verify_run(run_dir).state == "unsealed"
    forge(run_dir / "node-0.attempt-1.jsonl")
    (problem,) = verify_run(run_dir).all_problems
    assert problem.startswith("node-0.attempt-1.jsonl: does not hold chain")
    assert problem.endswith("which node-1.attempt-1.jsonl line 2 has seen in it")


def test_end_that_was_cut_off_is_missing_and_fails_with_the_anchor(tmp_path: Path) -> None:
    Job(nodes=1, attempts=[Attempt(0, 6)]).write(tmp_path)
    path = tmp_path / "node-0.attempt-0.jsonl"
    anchor = read_ledger(path).head
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
    check = verify_run(tmp_path)
    assert check.state == "incomplete"
    assert check.missing == [f"{path.name}: no closing record: killed, cut off, on a full disk, or still running"]
    assert verify_run(tmp_path, [anchor]).state == "contradicted"


def test_killed_attempt_is_complete_where_the_next_one_has_seen_its_end(run_dir: Path) -> None:
    killed = run_dir / "node-1.attempt-0.jsonl"
    assert not isinstance(read_ledger(killed).records[-1], Close)
    assert verify_run(run_dir).missing == []
    killed.write_bytes(b"".join(killed.read_bytes().splitlines(keepends=True)[:-1]))
    (problem,) = verify_run(run_dir).all_problems
    assert problem.startswith("node-1.attempt-0.jsonl: does not hold chain")


def test_file_that_is_gone_is_named_by_those_that_are_there(run_dir: Path) -> None:
    (run_dir / "node-1.attempt-0.jsonl").unlink()
    check = verify_run(run_dir)
    assert check.all_problems == ["node-1.attempt-0.jsonl: missing, but node-1.attempt-1.jsonl line 2 has seen it"]
    assert check.missing == [
        "node 1: no ledger beside node-0.attempt-0.jsonl",
        "node-1.attempt-0.jsonl: no such file, but one of a later attempt",
    ]


def test_node_that_is_gone_is_named(run_dir: Path) -> None:
    for path in run_dir.glob("node-1.*"):
        path.unlink()
    check = verify_run(run_dir)
    assert (check.state, check.missing) == ("incomplete", ["node 1: no ledger, of 2 nodes"])


def test_copy_under_another_name_is_found_and_counts_for_nothing(run_dir: Path) -> None:
    source = run_dir / "node-0.attempt-1.jsonl"
    (run_dir / "node-0.attempt-2.jsonl").write_bytes(source.read_bytes())
    assert verify_run(run_dir).all_problems == [
        "node-0.attempt-2.jsonl: line 1 says that this is node-0.attempt-1.jsonl: a copy under another name, which "
        "counts for nothing"
    ]
    assert read_ledger(run_dir / "node-0.attempt-2.jsonl").records == []


def test_copy_that_was_given_a_manifest_of_its_own_is_found_by_its_first_window(run_dir: Path) -> None:
    copy = run_dir / "node-0.attempt-2.jsonl"
    copy.write_bytes(
        (run_dir / "node-0.attempt-1.jsonl")
        .read_bytes()
        .replace(b'"attempt":1', b'"attempt":2')
        .replace(b"node-0.attempt-1", copy.name.removesuffix(".jsonl").encode())
    )
    rechain(copy)
    assert verify_run(run_dir).all_problems == [
        f"{copy.name}: begins with the window that node-0.attempt-1.jsonl begins with: a copy, which counts for nothing"
    ]


def test_window_and_close_that_were_put_behind_a_killed_attempt_are_found_by_the_next_one(run_dir: Path) -> None:
    path = run_dir / "node-1.attempt-0.jsonl"
    ledger = read_ledger(path)
    last = [record for record in ledger.records if isinstance(record, Window)][-1]
    later = run_dir / "node-1.attempt-1.jsonl"
    later.write_bytes(later.read_bytes().replace(b'"at_unix_s":1', b'"at_unix_s":2'))  # long after the forged window
    rechain(later)
    more = msgspec.structs.replace(last, index=last.index + 1, start_unix_s=last.start_unix_s + last.duration_s)
    value = bytes.fromhex(ledger.head)
    with path.open("ab") as file:
        payload = encode_record(more)
        file.write(chain.join_line(chain.extend(value, payload), payload))
    found = verify_run(run_dir).missing
    assert any("came after node-1.attempt-1.jsonl had seen its end" in sentence for sentence in found)


def test_closing_record_of_the_monitor_holds_every_figure_of_a_window(tmp_path: Path) -> None:
    *records, close = one_attempt()
    assert isinstance(close, Close)
    summed = RunningSums()
    for record in records:
        if isinstance(record, Window):
            summed.add(record)
    closed = msgspec.structs.replace(close, sums=summed.sums)
    assert verify_run(written(tmp_path / "honest", [*records, closed]).parent).state == "incomplete"  # one node of two
    for field, value in {"tokens": 1, "pue": 1.1, "intensity_g_per_kwh": 49.0, "duration_s": 9.99}.items():
        changed = [
            msgspec.structs.replace(record, **{field: value})
            if isinstance(record, Window) and record.index == 3
            else record
            for record in records
        ]
        check = verify_run(written(tmp_path / field, [*changed, closed]).parent)
        assert any("closes with" in problem for problem in check.all_problems), field


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"duration_s": 1e308}, "window 3 lasts 1e+308"),
        ({"duration_s": -1.0}, "window 3 lasts -1"),
        ({"start_unix_s": 1e308}, "window 3 starts at 1e+308"),
        ({"intensity_g_per_kwh": 1e308}, "window 3 has an intensity of 1e+308"),
        ({"pue": 0.0}, "window 3 has a PUE of 0"),
        ({"tokens": -5}, "window 3 has a number of tokens of -5"),
        ({"steps": 10**17}, "window 3 has a number of steps of 1e+17"),
        ({"energies": [DeviceEnergy(key="GPU-0000-0000", energy_j=1e308, kind="counter")]}, "has 1e+308 J, expected"),
        ({"energies": [DeviceEnergy(key="GPU-0000-0000", energy_j=1e6, kind="counter")]}, "has 1000000.0 J, expected"),
    ],
)
def test_figure_that_cannot_be_is_named_and_in_no_sum(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    def spoil(index: int, window: Window) -> Window:
        return msgspec.structs.replace(window, **change) if index == 3 else window

    path = written(tmp_path, windows_changed(spoil))
    assert any(words in problem for problem in verify_run(tmp_path).all_problems)
    kept = [record.index for record in read_ledger(path).records if isinstance(record, Window)]
    assert kept == [0, 1, 2, 4, 5, 6, 7, 8]


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
