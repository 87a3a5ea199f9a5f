"""Tokens of windows: all steps have theirs, also those that ended before the job was looked at."""

from __future__ import annotations

from carbon_plugin.detect.resolve.effective import Effective
from carbon_plugin.monitor.clock import Mark, TrainingClock, WallClock
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.intensity import IntensityWatch
from carbon_plugin.monitor.node.records import RecordMaker
from carbon_plugin.monitor.node.windows import Piece
from carbon_plugin.monitor.processes.sharing import OwnShare

BEGINNING = Mark(0, 0.0, 0, 0)


def context(tokens_per_step: int | None, tokens_a_count: float = 1.0) -> Context:
    effective = Effective(
        spec=None, fields={}, differences=(), missing=(), assumptions=(), site=None, cluster=None, charged=None,
        total_steps=None, tokens_per_step=tokens_per_step, tokens_a_count=tokens_a_count,
    )  # fmt: skip
    return Context(effective=effective, prediction=None, factors=None, notes=[])


def tokens(*windows: tuple[Context, Mark], first: Mark = BEGINNING) -> list[int]:
    """Return the tokens of windows that end at these marks, each written when the job was known as in its context."""
    maker = RecordMaker(TrainingClock(lambda: None, 1.0), WallClock(), IntensityWatch(None, {}), OwnShare(None))
    found, start = [], first
    for known, end in windows:
        piece = Piece(phase="train", start_s=start.monotonic_s, end_s=end.monotonic_s, start=start, end=end)
        found.append(maker.window(piece, [], known, []).tokens)
        start = end
    return found


def test_steps_before_the_job_was_looked_at_have_their_tokens_in_the_next_window():
    steps = [Mark(1, 1.0, 0, 1), Mark(3, 2.0, 0, 3), Mark(3, 3.0, 0, 3)]

    assert tokens(*zip((context(None), context(96), context(96)), steps, strict=True)) == [0, 3 * 96, 0]


def test_no_token_of_a_step_is_lost_by_rounding_of_sizes():
    known = context(100, tokens_a_count=100 / 3)
    steps = [Mark(step, float(step), step - 1, 1) for step in range(1, 301)]

    assert sum(tokens(*((known, mark) for mark in steps))) == 100 + round(299 * 100 / 3)


def test_leader_that_begins_later_has_the_tokens_from_its_beginning_on():
    first, last = Mark(10, 10.0, 400, 2), Mark(12, 12.0, 450, 3)

    assert tokens((context(96), last), first=first) == [50 + 96]


def test_window_never_has_fewer_tokens_than_none():
    steps = [Mark(2, 1.0, 0, 2), Mark(2, 2.0, 0, 2), Mark(5, 3.0, 0, 5)]

    assert tokens(*zip((context(100), context(10), context(50)), steps, strict=True)) == [200, 0, 50]
