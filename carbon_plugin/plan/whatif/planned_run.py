"""Plan the run elsewhere, on other hardware, at other hours, or with pauses, with the numbers that `plan` gives.

A pause is not free: devices hold their memory at idle power, hosts and network stay on, and embodied carbon is charged
for the longer reservation. All alternatives share one draw for each uncertain input, so that they differ by the change
and not by the sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import EnergyItem, Factors, RunPeriod
from carbon_plugin.plan.forecast import (
    Forecast,
    layout_phrase,
    make_forecast,
    modelled_energies,
    require_fit,
    reservations,
    run_energies,
)
from carbon_plugin.plan.real_run import overrun_of
from carbon_plugin.plan.whatif.axes import Axes, combinations_of, pause_threshold
from carbon_plugin.plan.whatif.comparison import Alternative, Comparison, make_comparison, mean_g_per_kwh
from carbon_plugin.plan.whatif.pausing import PauseSchedule, schedule
from carbon_plugin.predict.power import idle_power_figure
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, usual_node
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH
from carbon_plugin.spec.on_cluster import on_cluster
from carbon_plugin.spec.run import RunSpec, check_layout, with_layout
from carbon_plugin.spec.site import SeriesFile, Site

if TYPE_CHECKING:
    from carbon_plugin.footprint.series.file import Signal
    from carbon_plugin.footprint.series.trace import Trace

PLAN_AXES = ("zone", "series", "accelerator", "start", "pause_above")
Directories = Sequence[str | Path]


def compare_plan(
    spec: RunSpec, axes: Axes, *, profile_dirs: Directories = (), seed: int = 0, force: bool = False
) -> Comparison:
    """Return the comparison of the run with every combination of the axes' values.

    An alternative that cannot be done holds the reason. Raises the errors of `make_forecast` where the run itself
    cannot be done, and those of `require_fit` where its layout does not fit, unless `force` is set.
    """
    base = make_forecast(spec, seed=seed)
    if not force:
        require_fit(base)
    alternatives = [_try(spec, base, changes, profile_dirs, seed) for changes in combinations_of(axes)]
    return make_comparison(spec.name, _as_forecast({}, base, ()), alternatives)


def relocated(site: Site, zone: str) -> tuple[Site, tuple[str, ...]]:
    """Return the site in another zone, and what does not move with it: numbers of the old place and its contracts."""
    fresh = msgspec.structs.replace(
        site,
        zone=zone,
        intensity_g_per_kwh=None,
        intensity_basis=None,
        intensity_series=None,
        live=None,
        marginal_g_per_kwh=None,
        marginal_series=None,
        live_marginal=None,
        water_l_per_kwh=None,
        instruments=(),
        residual_g_per_kwh=None,
    )
    notes = [f"the stated PUE of {site.pue:g} is kept"] if site.pue is not None else []
    if site.instruments or site.residual_g_per_kwh is not None:
        notes.append("contracts stay with the old place")
    if site.intensity_series is not None:
        notes.append("without a series the annual mean of the zone counts at every hour")
    return fresh, tuple(notes)


def marginal_kg(energies: Sequence[EnergyItem], g_per_kwh: Sequence[float], pue: float) -> float:
    """Return the kgCO2e of energies at a marginal intensity for each."""
    weighted = sum(item.energy.value * marginal for item, marginal in zip(energies, g_per_kwh, strict=True))
    return pue * weighted / (JOULES_PER_KWH * GRAMS_PER_KG)


def _try(
    spec: RunSpec, base: Forecast, changes: Mapping[str, str], profile_dirs: Directories, seed: int
) -> Alternative:
    try:
        changed, notes = _changed(spec, changes, profile_dirs)
        forecast = _forecast(changed, base, seed)
        if changed.cluster != spec.cluster:
            notes = (*notes, f"layout {forecast.layout_source}: {layout_phrase(forecast)}")
        if "pause_above" in changes:
            return _paused(dict(changes), forecast, pause_threshold(changes["pause_above"]), notes, seed)
        return _as_forecast(dict(changes), forecast, notes)
    except CarbonPluginError as error:
        return Alternative(changes=dict(changes), reason=str(error))


def _changed(spec: RunSpec, changes: Mapping[str, str], profile_dirs: Directories) -> tuple[RunSpec, tuple[str, ...]]:
    """Return the spec with its changes, and what else changes with them."""
    site = spec.site
    notes: list[str] = []
    if "zone" in changes:
        site, lost = relocated(site, changes["zone"])
        notes += lost
    if "series" in changes:
        series = _like(site.intensity_series, changes["series"])
        site = msgspec.structs.replace(site, intensity_g_per_kwh=None, intensity_basis=None, intensity_series=series)
    if "accelerator" in changes:
        accelerator = load_accelerator(changes["accelerator"], profile_dirs=profile_dirs)
        cluster = as_many_devices(accelerator, spec.cluster.devices, profile_dirs)
        # The run's own hardware stays as the spec has it, with a node that may not be the usual one.
        if accelerator.name != spec.cluster.accelerator.name:
            each = cluster.devices_per_node
            notes.append(f"{cluster.nodes} x {cluster.node.name} with {plural(each, 'device')}")
            spec, others = on_cluster(spec, cluster)
            notes += others
    start = changes.get("start", spec.start)
    if "start" in changes and site.intensity_series is None:
        notes.append("the start does not matter without a series of intensity")
    return msgspec.structs.replace(spec, site=site, start=start), tuple(notes)


def _forecast(spec: RunSpec, base: Forecast, seed: int) -> Forecast:
    """Return a forecast with the stated layout, or with that of the run where only the place changed; else with the
    fastest.

    Every alternative is planned with the overrun of the run, so that only the change makes a difference.
    """
    overrun = overrun_of(base.spec)
    if spec.cluster == base.spec.cluster:
        return make_forecast(with_layout(spec, base.spec.layout), seed=seed, overrun=overrun)
    if spec.layout is not None:
        try:
            check_layout(spec.model, spec.cluster, spec.layout)
        except SpecError:
            spec = msgspec.structs.replace(spec, layout=None)
        else:
            forecast = make_forecast(spec, seed=seed, overrun=overrun)
            if forecast.prediction.memory.fits:
                return forecast
    return make_forecast(msgspec.structs.replace(spec, layout=None), seed=seed, overrun=overrun)


def _as_forecast(changes: dict[str, str], forecast: Forecast, notes: tuple[str, ...]) -> Alternative:
    factors, footprint = forecast.factors, forecast.footprint
    marginal = factors.marginal
    facility_kwh = footprint.energy_j["facility"].value / JOULES_PER_KWH
    return Alternative(
        changes=changes,
        footprint=footprint,
        elapsed_s=forecast.run_time_s.value,
        intensity=factors.intensity,
        g_per_kwh=mean_g_per_kwh(footprint),
        marginal_kg=None if marginal is None else facility_kwh * marginal.figure.value / GRAMS_PER_KG,
        notes=(*notes, *_hours(factors)),
        best_case=forecast.best_case,
    )


def _paused(
    changes: dict[str, str], forecast: Forecast, threshold: float, notes: tuple[str, ...], seed: int
) -> Alternative:
    """Return the run that waits at idle power while the grid is above a threshold."""
    spec, goodput = forecast.spec, forecast.goodput
    assert goodput is not None  # every new forecast has one
    plan, factors = _schedule(spec, forecast.run_time_s.value, threshold)
    cluster = spec.cluster
    training = run_energies(cluster, forecast.prediction, goodput)
    waiting = modelled_energies(cluster, idle_power_figure(cluster), plan.paused_s) if plan.paused_s else []
    energies = [
        *(msgspec.structs.replace(item, intensity_g_per_kwh=plan.training_g_per_kwh) for item in training),
        *(msgspec.structs.replace(item, intensity_g_per_kwh=plan.paused_g_per_kwh) for item in waiting),
    ]
    run_time = forecast.run_time_s
    stretch = (run_time.low / run_time.value, run_time.high / run_time.value)
    footprint = account(energies, reservations(cluster, plan.elapsed_s), factors, duration_spread=stretch, seed=seed)
    marginal = None
    if plan.training_marginal_g_per_kwh is not None and plan.paused_marginal_g_per_kwh is not None:
        rates = [plan.training_marginal_g_per_kwh] * len(training) + [plan.paused_marginal_g_per_kwh] * len(waiting)
        marginal = marginal_kg(energies, rates, factors.pue.value)
    return Alternative(
        changes=changes,
        footprint=footprint,
        elapsed_s=plan.elapsed_s,
        paused_s=plan.paused_s,
        intensity=factors.intensity,
        g_per_kwh=mean_g_per_kwh(footprint),
        marginal_kg=marginal,
        notes=(*notes, *_hours(factors)),
    )


def _hours(factors: Factors) -> tuple[str, ...]:
    """Return what a reader must know about an intensity over time.

    The usual notes on an annual mean are left out, because they are among the plan's assumptions.
    """
    return factors.warnings if factors.intensity.granularity == "annual" else factors.intensity.notes


def _schedule(spec: RunSpec, work_s: float, threshold: float) -> tuple[PauseSchedule, Factors]:
    """Return when the run trains, and the factors over all of its time."""
    if spec.site.intensity_series is None or spec.start_unix_s is None:
        raise SpecError(
            "pause_above needs site.intensity_series, and a start in the spec or in the comparison; a series does not "
            "move with the zone: add series=FILE"
        )
    marginal = None if spec.site.marginal_series is None else _trace(spec.site.marginal_series, "marginal")
    plan = schedule(
        _trace(spec.site.intensity_series), spec.start_unix_s, work_s, pause_above=threshold, marginal=marginal
    )
    return plan, resolve_factors(spec.site, spec.cluster, period=RunPeriod(spec.start_unix_s, plan.elapsed_s))


def as_many_devices(accelerator: Accelerator, devices: int, profile_dirs: Directories) -> Cluster:
    """Return a cluster of so many devices of another kind in their usual nodes, with the most a node that leaves none
    over.
    """
    node = usual_node(accelerator, devices, profile_dirs=profile_dirs)
    used = next(count for count in range(min(node.accelerators, devices), 0, -1) if devices % count == 0)
    return Cluster(accelerator=accelerator, node=node, nodes=devices // used, devices_per_node=used)


def _like(known: str | SeriesFile | None, path: str) -> str | SeriesFile:
    """Read another file in the way that the site states for its own file."""
    return msgspec.structs.replace(known, path=path) if isinstance(known, SeriesFile) else path


def _trace(file: str | SeriesFile, signal: Signal = "average") -> Trace:
    # Arrays and file formats are loaded only where a series is used.
    from carbon_plugin.footprint.series.file import load_trace

    return load_trace(file, signal)
