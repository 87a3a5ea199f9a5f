"""Following ledgers that are still being written."""

from __future__ import annotations

from pathlib import Path

from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import Event, Record
from carbon_plugin.ledger.tail import LedgerTail, RunTail
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import Attempt, Job

RUN_ID = "b" * 32


def records(node: int = 0) -> list[Record]:
    return Job().records(RUN_ID, node, 0, Attempt(0, 5), 0.0)


def test_each_poll_gives_only_what_is_new(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path, run_id=RUN_ID, node=0)
    tail = LedgerTail(writer.path)
    assert tail.poll() == []
    seen: list[Record] = []
    for record in records():
        writer.write(record)
        new = tail.poll()
        assert new == [record]
        assert tail.head == writer.head
        seen += new
    assert tail.poll() == []
    assert seen == records()
    assert tail.intact


def test_half_a_line_is_left_for_the_next_poll(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path, run_id=RUN_ID, node=0)
    for record in records():
        writer.write(record)
    content = writer.path.read_bytes()
    growing = tmp_path / "elsewhere" / writer.path.name
    growing.parent.mkdir()
    growing.touch()
    tail = LedgerTail(growing)
    seen: list[Record] = []
    for end in range(0, len(content) + 97, 97):
        growing.write_bytes(content[:end])
        seen += tail.poll()
    assert seen == records()
    assert tail.intact
    assert tail.head == writer.head


def test_small_reads_find_long_lines(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path, run_id=RUN_ID, node=0)
    for record in records():
        writer.write(record)
    tail = LedgerTail(writer.path, max_bytes=64)
    seen: list[Record] = []
    polls = 0
    while new := tail.poll():
        polls += 1
        seen += new
    assert seen == records()
    assert polls > 1


def test_edited_line_is_noticed_while_following(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path, run_id=RUN_ID, node=0)
    tail = LedgerTail(writer.path)
    writer.write(records()[0])
    tail.poll()
    writer.write(Event(at_unix_s=1.0, kind="note", message="one"))
    writer.path.write_bytes(writer.path.read_bytes().replace(b'"one"', b'"two"'))
    assert [record.message for record in tail.poll() if isinstance(record, Event)] == ["two"]
    assert not tail.intact


def test_file_that_is_not_there_yet_has_nothing_new(tmp_path: Path) -> None:
    assert LedgerTail(tmp_path / "node-0.attempt-0.jsonl").poll() == []


def test_run_tail_finds_nodes_that_come_late_and_leaves_its_own_file_out(tmp_path: Path) -> None:
    own = LedgerWriter(tmp_path, run_id=RUN_ID, node=0)
    tail = RunTail(tmp_path, own=own.path)
    own.write(records()[0])
    assert tail.poll() == {}
    late = LedgerWriter(tmp_path, run_id=RUN_ID, node=1)
    for record in records(1):
        late.write(record)
    assert tail.poll() == {late.path.name: records(1)}
    assert tail.poll() == {}
    assert tail.heads() == {late.path.name: read_ledger(late.path).head}


def test_node_whose_file_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "node-1.attempt-0.jsonl").mkdir()
    other = LedgerWriter(tmp_path, run_id=RUN_ID, node=2)
    other.write(records(2)[0])
    tail = RunTail(tmp_path)
    assert list(tail.poll()) == [other.path.name]
    assert list(tail.unreadable) == ["node-1.attempt-0.jsonl"]
