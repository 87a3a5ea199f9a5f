"""Which files were written side by side: clocks, processes that outlive their launch, leaders that take over."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from carbon_plugin.ledger.held.expected import LEFT
from carbon_plugin.ledger.held.launches import SKEW_EVENT, clock_offsets, earlier_steps, launches_of
from carbon_plugin.ledger.held.outline import Outline, outline_of
from carbon_plugin.ledger.records import Event, Window
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import RUN_START_UNIX_S, Attempt, Job


def outline(
    name: str,
    start_s: float,
    trained_until_s: float,
    last_step: int = 0,
    *,
    left: bool = False,
    follows: tuple[str, ...] = (),
) -> Outline:
    node, _, attempt = name.partition(".")
    return Outline(
        path=Path(f"node-{node}.attempt-{attempt}.jsonl"),
        size_bytes=1,
        node=int(node),
        started_unix_s=start_s,
        trained_until_unix_s=trained_until_s,
        host_key=f"boot-{node}",
        last_step=last_step,
        devices=(),
        left=left,
        follows=follows,
    )


def launches(*outlines: Outline, **offsets_s: float) -> list[int]:
    known = {one.path.name: offsets_s.get(f"node_{one.node}", 0.0) for one in outlines}
    found = launches_of(outlines, known)
    return [found[one.path.name] for one in outlines]


def test_nodes_that_train_at_the_same_time_are_one_launch_whenever_they_joined() -> None:
    assert launches(outline("0.0", 0, 600), outline("1.0", 3, 601), outline("2.0", 300, 600)) == [0, 0, 0]


def test_a_node_that_is_new_after_a_restart_belongs_to_the_second_launch() -> None:
    assert launches(outline("0.0", 0, 300), outline("0.1", 330, 600), outline("1.0", 331, 600)) == [0, 1, 1]


def test_a_leader_that_follows_a_lost_one_is_of_the_same_launch() -> None:
    assert launches(outline("0.0", 0, 100), outline("0.1", 110, 600), outline("1.0", 0, 600)) == [0, 0, 0]


def test_a_rank_that_left_its_gpus_to_local_rank_0_is_of_the_launch_of_that_one() -> None:
    early = outline("0.rank-1", 0.0, 0.1, left=True)
    assert launches(early, outline("0.0", 0.1, 4), outline("0.1", 30, 60)) == [0, 0, 1]
    assert launches(early, outline("0.1", 30, 60)) == [0, 1]  # nobody took over


def test_a_file_that_goes_on_from_another_is_of_its_launch_however_long_nobody_metered_in_between() -> None:
    first, second = "node-0.attempt-0.jsonl", "node-0.attempt-1.jsonl"
    lost, taker = outline("0.0", 0, 100), outline("0.1", 130, 200, follows=(first,))

    assert launches(lost, outline("0.1", 130, 200)) == [0, 1]
    assert launches(lost, taker) == [0, 0]
    assert launches(lost, taker, outline("0.2", 220, 221, follows=(second,)), outline("0.3", 300, 400)) == [0, 0, 0, 1]
    assert launches(lost, outline("0.1", 130, 130, follows=(first,))) == [0, 0]  # it has no window
    assert launches(lost, outline("0.1", 130, 200, follows=("gone",))) == [0, 1]


def test_files_that_say_that_they_follow_each_other_are_put_in_order_all_the_same() -> None:
    names = [f"node-0.attempt-{number}.jsonl" for number in (0, 1)]

    assert launches(outline("0.0", 0, 10, follows=(names[1],)), outline("0.1", 20, 30, follows=(names[0],))) == [0, 0]


def test_a_process_that_outlives_its_launch_does_not_join_it_to_the_next() -> None:
    assert launches(outline("0.0", 0, 300), outline("1.0", 0, 340), outline("0.1", 310, 600)) == [0, 0, 1]


def test_a_rank_that_left_its_gpus_is_of_the_launch_of_whoever_took_over_from_local_rank_0() -> None:
    early, first = outline("0.rank-1", 0.0, 2.7, left=True), outline("0.0", 2.7, 2.8)
    assert launches(early, first, outline("0.1", 3.3, 9.0, follows=("node-0.attempt-0.jsonl",))) == [0, 0, 0]


def test_a_launch_that_crashes_before_its_first_step_is_one() -> None:
    assert launches(outline("0.0", 0, 20), outline("1.0", 1, 15), outline("0.1", 40, 600)) == [0, 0, 1]


def test_clocks_that_are_known_to_differ_are_put_right() -> None:
    files = outline("0.0", 0, 100), outline("0.1", 130, 600), outline("1.0", 10, 480)
    assert launches(*files) != [0, 1, 1]
    assert launches(*files, node_1=-120) == [0, 1, 1]


def test_steps_before_a_launch_are_the_most_that_any_earlier_one_has_done() -> None:
    files = outline("0.0", 0, 300, 240), outline("0.1", 330, 400, 60), outline("0.2", 500, 600, 300)
    known = {one.path.name: 0.0 for one in files}
    assert list(earlier_steps(files, launches_of(files, known)).values()) == [0, 240, 240]


def test_what_rank_0_noticed_of_a_node_goes_for_its_other_attempts(tmp_path: Path) -> None:
    writer = LedgerWriter(tmp_path, run_id="r", node=0)
    job = Job(nodes=2, attempts=[Attempt(0, 2)])
    writer.write(job.records("r", 0, 0, job.attempts[0], 0.0)[0])
    for offset_s in (100.0, 120.0):
        data = {"offsets_s": {"node-1.attempt-0.jsonl": offset_s, "gone": 1.0, "node-0.attempt-0.jsonl": "wrong"}}
        writer.write(Event(at_unix_s=0.0, kind=SKEW_EVENT, message="", data=data))
    own = outline_of(writer.path)
    assert own is not None
    found = clock_offsets([own, outline("1.0", 0, 1), outline("1.1", 2, 3), outline("2.0", 0, 1)])
    assert list(found.values()) == [0.0, 120.0, 120.0, 0.0]


def test_an_outline_says_what_the_whole_file_says(tmp_path: Path) -> None:
    """Also where the last step is far from the end, and the last line is torn."""
    job = Job(nodes=1, attempts=[Attempt(40, 3)])
    records = job.records("r", 0, 0, job.attempts[0], RUN_START_UNIX_S)
    writer = LedgerWriter(tmp_path, run_id="r", node=0)
    for record in records:
        writer.write(record)
    for number in range(400):
        writer.write(Event(at_unix_s=0.0, kind="note", message="x" * 1000, data={"number": number}))
    writer.path.write_bytes(writer.path.read_bytes()[:-7])

    found = outline_of(writer.path)

    assert found is not None
    assert (found.node, found.last_step) == (0, 100)
    assert found.trained_until_unix_s - RUN_START_UNIX_S == pytest.approx(15 + 30)
    assert found.devices == (job.gpu_key(0, 0), job.gpu_key(0, 1), job.host_key(0))


@pytest.mark.parametrize(("reason", "last_s"), [("closed", 45.0), (LEFT, 55.0)])
def test_a_file_that_was_left_has_trained_until_its_end(reason: str, last_s: float, tmp_path: Path) -> None:
    job = Job(nodes=1, attempts=[Attempt(40, 3)])
    *records, close = job.records("r", 0, 0, job.attempts[0], RUN_START_UNIX_S)
    last = next(record for record in reversed(records) if isinstance(record, Window))
    waiting = replace(last, index=last.index + 1, start_unix_s=last.start_unix_s + 10, duration_s=10.0, steps=0)
    writer = LedgerWriter(tmp_path, run_id="r", node=0)
    for record in (*records, waiting, replace(close, reason=reason)):
        writer.write(record)

    found = outline_of(writer.path)

    assert found is not None
    assert found.trained_until_unix_s - RUN_START_UNIX_S == pytest.approx(last_s)


def test_a_file_without_a_manifest_has_no_outline(tmp_path: Path) -> None:
    path = tmp_path / "node-0.attempt-0.jsonl"
    for content in (b"", b"nonsense\n", b"0" * 32 + b' {"type":"manifest"}\n'):
        path.write_bytes(content)
        assert outline_of(path) is None
