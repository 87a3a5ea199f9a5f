"""Turn a series of intensity over time into the intensity of one run.

Where the run's hours are known, their mean is the figure; hours of another year stand for them by whole weeks; all of a
series stands for a run that is longer than it, with a range for the hours that it does not know; and where the start is
open, the mean over every possible start is the figure and their spread the range.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.factors.grid import TYPICAL_DRIFT, UNIT, WITHIN_YEAR_SPREAD
from carbon_plugin.footprint.factors.zones import find
from carbon_plugin.footprint.series.file import Signal, load_trace
from carbon_plugin.footprint.series.trace import SHIFT_S, Trace, gaps
from carbon_plugin.footprint.values import Intensity, RunPeriod
from carbon_plugin.spec.numbers.amounts import number, percent, plural, verb
from carbon_plugin.spec.numbers.figure import Figure, Kind
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR
from carbon_plugin.spec.parsing.moment import iso_utc
from carbon_plugin.spec.site import SeriesFile

LICENCE = "the user's file: its own terms hold"


def series_intensity(
    file: str | SeriesFile, zone: str | None, period: RunPeriod | None, signal: Signal = "average"
) -> Intensity:
    """Return the mean of a series over a period (None: over the whole series), with remarks that a reader must know."""
    trace = load_trace(file, signal)
    figure, notes = _mean(trace, period)
    area, missing = find(zone), gaps(trace)
    if missing:
        gaps_s = sum(end - start for start, end in missing)
        notes.append(
            f"{plural(len(missing), 'gap')} of {_hours(gaps_s)} in all {verb(len(missing), 'is', 'are')} in the "
            "series and left out of its means"
        )
    if trace.basis is None:
        notes.append("the series states no basis: give basis, for instance lifecycle average consumption")
    return Intensity(
        zone=zone or "series",
        zone_name=area.name if area else zone or trace.source.split(",")[0],
        figure=figure,
        year=datetime.fromtimestamp(trace.end_unix_s - 1, UTC).year,
        basis=trace.basis,
        licence=LICENCE,
        attribution=trace.source,
        granularity=trace.granularity,
        notes=tuple(notes),
    )


def _mean(trace: Trace, period: RunPeriod | None) -> tuple[Figure, list[str]]:
    first_s = float(trace.start_unix_s[0])
    span_s = trace.end_unix_s - first_s
    if period is None or period.duration_s <= 0 or period.duration_s >= span_s:
        mean, _ = trace.mean(first_s, span_s)
        if period is None or period.duration_s <= span_s:
            return _figure(trace, mean, 1.0, "declared", "mean of all of it"), []
        years = 0.0 if period.start_unix_s is None else abs(period.start_unix_s - first_s) / SHIFT_S
        unknown = 1 - span_s / period.duration_s
        factor = math.exp(math.hypot(TYPICAL_DRIFT * math.sqrt(years), WITHIN_YEAR_SPREAD * unknown))
        said = f"the run is longer than the series, whose {_hours(span_s)} stand for it"
        return _figure(trace, mean, factor, "assumed", "mean of all of it"), [said]
    if period.start_unix_s is None:
        return _over_all_starts(trace, period.duration_s)
    moved = trace.aligned(period.start_unix_s, period.duration_s)
    if moved is None:
        wanted = f"{iso_utc(period.start_unix_s)} to {iso_utc(period.start_unix_s + period.duration_s)}"
        held = f"{iso_utc(float(trace.start_unix_s[0]))} to {iso_utc(trace.end_unix_s)}"
        raise FootprintError(
            f"{trace.source}: holds {held}, which covers less than half of {wanted}, in this or another year"
        )
    mean, known = trace.mean(moved, period.duration_s)
    notes = (
        [] if known > 0.999 else [f"the series knows {percent(known, 0)} of the period; its mean stands for the rest"]
    )
    years = abs(moved - period.start_unix_s) / SHIFT_S
    if not years:
        return _figure(trace, mean, 1.0, "declared", f"hours from {iso_utc(moved)}"), notes
    notes.append(f"hours from {iso_utc(moved)} stand for those from {iso_utc(period.start_unix_s)}")
    drift = math.exp(TYPICAL_DRIFT * math.sqrt(years))
    return _figure(trace, mean, drift, "assumed", f"hours from {iso_utc(moved)} in place of the run's"), notes


def _over_all_starts(trace: Trace, duration_s: float) -> tuple[Figure, list[str]]:
    means, _ = trace.means(trace.starts(duration_s), duration_s)
    if not len(means):
        raise FootprintError(f"{trace.source}: has too many gaps for a run of {_hours(duration_s)}")
    low, high = np.quantile(means, (0.1, 0.9)).tolist()
    value = float(np.mean(means))
    source = f"{trace.source}: mean over every start of {_hours(duration_s)}, because no start is stated"
    return Figure(value, min(low, value), max(high, value), UNIT, "assumed", source), []


def _figure(trace: Trace, value: float, factor: float, kind: Kind, what: str) -> Figure:
    return Figure(value, value / factor, value * factor, UNIT, kind, f"{trace.source}: {what}")


def _hours(seconds: float) -> str:
    return f"{number(seconds / SECONDS_PER_HOUR, 4)} hours"
