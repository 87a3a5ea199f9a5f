"""The wall clock is set while jobs run, and between two attempts: real processes whose wall clock is the test's."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.report.charts.all_charts import charts_of
from carbon_plugin.audit.report.page import render_html
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import warnings
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.held.clocks import CLOCK_STEP_EVENT
from carbon_plugin.ledger.reader import LedgerFile, read_run
from carbon_plugin.ledger.records import Event, Projection, Window
from tests.ledger.builder import waited_j
from tests.monitor.launching import Launch, Start, wait_until

HOUR_S, YEAR_S = 3600.0, 365 * 86400.0
STEPS_S = {"back": -HOUR_S, "forward": HOUR_S, "a year": YEAR_S}
STEPS_BEFORE = 40


def records(file: LedgerFile, kind: type) -> list[Any]:
    return [record for record in file.records if isinstance(record, kind)]


def windows_in(run_dir: Path, attempt: int = 0) -> int:
    path = run_dir / f"node-0.attempt-{attempt}.jsonl"
    return path.read_bytes().count(b'"type":"window"') if path.exists() else 0


@pytest.fixture(scope="module")
def runs(
    node: Start, settable_clock: Callable[[Path], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Make a run for each step of the clock, and one whose second attempt begins after its clock was set back."""
    top = tmp_path_factory.mktemp("clocks")
    launches = {
        name: Launch(node, top / name, **settable_clock(top / f"{name}.step")).node(0, 1)
        for name in [*STEPS_S, "between"]
    }
    for launch in launches.values():
        launch.await_ready()
        launch.begin()
    for name in launches:
        wait_until(lambda name=name: windows_in(top / name) >= 3)
    for name, step_s in STEPS_S.items():
        (top / f"{name}.step").write_text(str(step_s))
    launches["between"].end()
    (top / "between.step").write_text(str(-HOUR_S))
    second = Launch(node, top / "between", JOB_STEP=STEPS_BEFORE, **settable_clock(top / "between.step")).node(0, 1)
    second.await_ready()
    second.begin()
    seen = {name: windows_in(top / name) for name in STEPS_S}
    for name in STEPS_S:
        wait_until(lambda name=name: windows_in(top / name) >= seen[name] + 3)
    wait_until(lambda: windows_in(top / "between", 1) >= 3)
    launches["back"].processes[0].send_signal(signal.SIGKILL)
    for launch in (launches["forward"], launches["a year"], second):
        launch.end()
    return top


@pytest.fixture(scope="module")
def audits(runs: Path) -> dict[str, AuditSummary]:
    return {name: summarise(runs / name) for name in [*STEPS_S, "between"]}


def only_file(run_dir: Path) -> LedgerFile:
    (file,) = read_run(run_dir).files
    return file


@pytest.mark.parametrize("name", STEPS_S)
def test_windows_go_on_whatever_the_wall_clock_is_set_to(runs, audits, name):
    file = only_file(runs / name)
    windows = records(file, Window)

    assert len(windows) >= 6
    assert max(window.duration_s for window in windows) < 30
    assert max(abs(window.start_unix_s - time.time()) for window in windows) < HOUR_S / 2
    assert audits[name].verification.ok, audits[name].verification.problems


@pytest.mark.parametrize("name", STEPS_S)
def test_a_step_of_the_clock_is_an_event_with_its_size(runs, audits, name):
    events = [event for event in records(only_file(runs / name), Event) if event.kind == CLOCK_STEP_EVENT]

    assert [event.data["ahead_s"] for event in events] == pytest.approx([STEPS_S[name]], abs=1)
    assert any(warning.startswith("The wall clock of a host was set") for warning in warnings(audits[name]))


@pytest.mark.parametrize("name", STEPS_S)
def test_durations_and_embodied_carbon_do_not_follow_the_wall_clock(runs, audits, name):
    file, summary = only_file(runs / name), audits[name]
    lasted_s = sum(window.duration_s for window in records(file, Window))

    assert summary.period.active_s == pytest.approx(lasted_s, abs=0.1)
    assert summary.reserved.device_s - summary.reserved.before_first_record_s == pytest.approx(lasted_s, abs=0.1)
    assert summary.reserved.before_first_record_s < 120
    last = records(file, Projection)[-1]
    # The job that is killed may be so between a window and the projection after it.
    until = [record for record in file.records[: file.records.index(last)] if isinstance(record, Window)]
    part, total_kg = sum(window.duration_s for window in until) / lasted_s, summary.footprint.total_kg.value
    assert 0.65 * part * total_kg <= last.spent_carbon_kg <= 1.35 * total_kg


def test_attempts_keep_their_order_when_the_clock_was_set_back_between_them(runs, audits):
    first, second = read_run(runs / "between").files
    summary = audits["between"]
    joules = [
        sum(e.energy_j or 0 for w in records(file, Window) for e in w.energies) for file in (first, second)
    ]  # fmt: skip

    assert first.records[0].started_unix_s > second.records[0].started_unix_s + HOUR_S / 2
    assert [attempt.last_step for attempt in summary.period.attempts] == [
        max(w.last_step for w in records(file, Window)) for file in (first, second)
    ]
    assert summary.period.wall_s < 600
    assert summary.coverage.overlaps == []
    waited = waited_j(runs / "between")
    assert summary.energy.energy_j == pytest.approx(sum(joules) + waited)
    assert records(second, Projection)[-1].spent_energy_j == pytest.approx(sum(joules) + waited)


@pytest.mark.parametrize("name", [*STEPS_S, "between"])
def test_page_of_a_run_whose_clock_was_set_shows_its_true_time_and_says_so(audits, name):
    summary = audits[name]
    power = charts_of(summary)["power"].live
    markup = render_html(summary)

    per_s = {"seconds": 1, "minutes": 60}[power["axis"].split()[0]]
    assert power["x"][-1] * per_s == pytest.approx(summary.period.wall_s, rel=1e-5)
    assert summary.period.wall_s < 600
    assert all(value >= 0 for one in power["series"] for value in one["values"])
    said = "by the clock of rank 0" if name == "between" else "The wall clock of a host was set"
    assert said in " ".join(markup.split())
    assert summary.period.gaps == [] or name == "between"
