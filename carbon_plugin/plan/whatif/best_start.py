"""Find the start of a run within the next hours at which it emits least, on a forecast of the grid's intensity.

Only operational carbon depends on the start: nothing is reserved before it. Hours that the forecast does not know count
at its mean over the hours that it knows, so that a constant forecast saves nothing. A later start often knows fewer
hours than a start now. These further unknown hours count at the highest hour of the forecast, so that no start is
better for being unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.plan.forecast import Forecast
from carbon_plugin.spec.numbers.amounts import number, percent
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH, SECONDS_PER_HOUR
from carbon_plugin.spec.parsing.moment import iso_utc

if TYPE_CHECKING:
    from carbon_plugin.footprint.series.trace import Trace

MOST_STARTS = 5000


class PossibleStart(Struct, frozen=True, kw_only=True):
    """One start: the mean intensity over the run, g/kWh, its operational carbon, kgCO2e with range, and the share of
    the run's hours that the forecast knows, 0 to 1."""

    start: str
    start_unix_s: float
    g_per_kwh: float
    operational_kg: Range
    known: float


class BestStart(Struct, frozen=True, kw_only=True):
    """Holds the best start of a run beside a start now. `saved_kg` is what it emits less than now, with the range of
    the energy of the run; how good the forecast of the grid is, is in no range. `starts` are all that were compared.
    """

    name: str
    run_time_s: Range
    source: str
    now: PossibleStart
    best: PossibleStart
    saved_kg: Range
    starts: tuple[PossibleStart, ...]
    notes: tuple[str, ...]

    @property
    def saved_share(self) -> float:
        """Return what is saved over what a start now emits in operation."""
        now_kg = self.now.operational_kg.value
        return self.saved_kg.value / now_kg if now_kg else 0.0


def find_best_start(plan: Forecast, trace: Trace, *, now_unix_s: float, within_s: float) -> BestStart:
    """Return the start with the least operational carbon between now and `within_s` seconds from now.

    Of starts that are equal the earliest is taken. Raises `SpecError` where the forecast does not know the present
    hour, or `within_s` cannot be used.
    """
    import numpy as np

    from carbon_plugin.footprint.series.trace import ROUNDED

    if not 0 < within_s < float("inf"):
        raise SpecError(f"within is {within_s:g} s, expected more than 0")
    if not trace.start_unix_s[0] <= now_unix_s < trace.end_unix_s:
        held = f"{iso_utc(float(trace.start_unix_s[0]))} to {iso_utc(trace.end_unix_s)}"
        raise SpecError(
            f"{trace.source}: holds {held}, which does not include now ({iso_utc(now_unix_s)}); give a forecast of the "
            "hours to come"
        )
    most_s = MOST_STARTS * trace.step_s
    if within_s > most_s:
        hours, most = (number(length_s / SECONDS_PER_HOUR) for length_s in (within_s, most_s))
        raise SpecError(
            f"within is {hours} hours, expected at most {MOST_STARTS:,} steps of the forecast: {most} hours"
        )
    run_time_s, facility_j = plan.run_time_s.range, plan.footprint.energy_j["facility"].range
    origin = float(trace.start_unix_s[0])  # the hours of a forecast need not begin at a full hour of UTC
    first = origin + (int((now_unix_s - origin) // trace.step_s) + 1) * trace.step_s
    moments = np.array([now_unix_s, *np.arange(first, now_unix_s + within_s + 1, trace.step_s)])
    moments = moments[moments < trace.end_unix_s]
    means, known = trace.means(moments, run_time_s.value)
    level = _Level.of(trace, now_unix_s)
    fewer = np.clip(known[0] - known, 0.0, None)
    rates = known * np.nan_to_num(means) + (1 - known - fewer) * level.mean + fewer * level.highest
    rates = np.round(rates, ROUNDED)
    starts = tuple(
        PossibleStart(
            start=iso_utc(float(moment)),
            start_unix_s=float(moment),
            g_per_kwh=float(rate),
            operational_kg=facility_j.scaled(float(rate) / JOULES_PER_KWH / GRAMS_PER_KG),
            known=float(share),
        )
        for moment, rate, share in zip(moments, rates, known, strict=True)
    )
    best = min(starts, key=lambda one: one.g_per_kwh)
    now = starts[0]
    saved_g_per_kwh = now.g_per_kwh - best.g_per_kwh
    return BestStart(
        name=plan.spec.name,
        run_time_s=run_time_s,
        source=trace.source,
        now=now,
        best=best,
        saved_kg=facility_j.scaled(saved_g_per_kwh / JOULES_PER_KWH / GRAMS_PER_KG),
        starts=starts,
        notes=_notes(trace, now, best, level, within_s),
    )


class _Level(NamedTuple):
    """Holds the mean and the highest intensity of a forecast from a moment on, g/kWh."""

    mean: float
    highest: float

    @classmethod
    def of(cls, trace: Trace, now_unix_s: float) -> _Level:
        mean, _ = trace.mean(now_unix_s, trace.end_unix_s - now_unix_s)
        ahead = trace.g_per_kwh[trace.start_unix_s + trace.step_s > now_unix_s]
        return cls(mean, float(ahead.max()))


def _notes(trace: Trace, now: PossibleStart, best: PossibleStart, level: _Level, within_s: float) -> tuple[str, ...]:
    from carbon_plugin.footprint.series.trace import gaps

    notes = []
    least = min(now.known, best.known)
    if least < 0.999:
        mean, highest = number(level.mean), number(level.highest)
        notes.append(
            f"the forecast knows {percent(least, 0)} of the hours of the run; its mean of {mean} g/kWh stands for the "
            "others, "
            f"and its highest hour of {highest} g/kWh for those that a later start knows less than a start now"
        )
    unknown_s = sum(
        max(0.0, end_s - max(start_s, now.start_unix_s)) for start_s, end_s in gaps(trace) if end_s > now.start_unix_s
    )
    if unknown_s > 0:
        notes.append(f"the forecast has gaps of {number(unknown_s / SECONDS_PER_HOUR)} hours, which count as unknown")
    reached_s = trace.end_unix_s - now.start_unix_s
    if reached_s < within_s:
        hours = number(reached_s / SECONDS_PER_HOUR)
        notes.append(f"the forecast ends after {hours} hours, so that later starts are not compared")
    notes.append("ranges are those of the energy of the run; the forecast of the grid is taken as it is")
    return tuple(notes)
