"""Compare the device time that a scheduler gave with the device time in a store, in total and by calendar
month (UTC).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from carbon_plugin.audit.findings.reserved import Allocation
from carbon_plugin.audit.tally.timeline.calendar import month_ends
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR

UNDATED = -1
"""Stands for the month of an allocation whose start is not known."""


class CoverageMonth(Struct, frozen=True, kw_only=True):
    """Device-hours that the scheduler gave in a month, and that ledgers recorded."""

    month: int
    allocated_h: float
    recorded_h: float

    @property
    def share(self) -> float:
        """Return the part of the allocated time that ledgers recorded, 0 to 1."""
        return _share(self.recorded_h, self.allocated_h)


class SchedulerCoverage(Struct, frozen=True, kw_only=True):
    """The device time that the scheduler gave beside that of the store, grouped by how the scheduler says that jobs
    ended.

    `months` divide both at the ends of calendar months (UTC), for jobs with a known start. `undated_h` is the time of
    all other jobs. It is in `allocated_h` and in no month.
    """

    source: str
    allocated_h: float
    recorded_h: float
    jobs: int
    by_state_h: dict[str, float]
    months: list[CoverageMonth] = []
    undated_h: float = 0.0

    @property
    def share(self) -> float:
        """Return the part of the allocated time that ledgers recorded, 0 to 1."""
        return _share(self.recorded_h, self.allocated_h)


def coverage_of(
    allocations: Iterable[Allocation],
    recorded_h: Mapping[int, float],
    source: str,
    months: tuple[int, int] | None = None,
) -> SchedulerCoverage:
    """Return the scheduler's device time beside `recorded_h`, that of the store by month.

    Only the part in `months`, from the first to the last, counts of a job whose start is known. With None all of it
    counts.
    """
    first, last = months or (0, 999_912)
    by_state: dict[str, float] = {}
    by_month: dict[int, float] = {}
    undated_h, jobs = 0.0, 0
    for one in allocations:
        parts = _by_month(one)
        inside = {month: part_h for month, part_h in parts.items() if month == UNDATED or first <= month <= last}
        if parts and not inside:
            continue
        jobs += 1
        by_state[one.state] = by_state.get(one.state, 0.0) + sum(inside.values())
        undated_h += inside.pop(UNDATED, 0.0)
        for month, part_h in inside.items():
            by_month[month] = by_month.get(month, 0.0) + part_h
    return SchedulerCoverage(
        source=source,
        allocated_h=sum(by_state.values()),
        recorded_h=sum(recorded_h.values()),
        jobs=jobs,
        by_state_h=dict(sorted(by_state.items())),
        months=[
            CoverageMonth(month=month, allocated_h=by_month.get(month, 0.0), recorded_h=recorded_h.get(month, 0.0))
            for month in (sorted({*by_month, *recorded_h}) if by_month else [])
        ],
        undated_h=undated_h,
    )


def _by_month(one: Allocation) -> dict[int, float]:
    """Return the device-hours of an allocation by month, under `UNDATED` where its start is not known."""
    if one.start_unix_s is None:
        return {UNDATED: one.gpus * one.duration_s / SECONDS_PER_HOUR}
    found: dict[int, float] = {}
    start_s, end_s = one.start_unix_s, one.start_unix_s + one.duration_s
    at = start_s
    for (year, month), until_s in month_ends(start_s, end_s):
        until = end_s if until_s is None else min(until_s, end_s)
        found[100 * year + month] = one.gpus * (until - at) / SECONDS_PER_HOUR
        at = until
    return found


def _share(recorded_h: float, allocated_h: float) -> float:
    return min(1.0, recorded_h / allocated_h) if allocated_h else 0.0
