"""The grid intensity of each hour of the day, from the windows of a run or from the series of its site."""

from __future__ import annotations

import numpy as np

from carbon_plugin.audit.tally.timeline.hours import GridHours
from carbon_plugin.footprint.series.trace import make_trace
from carbon_plugin.ledger.records import BY_HOUR, GRID_EVENT, Event

HOUR_S, DAY_S = 3600.0, 86400.0


def windows(hours: GridHours, start_s: float, g_per_kwh: list[float]) -> None:
    """Add windows of 30 minutes."""
    starts = start_s + 1800.0 * np.arange(len(g_per_kwh))
    hours.add(starts, np.full(len(starts), 1800.0), np.array(g_per_kwh))


def test_hours_are_the_means_of_the_windows_in_them_and_others_are_unknown() -> None:
    hours = GridHours()
    windows(hours, 22 * HOUR_S, [100.0, 200.0, 300.0, 300.0, 50.0])

    found, source = hours.result()

    assert (found[22], found[23], found[0]) == (150.0, 300.0, 50.0)
    assert found[1:22] == [None] * 21
    assert "own windows" in source


def test_intensity_that_does_not_change_tells_nothing_of_other_hours() -> None:
    hours = GridHours()
    windows(hours, 0.0, [41.4] * 48)
    windows(hours, DAY_S, [float("nan")] * 48)

    assert hours.result() == ([], "")


def test_day_of_the_series_counts_before_the_windows_of_a_short_run() -> None:
    day = [float(100 + hour) for hour in range(24)]
    first, second = GridHours(), GridHours()
    windows(first, 0.0, [100.0, 100.0, 101.0])
    second.note(Event(at_unix_s=0.0, kind=GRID_EVENT, message="", data={"origin": "series", BY_HOUR: day}))
    first.merge(second)

    found, source = first.result()

    assert found == day
    assert "series" in source


def test_event_that_no_monitor_wrote_is_passed_over() -> None:
    hours = GridHours()
    for wrong in ([1.0] * 23, ["high"] * 24, [-1.0] * 24, "all day", None):
        hours.note(Event(at_unix_s=0.0, kind=GRID_EVENT, message="", data={BY_HOUR: wrong}))

    assert hours.result() == ([], "")


def test_trace_tells_the_mean_of_each_hour_of_the_day() -> None:
    moments = np.arange(0.0, 2 * DAY_S, HOUR_S)
    values = np.array([float(hour % 24) + (10.0 if hour >= 24 else 0.0) for hour in range(48)])
    trace = make_trace(moments[:40], values[:40], source="test")

    by_hour = trace.by_hour()

    assert by_hour[:16] == [hour + 5.0 for hour in range(16)]
    assert by_hour[16:] == [float(hour) for hour in range(16, 24)]
