"""Compute the carbon of a finished run elsewhere or at other hours, from the energy that it was measured to take.

Energy, PUE and reserved time stay as they were; only the place and the hours change. Other hardware is a question of
prediction and not of measurement: see `plan.whatif.planned_run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.factors.grid import zone_intensity
from carbon_plugin.footprint.series.file import load_trace
from carbon_plugin.footprint.series.over_run import series_intensity
from carbon_plugin.footprint.values import EnergyItem, Factors, Footprint, Intensity, Reservation, RunPeriod
from carbon_plugin.plan.whatif.axes import Axes, combinations_of, pause_threshold, start_hour
from carbon_plugin.plan.whatif.comparison import Alternative, Comparison, make_comparison, mean_g_per_kwh
from carbon_plugin.plan.whatif.pausing import schedule
from carbon_plugin.plan.whatif.planned_run import marginal_kg
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY, SECONDS_PER_HOUR
from carbon_plugin.spec.parsing.moment import iso_utc, unix_s

if TYPE_CHECKING:
    from carbon_plugin.footprint.series.trace import Trace

RUN_AXES = ("zone", "series", "start", "hour", "pause_above")
SAMPLE_S = 900.0
"""A bin of energy takes the intensity of the day every so many seconds, because it may be longer than an hour."""


class MeasuredRun(Struct, frozen=True, kw_only=True):
    """One instance holds what a finished run took.

    `duration_s` is the time from its first record to its last. `energy_j` is the IT energy in bins of `width_s` from
    the start on, of which the last may end after the run, `energies` the same energy by rung.
    `idle_j_per_s` is what each rung takes in a second of a pause, None where the devices are not known.
    `marginal_g_per_kwh` is the energy-weighted mean of the marginal intensities on record, None without any.
    `by_hour_g_per_kwh` is the grid intensity in each hour of the day, UTC, as far as the run knows it, or empty where
    it does not change; `by_hour_from` says where that is from.
    """

    name: str
    start_unix_s: float
    duration_s: float
    width_s: float
    energy_j: tuple[float, ...]
    energies: tuple[EnergyItem, ...]
    reserved: tuple[Reservation, ...]
    factors: Factors
    footprint: Footprint
    idle_j_per_s: tuple[EnergyItem, ...] | None = None
    marginal_g_per_kwh: float | None = None
    by_hour_g_per_kwh: tuple[float | None, ...] = ()
    by_hour_from: str = ""


def compare_run(run: MeasuredRun, axes: Axes, *, marginal: str | None = None, seed: int = 0) -> Comparison:
    """Return the run as it was, compared with every combination of the axes' values.

    `marginal` is a file of marginal intensity. An alternative that cannot be computed holds the reason. Raises
    `FootprintError` for a file that cannot be read.
    """
    trace = load_trace(marginal, "marginal") if marginal is not None else None
    alternatives = [_try(run, changes, trace, seed) for changes in combinations_of(axes)]
    base = Alternative(
        changes={},
        footprint=run.footprint,
        elapsed_s=run.duration_s,
        intensity=run.factors.intensity,
        g_per_kwh=mean_g_per_kwh(run.footprint),
        marginal_kg=_at_rate(run, run.marginal_g_per_kwh) or _marginal(run, trace, run.start_unix_s),
    )
    return make_comparison(run.name, base, alternatives)


def _try(run: MeasuredRun, changes: Mapping[str, str], marginal: Trace | None, seed: int) -> Alternative:
    try:
        if "hour" in changes and len(changes) > 1:
            raise SpecError(
                "hour is the one change of a comparison, expected no other beside it; for the hours of another place "
                "give series=FILE start=MOMENT"
            )
        start = unix_s(changes["start"], "start") if "start" in changes else run.start_unix_s
        if "series" in changes:
            if "pause_above" in changes:
                return _paused(run, changes, start, marginal, seed)
            return _shifted(run, changes, start, marginal, seed)
        if "start" in changes or "pause_above" in changes:
            raise SpecError("start and pause_above need series=FILE, the intensity over time")
        if "hour" in changes:
            return _at_hour(run, changes, seed)
        return _moved(run, changes, marginal, seed)
    except CarbonPluginError as error:
        return Alternative(changes=dict(changes), reason=str(error))


def _moved(run: MeasuredRun, changes: Mapping[str, str], marginal: Trace | None, seed: int) -> Alternative:
    """Return the run in another zone, at its annual mean."""
    intensity = zone_intensity(changes["zone"])
    factors = _factors(run, intensity)
    footprint = account(run.energies, run.reserved, factors, seed=seed)
    return _alternative(run, changes, footprint, intensity, _marginal(run, marginal, run.start_unix_s))


def _at_hour(run: MeasuredRun, changes: Mapping[str, str], seed: int) -> Alternative:
    """Return the run with another hour of the day as its start, at the intensities that it knows of the day."""
    if not run.by_hour_g_per_kwh:
        raise SpecError("hour needs the intensity of each hour, and that of this run does not change with time")
    mean = _mean_from_hour(run, start_hour(changes["hour"]))
    stated = run.factors.intensity
    figure = stated.figure
    low, high = (mean * edge / figure.value if figure.value else mean for edge in (figure.low, figure.high))
    intensity = msgspec.structs.replace(
        stated,
        figure=Figure(mean, low, high, figure.unit, "assumed", run.by_hour_from),
        granularity="mean day by the hour",
        parts=(),
    )
    energies = [msgspec.structs.replace(item, intensity_g_per_kwh=mean) for item in run.energies]
    footprint = account(energies, run.reserved, _factors(run, intensity), seed=seed)
    return _alternative(run, changes, footprint, intensity, None)


def _mean_from_hour(run: MeasuredRun, hour: int) -> float:
    """Return the mean intensity, weighted with the energy of the run, if it starts at this hour and its own minute."""
    own_s = run.start_unix_s % SECONDS_PER_HOUR
    samples = max(1, round(run.width_s / SAMPLE_S))
    bins = np.arange(len(run.energy_j) * samples, dtype=np.float64)
    moments_s = hour * SECONDS_PER_HOUR + own_s + (bins + 0.5) * run.width_s / samples
    day = np.array([np.nan if one is None else one for one in run.by_hour_g_per_kwh])
    rates = day[(moments_s % SECONDS_PER_DAY // SECONDS_PER_HOUR).astype(int)]
    weights = np.repeat(np.array(run.energy_j), samples)
    if np.isnan(rates[weights > 0]).any():
        raise SpecError("the run knows no intensity for some of the hours that it would take")
    if not weights.sum():
        raise SpecError("the run took no energy")
    return float(np.average(np.nan_to_num(rates), weights=weights))


def _shifted(
    run: MeasuredRun, changes: Mapping[str, str], start_unix_s: float, marginal: Trace | None, seed: int
) -> Alternative:
    """Return the run at the hours of a series from a start on, with each bin of its energy at its own intensity."""
    trace = load_trace(changes["series"])
    intensity = series_intensity(changes["series"], changes.get("zone"), RunPeriod(start_unix_s, run.duration_s))
    mean = _weighted(run, trace, start_unix_s)
    energies = [msgspec.structs.replace(item, intensity_g_per_kwh=mean) for item in run.energies]
    footprint = account(energies, run.reserved, _factors(run, intensity), seed=seed)
    return _alternative(run, changes, footprint, intensity, _marginal(run, marginal, start_unix_s))


def _paused(
    run: MeasuredRun, changes: Mapping[str, str], start_unix_s: float, marginal: Trace | None, seed: int
) -> Alternative:
    """Return the run with pauses in the dirty hours of a series; its energy is spread evenly over the hours in
    training.
    """
    if run.idle_j_per_s is None:
        raise SpecError("pause_above needs the idle power of the devices, whose profiles the run does not name")
    trace, threshold = load_trace(changes["series"]), pause_threshold(changes["pause_above"])
    plan = schedule(trace, start_unix_s, run.duration_s, pause_above=threshold, marginal=marginal)
    intensity = series_intensity(changes["series"], changes.get("zone"), RunPeriod(start_unix_s, plan.elapsed_s))
    idle = [_times(item, plan.paused_s, plan.paused_g_per_kwh) for item in run.idle_j_per_s]
    energies = [_times(item, 1.0, plan.training_g_per_kwh) for item in run.energies] + idle
    longer = plan.elapsed_s / run.duration_s
    reserved = [msgspec.structs.replace(item, time_s=item.time_s * longer) for item in run.reserved]
    footprint = account(energies, reserved, _factors(run, intensity), seed=seed)
    at_margin = None
    if plan.training_marginal_g_per_kwh is not None and plan.paused_marginal_g_per_kwh is not None:
        rates = [plan.training_marginal_g_per_kwh] * len(run.energies) + [plan.paused_marginal_g_per_kwh] * len(idle)
        at_margin = marginal_kg(energies, rates, run.factors.pue.value)
    found = _alternative(run, changes, footprint, intensity, at_margin)
    return msgspec.structs.replace(found, elapsed_s=plan.elapsed_s, paused_s=plan.paused_s)


def _alternative(
    run: MeasuredRun,
    changes: Mapping[str, str],
    footprint: Footprint,
    intensity: Intensity,
    at_margin: float | None,
) -> Alternative:
    notes = [f"PUE {run.factors.pue.value:g} as it was", *intensity.notes]
    return Alternative(
        changes=dict(changes),
        footprint=footprint,
        elapsed_s=run.duration_s,
        intensity=intensity,
        g_per_kwh=mean_g_per_kwh(footprint),
        marginal_kg=at_margin,
        notes=tuple(notes),
    )


def _factors(run: MeasuredRun, intensity: Intensity) -> Factors:
    """Return the factors of the run at another intensity, without contracts and water of the old place."""
    return msgspec.structs.replace(
        run.factors, intensity=intensity, instruments=(), residual=None, water_l_per_kwh={}, marginal=None
    )


def _weighted(run: MeasuredRun, trace: Trace, start_unix_s: float) -> float:
    """Return the mean of a trace over the run from a start on, weighted with the energy of each bin."""
    moved = trace.aligned(start_unix_s, run.duration_s)
    if moved is None:
        raise SpecError(f"{trace.source}: does not cover a run from {iso_utc(start_unix_s)}, in this or another year")
    bins = np.arange(len(run.energy_j), dtype=np.float64)
    means, _ = trace.means(moved + run.width_s * bins, run.width_s)
    weights = np.where(np.isfinite(means), run.energy_j, 0.0)
    if not weights.sum():
        return trace.mean(moved, run.duration_s)[0]
    return float(np.average(np.nan_to_num(means), weights=weights))


def _marginal(run: MeasuredRun, trace: Trace | None, start_unix_s: float) -> float | None:
    return None if trace is None else _at_rate(run, _weighted(run, trace, start_unix_s))


def _at_rate(run: MeasuredRun, g_per_kwh: float | None) -> float | None:
    if g_per_kwh is None:
        return None
    return marginal_kg(run.energies, [g_per_kwh] * len(run.energies), run.factors.pue.value)


def _times(item: EnergyItem, factor: float, g_per_kwh: float) -> EnergyItem:
    return msgspec.structs.replace(item, energy=item.energy.scaled(factor), intensity_g_per_kwh=g_per_kwh)
