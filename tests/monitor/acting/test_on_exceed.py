"""What `on_exceed` does in a real training of one process: a warning, a stop, or a function of the user."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from carbon_plugin.ledger.reader import read_run
from carbon_plugin.ledger.records import Event
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.spec.budget import BudgetState, CarbonBudget

WITHIN_S = 240.0


def trained(run_dir: Path, budget: CarbonBudget, until: Callable[[CarbonMonitor], bool]) -> tuple[list[Event], bool]:
    """Train under a budget until something is true. Return the events of the record, and whether it was to stop."""
    options, asked = MonitorOptions(min_window_s=0.1), False
    with CarbonMonitor(run_dir=run_dir, window_s=0.2, quiet=True, options=options, budget=budget) as monitor:
        end_s = time.monotonic() + WITHIN_S
        while not (asked or until(monitor)) and time.monotonic() < end_s:
            time.sleep(0.01)
            monitor.step_end()
            asked = monitor.should_stop
        assert time.monotonic() < end_s, "it did not happen"
    (file,) = read_run(run_dir).files
    return [record for record in file.records if isinstance(record, Event)], asked


def test_a_warning_is_said_once_and_the_training_goes_on(tmp_path, caplog):
    windows: list[float] = []

    def three_windows(monitor: CarbonMonitor) -> bool:
        share = monitor.fresh_metrics().get("carbon/budget_share")
        windows.extend([] if share is None else [share])
        return len(windows) >= 3

    with caplog.at_level(logging.WARNING):
        events, asked = trained(tmp_path, CarbonBudget(energy_kwh=1e-12), three_windows)

    assert not asked
    assert all(share > 1 for share in windows)
    assert [event.kind for event in events if event.kind.startswith("budget")] == ["budget_exceeded"]
    assert caplog.text.count("the budget is exceeded at step") == 1


@pytest.mark.parametrize("answer", ["stop", None])
def test_a_function_is_called_once_on_another_thread_and_may_stop_the_run(tmp_path, answer):
    calls: list[tuple[BudgetState, str]] = []

    def exceeded(state: BudgetState) -> str | None:
        calls.append((state, threading.current_thread().name))
        return answer

    budget = CarbonBudget(energy_kwh=1e-12, cost=1e9, price_usd_per_device_hour=2.0, on_exceed=exceeded)
    called_at: list[int] = []

    def steps_after_the_call(monitor: CarbonMonitor) -> bool:
        if calls and not called_at:
            called_at.append(monitor.step)
        return answer is None and bool(called_at) and monitor.step > called_at[0] + 60

    events, asked = trained(tmp_path, budget, steps_after_the_call)

    ((state, thread),) = calls
    assert asked == (answer == "stop")
    assert thread not in (threading.current_thread().name, "carbon-plugin")
    assert [line.quantity for line in state.exceeded] == ["energy_kwh"]
    assert ("budget_stop" in {event.kind for event in events}) == asked


def test_a_function_that_raises_is_one_warning_and_no_stop(tmp_path, caplog):
    def broken(state: BudgetState) -> None:
        raise RuntimeError("the user's own")

    with caplog.at_level(logging.WARNING):
        events, asked = trained(
            tmp_path, CarbonBudget(energy_kwh=1e-12, on_exceed=broken), lambda _: "the user's own" in caplog.text
        )

    assert not asked
    assert any(event.kind == "undelivered" and "the user's own" in event.message for event in events)
