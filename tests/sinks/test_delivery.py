"""A sink that fails or hangs holds neither the training nor another sink."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from carbon_plugin.sinks import delivery, report_file
from carbon_plugin.sinks.delivery import Delivery
from carbon_plugin.sinks.row import Row
from carbon_plugin.sinks.sink import NotTakenError, Sink


class Kept(Sink):
    def __init__(self, name: str = "kept") -> None:
        self.name = name
        self.steps: list[int] = []
        self.threads: set[str] = set()
        self.ends: list[Path | None] = []

    def write(self, row: Row) -> None:
        self.threads.add(threading.current_thread().name)
        self.steps.append(row.step)

    def close(self, report: Path | None) -> None:
        self.ends.append(report)


class Failing(Kept):
    def write(self, row: Row) -> None:
        super().write(row)
        raise OSError("No space left on device")


class Hanging(Kept):
    """Takes one row and waits until it is let go."""

    def __init__(self) -> None:
        super().__init__("hanging")
        self.let_go = threading.Event()
        self.began = threading.Event()

    def write(self, row: Row) -> None:
        self.began.set()
        self.let_go.wait()
        super().write(row)


class Troubles(list):
    def __call__(self, name: str, error: BaseException) -> None:
        self.append((name, f"{type(error).__name__}: {error}"))


@pytest.fixture
def deliver(rows) -> Callable[..., Troubles]:
    """Hand three rows to sinks, the last at the end."""

    def run(*sinks: Sink, opened: Callable[[], None] = lambda: None) -> Troubles:
        troubles = Troubles()
        one = Delivery(sinks, troubles, opened)
        one.start()
        *first, last = rows(3)
        for row in first:
            one.put(row)
        one.close(last, last.run.run_dir)
        return troubles

    return run


def test_every_sink_gets_every_row_in_order_on_a_thread_of_its_own(deliver):
    a, b = Kept("a"), Kept("b")

    assert deliver(a, b) == []

    assert a.steps == b.steps == [10, 20, 30]
    assert (a.threads, b.threads) == ({"carbon-plugin a"}, {"carbon-plugin b"})
    assert a.ends == b.ends == [None]


def test_sink_that_fails_is_told_of_once_and_the_others_go_on(deliver):
    failing, kept = Failing("failing"), Kept()

    troubles = deliver(failing, kept)

    assert troubles == [("failing", "OSError: No space left on device")]
    assert failing.steps == [10]
    assert failing.ends == []
    assert kept.steps == [10, 20, 30]


def test_service_that_is_away_for_a_row_is_told_of_once_and_gets_the_others(deliver):
    class Away(Kept):
        def write(self, row: Row) -> None:
            super().write(row)
            if row.step < 30:
                raise NotTakenError("away")

    away = Away()

    assert deliver(away) == [("kept", "NotTakenError: away")]
    assert away.steps == [10, 20, 30]
    assert away.ends == [None]


class Clock:
    """The clock of the deliveries, which the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_sink_that_hangs_is_left_behind_at_the_end_and_the_others_go_on(rows, monkeypatch):
    clock, troubles, hanging, kept, opened = Clock(), Troubles(), Hanging(), Kept(), threading.Event()
    monkeypatch.setattr(delivery, "time", clock)
    monkeypatch.setattr(delivery, "CLOSE_S", 240.0)
    first, last = rows(2)
    one = Delivery([hanging, kept], troubles, opened.set)
    one.start()
    one.put(first)
    assert hanging.began.wait(240)
    assert opened.wait(240)  # by the one that goes on

    clock.now_s = 240.0  # for which the other one hangs by then
    one.close(last, last.run.run_dir)

    assert [name for name, _ in troubles] == ["hanging"]
    assert kept.steps == [10, 20]
    assert hanging.steps == []
    hanging.let_go.set()


def test_sink_that_takes_nothing_more_fills_no_memory(rows, monkeypatch):
    monkeypatch.setattr(delivery, "MOST_WAITING", 2)
    troubles, hanging = Troubles(), Hanging()
    one = Delivery([hanging], troubles, lambda: None)
    one.start()
    (row,) = rows(1)

    one.put(row)
    assert hanging.began.wait(240)
    for _ in range(5):
        one.put(row)
    monkeypatch.setattr(delivery, "CLOSE_S", 0.0)
    one.close(row, row.run.run_dir)

    assert troubles == [("hanging", "TimeoutError: it has not taken the last 2 rows")]
    hanging.let_go.set()


def test_sink_that_cannot_be_prepared_gets_no_row(deliver):
    class Unprepared(Kept):
        def prepare(self) -> None:
            raise RuntimeError("no active run")

    sink = Unprepared("unprepared")

    assert deliver(sink) == [("unprepared", "RuntimeError: no active run")]
    assert sink.steps == []


def test_a_training_after_another_uses_the_same_sinks(rows):
    kept, troubles = Kept(), Troubles()
    one = Delivery([kept], troubles, lambda: None)

    for row in rows(2):
        one.start()
        one.close(row, row.run.run_dir)

    assert kept.steps == [10, 20]
    assert kept.ends == [None, None]


def test_opened_is_called_once_a_sink_after_its_first_row(deliver):
    opened: list[int] = []
    kept = Kept()

    deliver(kept, opened=lambda: opened.append(len(kept.steps)))

    assert opened == [1]


def test_report_is_written_once_for_all_sinks_that_want_it(deliver, monkeypatch):
    class Wanting(Kept):
        wants_report = True

    made: list[Path] = []
    monkeypatch.setattr(report_file.ReportFile, "_written", lambda self: made.append(self._run_dir) or Path("report"))
    a, b, kept = Wanting("a"), Wanting("b"), Kept()

    deliver(a, b, kept)

    assert len(made) == 1
    assert a.ends == b.ends == [Path("report")]
    assert kept.ends == [None]


def test_forked_child_has_no_threads_and_its_end_waits_for_none(rows):
    kept = Kept()
    one = Delivery([kept], Troubles(), lambda: None)
    one.start()
    (row,) = rows(1)

    child = os.fork()
    if child == 0:
        one.forget()
        one.put(row)
        one.close(row, row.run.run_dir)
        os._exit(len(kept.steps))
    _, status = os.waitpid(child, 0)
    one.close(row, row.run.run_dir)

    assert os.waitstatus_to_exitcode(status) == 0
    assert kept.steps == [10]
