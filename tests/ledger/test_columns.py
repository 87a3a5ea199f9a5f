"""Windows that are read and judged together give the same as windows that are read and judged one by one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.ledger import reader
from carbon_plugin.ledger.codec import encode_record
from carbon_plugin.ledger.columns import WindowColumns, columns_of, columns_of_each, divided, joined
from carbon_plugin.ledger.held.counted_steps import CountedSteps
from carbon_plugin.ledger.held.holdings import SharedTime
from carbon_plugin.ledger.possible import RecordGate
from carbon_plugin.ledger.reader import LedgerStream
from carbon_plugin.ledger.records import DeviceEnergy, Record, Window
from carbon_plugin.ledger.sums import RunningSums
from tests.ledger.builder import Attempt, Job
from tests.ledger.chaining import RUN_ID, chained

JOB = Job(nodes=1)
MANIFEST = JOB.records(RUN_ID, 0, 0, Attempt(0, 1), 1.76e9)[0]
KEYS = [device.key for device in JOB.devices(0)]
MOST_J = 2e4 * 20.0

joules = st.one_of(st.floats(0, MOST_J), st.sampled_from([0.0, MOST_J, 1.01 * MOST_J, 4e9, -1.0]))
perhaps = st.one_of(st.none(), joules)


@st.composite
def energies(draw: st.DrawFn, key: str) -> DeviceEnergy:
    energy_j = draw(perhaps)
    ends = {"low_j": draw(perhaps), "high_j": draw(perhaps)}
    if energy_j is not None and draw(st.booleans()):
        ends = {"low_j": 0.9 * energy_j, "high_j": energy_j}
    estimated_j = draw(st.one_of(st.none(), st.sampled_from([0.0, 5.0, -1e4])))
    kind = draw(st.sampled_from(["counter", "absent"]))
    return DeviceEnergy(key=key, energy_j=energy_j, kind=kind, estimated_j=estimated_j, **ends)  # type: ignore[arg-type]


@st.composite
def windows(draw: st.DrawFn) -> Window:
    return Window(
        index=draw(st.integers(0, 9)),
        phase=draw(st.sampled_from(["train", "data_wait", "evaluation", "rollout"])),
        start_unix_s=1.76e9 + draw(st.floats(0, 1e4)),
        duration_s=draw(st.floats(0, 10.0)),
        energies=[draw(energies(key)) for key in KEYS[: draw(st.sampled_from([3, 3, 3, 2]))]],
        steps=draw(st.integers(0, 20)),
        last_step=draw(st.integers(0, 10**6)),
        tokens=draw(st.sampled_from([0, 8192, 10**19, 10**20])),
        intensity_g_per_kwh=draw(st.sampled_from([None, 41.4, 1e9])),
        pue=draw(st.sampled_from([None, 1.1, 0.9])),
        parts=draw(st.sampled_from([None, None, {KEYS[0]: 0.3}, {KEYS[0]: 1.3}])),
    )


def pieces_of(made: list[Window]) -> list[WindowColumns]:
    return list(columns_of_each(made))


@given(st.lists(windows(), max_size=8))
def test_sums_over_columns_are_those_of_single_windows_to_the_last_bit(made: list[Window]) -> None:
    singly, together = RunningSums(), RunningSums()
    counted, counted_together = CountedSteps(), CountedSteps()
    shared, shared_together = SharedTime(), SharedTime()
    for window in made:
        singly.add(window)
        counted.add(window)
        shared.add(window)
    for piece in pieces_of(made):
        together.add_all(piece)
        counted_together.add_all(piece)
        shared_together.add_all(piece)

    assert (together.windows, together.steps, together.energy_j) == (singly.windows, singly.steps, singly.energy_j)
    assert together.sums == singly.sums
    assert counted_together == counted
    assert shared_together.by_device_s == shared.by_device_s


@given(st.lists(windows(), max_size=8), st.booleans())
def test_gate_finds_nothing_in_columns_only_where_it_finds_nothing_in_any_window(
    made: list[Window], knows_devices: bool
) -> None:
    gate = RecordGate()
    if knows_devices:
        gate.judge(MANIFEST)
    for piece, alike in zip(pieces_of(made), _alike(made), strict=True):
        verdicts = [gate.judge(window) for window in alike]
        if gate.finds_nothing(piece):
            assert verdicts == [None] * len(alike)
        elif knows_devices:
            assert any(verdicts)


def _alike(made: list[Window]) -> list[list[Window]]:
    lengths = [len(piece) for piece in pieces_of(made)]
    return [made[sum(lengths[:number]) :][:length] for number, length in enumerate(lengths)]


@given(st.lists(windows(), min_size=1, max_size=8), st.integers(0, 8))
def test_columns_that_are_divided_and_joined_are_the_same(made: list[Window], at: int) -> None:
    made = [msgspec.structs.replace(window, energies=made[0].energies) for window in made]
    whole = columns_of(made)
    assert whole is not None

    before, after = divided([whole], at)

    assert sum(map(len, before)) == min(at, len(made))
    again = joined([*before, *after])
    assert {name: _plain(getattr(again, name)) for name in again.__struct_fields__} == {
        name: _plain(getattr(whole, name)) for name in whole.__struct_fields__
    }


def _plain(values: object) -> str:
    return repr(values.tolist() if hasattr(values, "tolist") else values)  # NaN is no number that equals itself


@pytest.mark.parametrize("harm", ["none", "edited", "impossible", "unreadable", "left out", "torn"])
def test_batches_hold_the_records_and_find_the_problems_of_single_lines(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 1 << 14)
    lines = [encode_record(one) for one in JOB.records(RUN_ID, 0, 0, Attempt(0, 200), 1.76e9)]
    at = next(number for number in range(100, len(lines)) if lines[number].startswith(b'{"type":"window"'))
    if harm == "impossible":
        lines[at] = lines[at].replace(b'"energy_j":', b'"energy_j":9e15', 1).replace(b"9e15", b'9e15,"x":', 1)
    if harm == "unreadable":
        lines[at] = b'{"type":"window"}'
    whole = chained(lines).splitlines(keepends=True)
    if harm == "edited":
        whole[at] = whole[at].replace(b"1", b"2")
    if harm == "left out":
        del whole[at]
    path = tmp_path / "node-0.attempt-0.jsonl"
    path.write_bytes(b"".join(whole)[: -5 if harm == "torn" else None])

    singly, together = LedgerStream(path), LedgerStream(path)
    records = list(singly)
    batches = list(together.batches())
    in_batches: list[Record] = [record for batch in batches for record in batch.records]

    assert in_batches == records
    assert [number for batch in batches for number in batch.lines][-1] == singly.lines
    assert (together.problems, together.intact, together.torn_tail) == (
        singly.problems,
        singly.intact,
        singly.torn_tail,
    )
    assert together.head == singly.head
    assert (singly.problems == []) == (harm in ("none", "torn"))
    assert any(batch.columns is not None for batch in batches)
