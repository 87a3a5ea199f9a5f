"""Clocks of nodes, compared by the steps that all nodes end together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.ledger.held.launches import SKEW_EVENT
from carbon_plugin.ledger.records import Event, Manifest, Span, Window
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.datagram import pack_report, unpack_report
from carbon_plugin.monitor.run.skew import SkewWatch, clock_offset_s, skew_message
from carbon_plugin.monitor.run.totals import run_totals

STEP_S = 0.5


def span(first_step: int, last_step: int, ahead_s: float = 0.0) -> Span:
    """Return a span of a job whose step n ends n half-seconds after 1000, by a clock that is ahead."""
    steps = last_step - first_step + 1
    return Span(
        first_step=first_step, last_step=last_step, start_unix_s=1000 + (first_step - 1) * STEP_S + ahead_s,
        duration_s=steps * STEP_S, step_time_s=STEP_S, predicted_step_time_s=None, gpu_energy_per_step_j=None,
        predicted_gpu_energy_per_step_j=None, boundary_error_s=0.0,
    )  # fmt: skip


def ledger(node: int, *spans: Span, started_s: float = 1000.0, attempt: int = 0) -> FileTotals:
    totals = FileTotals()
    totals.add(
        Manifest(
            version=1, run_id="run", attempt=attempt, node=node, nodes=2, host_key=f"boot-{node}", hostname="h",
            world_size=2, started_unix_s=started_s, reserved_since_unix_s=None, devices=[], effective={}, factors={},
            versions={},
        )
    )  # fmt: skip
    for one in spans:
        totals.add(one)
    return totals


@given(st.integers(1, 100), st.integers(0, 100), st.integers(1, 100), st.integers(0, 100), st.floats(-1e4, 1e4))
def test_offset_is_that_of_the_clocks_wherever_spans_have_a_step_in_common(
    first: int, more: int, other_first: int, other_more: int, ahead_s: float
) -> None:
    own, other = span(first, first + more), span(other_first, other_first + other_more, ahead_s)
    offset_s = clock_offset_s([own], other)
    if min(own.last_step, other.last_step) < max(own.first_step, other.first_step) - 1:
        assert offset_s is None
    else:
        assert offset_s == pytest.approx(ahead_s, abs=1e-6)


def test_a_clock_that_is_off_is_said_once_and_when_it_is_right_again() -> None:
    own, other = ledger(0, span(1, 20)), ledger(1)
    watch, said = SkewWatch(), []
    for number, ahead_s in enumerate((0.0, 120.0, 121.0, 120.0, 0.5, 0.0)):
        said.append(watch.look(own, {"own": own, "other": other}))
        steps = 20 * number + 1, 20 * number + 20
        own.add(span(*steps))
        other.add(span(*steps, ahead_s))
    assert said == [{}, {}, {"other": 120.0}, {}, {}, {"other": 0.0}]


def test_steps_of_an_earlier_attempt_are_not_compared_with_the_same_steps_of_this_one() -> None:
    own, earlier = ledger(0, span(1, 20, 600.0)), ledger(1, span(1, 20))
    watch = SkewWatch()
    assert [watch.look(own, {"own": own, "earlier": earlier}) for _ in range(3)] == [{}, {}, {}]


def test_nodes_that_send_reports_are_compared_as_well() -> None:
    own, other = ledger(0, span(1, 20)), ledger(1)
    watch = SkewWatch()
    for steps in ((1, 20), (21, 40)):
        other.add(span(*steps, -90.0))
        packed = pack_report("node-1.attempt-0.jsonl", other, b"secret")
        assert packed is not None
        report = unpack_report(packed, b"secret")
        assert report is not None
        said = watch.look(own, {"own": own, report[0]: report[1]})
    assert said == pytest.approx({"node-1.attempt-0.jsonl": -90.0})


def test_the_earlier_attempt_of_a_clock_that_is_ahead_is_not_of_this_one() -> None:
    earlier = ledger(1, started_s=1000.0)
    earlier.add(
        Window(
            index=0, phase="train", start_unix_s=1000.0, duration_s=50.0, energies=[], steps=5, last_step=5, tokens=0,
            intensity_g_per_kwh=None, pue=None,
        )
    )  # fmt: skip
    files = {"earlier": earlier, "own": ledger(0, started_s=960.0)}
    assert run_totals(files, attempt_started_s=960.0).nodes_seen == 2
    assert run_totals(files, attempt_started_s=960.0, offsets_s={earlier.place: 120.0}).nodes_seen == 1


def test_what_an_earlier_attempt_of_rank_0_noticed_goes_until_it_is_measured() -> None:
    before, other, own = ledger(0), ledger(1), ledger(0, span(1, 20), attempt=1)
    before.add(Event(at_unix_s=0.0, kind=SKEW_EVENT, message="", data={"offsets_s": {"other": 120.0, "gone": 1.0}}))
    files = {"before": before, "own": own, "other": other}
    watch = SkewWatch()
    assert watch.look(own, files) == {}
    assert watch.offsets_s == {other.place: 120.0}
    other.add(span(1, 20))
    assert watch.look(own, files) == {"other": 0.0}


@pytest.mark.parametrize(
    ("offsets_s", "sentence"),
    [
        (
            {"a": 3.0, "b": -120.0},
            "clocks of other nodes are up to 120.0 s behind that of rank 0; ",
        ),
        ({"a": 0.0}, "clocks of other nodes agree with that of rank 0 again"),
    ],
)
def test_news_of_clocks_read_as_a_sentence(offsets_s: dict[str, float], sentence: str) -> None:
    assert skew_message(offsets_s).startswith(sentence)
