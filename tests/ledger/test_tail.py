"""Following ledgers that are still being written."""

from __future__ import annotations

from pathlib import Path

from carbon_plugin.ledger.records import Event, Record
from carbon_plugin.ledger.tail import LedgerTail
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
