"""Rank 0 follows other nodes' ledgers; a ledger that cannot be written is kept in memory; windows are aligned."""

from __future__ import annotations

import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import DeviceEnergy, Manifest, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.clock import TrainingClock
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.ledgers.journal import Journal
from carbon_plugin.monitor.run.follower import LedgerFollower
from carbon_plugin.monitor.run.totals import run_totals
from carbon_plugin.monitor.thread import MonitorThread, Wake, wait_s
from carbon_plugin.spec.metered import DeviceIdentity
from tests.monitor.launching import wait_until
from tests.patience import PATIENCE_S


def manifest(node: int) -> Manifest:
    gpu = DeviceIdentity(key=f"GPU-{node}", name="H100", rung="gpu", scope="gpu", meter="m", energy_kind="counter")
    return Manifest(
        version=1, run_id="run", attempt=0, node=node, nodes=3, host_key=str(node), hostname="h", world_size=3,
        started_unix_s=0.0, reserved_since_unix_s=None, devices=[gpu], effective={}, factors={}, versions={},
    )  # fmt: skip


def window(node: int, index: int) -> Window:
    return Window(
        index=index, phase="train", start_unix_s=10.0 * index, duration_s=10.0, steps=1, last_step=index + 1, tokens=0,
        energies=[DeviceEnergy(key=f"GPU-{node}", energy_j=100.0, kind="counter")], intensity_g_per_kwh=None, pue=None,
    )  # fmt: skip


def test_other_nodes_are_read_as_they_write_and_a_missing_one_is_no_wait(tmp_path):
    writers = [LedgerWriter(tmp_path, run_id="run", node=node) for node in (0, 1)]
    journal = Journal(lambda: writers[0], on_trouble=pytest.fail)
    rank0 = LedgerFollower(tmp_path, journal)
    for node, writer in enumerate(writers):
        writer.write(manifest(node)) if node else journal.write(manifest(node))

    rank0.poll()
    assert run_totals(rank0.files, attempt_started_s=0.0).nodes_seen == 2

    journal.write(window(0, 0))
    for index in range(3):
        writers[1].write(window(1, index))
    rank0.poll()
    totals = run_totals(rank0.files, attempt_started_s=0.0)
    assert (totals.energy_j, totals.nodes_seen, totals.last_step) == (400.0, 2, 3)
    assert list(rank0.heads().values()) == [writers[1].head]


def test_long_history_is_read_in_turns(tmp_path):
    writer = LedgerWriter(tmp_path, run_id="run", node=1)
    writer.write(manifest(1))
    for index in range(2000):
        writer.write(window(1, index))
    patient, hurried = (LedgerFollower(tmp_path, None, budget_s=seconds) for seconds in (PATIENCE_S, 0.0))

    hurried.poll()
    patient.poll()

    assert next(iter(hurried.files.values())).windows == 0
    assert next(iter(patient.files.values())).windows == 2000


class Reluctant:
    """A file system that refuses for a while, under the real writer."""

    def __init__(self, writer: LedgerWriter) -> None:
        self.writer, self.refuses = writer, False
        self.path, self.attempt, self.run_id = writer.path, writer.attempt, writer.run_id

    def write(self, record: object) -> None:
        if self.refuses:
            raise LedgerError("disk full")
        self.writer.write(record)


def test_records_wait_for_a_full_disk_in_order(tmp_path):
    troubles: list[str] = []
    files = Reluctant(LedgerWriter(tmp_path, run_id="run", node=1))
    journal = Journal(lambda: files, troubles.append)
    journal.write(manifest(1))

    files.refuses = True
    for index in range(3):
        journal.write(window(1, index))
    files.refuses = False
    journal.write(window(1, 3))

    records = read_ledger(files.path).records
    assert [record.index for record in records if isinstance(record, Window)] == [0, 1, 2, 3]
    assert len(troubles) == 1
    assert journal.totals.windows == 4


class Body:
    """Counts what the thread asks of it."""

    def __init__(self) -> None:
        self.poll_interval_s: float | None = None
        self.due: list[float] = []
        self.polls = 0
        self.closed: list[str] = []
        self.left = False

    def open(self) -> None:
        pass

    def tick(self, *, due: bool) -> None:
        if due:
            self.due.append(time.time())
        else:
            self.polls += 1

    def close(self, reason: str) -> None:
        self.closed.append(reason)


def thread_of(body: Body, wake: Wake | None = None) -> MonitorThread:
    return MonitorThread(body, Guard(lambda *_: None), wake or Wake(), cadence_s=0.25, least_s=0.05)


@given(st.floats(1.6e9, 2e9), st.sampled_from([(10.0, 5.0), (5.0, 5.0), (512.0, 5.0), (0.25, 0.05)]))
def test_windows_end_at_multiples_of_the_cadence_and_are_neither_too_short_nor_too_long(now_unix_s, rule):
    cadence_s, least_s = rule

    left_s = wait_s(now_unix_s, cadence_s=cadence_s, least_s=least_s)

    edge = (now_unix_s + left_s) / cadence_s
    assert edge == pytest.approx(round(edge), abs=1e-5)
    assert min(least_s, cadence_s / 2) <= left_s <= cadence_s + min(least_s, cadence_s / 2)


@given(st.integers(320_000_000, 400_000_000), st.floats(1e-6, 2.4))
def test_windows_of_the_least_length_do_not_miss_an_edge_because_a_reading_took_its_time(edge, late_s):
    assert wait_s(5.0 * edge + late_s, cadence_s=5.0, least_s=5.0) == pytest.approx(5.0 - late_s, abs=1e-5)


def test_thread_ticks_reads_integrating_meters_in_between_and_closes():
    body = Body()
    body.poll_interval_s = 0.01
    thread = thread_of(body)
    thread.start()
    wait_until(lambda: len(body.due) > 1 and body.polls > 1)

    assert thread.close("done", 60.0)
    assert len(body.due) > 1
    assert body.polls > 1
    assert body.closed == ["done"]


def test_several_wishes_to_wake_are_one_and_none_is_lost_before_the_wait():
    wake = Wake()
    for _ in range(100_000):  # more than fit: the training never waits for the monitor
        wake.put()

    assert wake.wait(10.0)
    assert not wake.wait(0.001)
    wake.close()
    wake.put()


def test_phase_that_a_signal_handler_changes_in_the_middle_of_a_change_holds_nobody_up():
    woken: list[int] = []
    wake = Wake()
    clock = TrainingClock(wake.put, min_window_s=0.0)
    thread = thread_of(Body(), wake)
    thread.start()

    def handler(*_: object) -> None:
        woken.append(1)
        clock.enter("checkpoint")

    former = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while len(woken) < 200:
            clock.enter("evaluation")
            clock.enter("train")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)

    assert thread.close("done", 60.0)


def test_failure_of_a_part_is_said_once_and_switches_it_off(caplog):
    reported: list[tuple[str, str]] = []
    guard = Guard(lambda part, sentence: reported.append((part, sentence)))

    def fails() -> int:
        raise ValueError("broken")

    assert [guard.run("part", fails, 7) for _ in range(3)] == [7, 7, 7]
    assert guard.run("other", fails, 8) == 8
    assert guard.run("sound", lambda: 9, 0) == 9

    assert reported == [("part", "part: ValueError: broken"), ("other", "other: ValueError: broken")]
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
