"""Forecast a whole run before launch: its time, energy by rung, carbon, cost, and every assumption."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

import carbon_plugin
from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.drivers import Driver, drivers
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import EnergyItem, Factors, Footprint, Reservation, RunPeriod
from carbon_plugin.ledger.held import account_inputs
from carbon_plugin.plan.goodput import Goodput
from carbon_plugin.plan.real_run import BestCase, Planned, best_case, planned_goodput
from carbon_plugin.plan.search.feasibility import with_held
from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.plan.search.phrases import phrase_of
from carbon_plugin.plan.smaller import with_more_room
from carbon_plugin.plan.warnings import misfit, warnings_of
from carbon_plugin.predict.power import idle_power_figure
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.fabric import fabric_factor
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Assumption, Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR
from carbon_plugin.spec.parsing.boundary import parse_json, read_bytes
from carbon_plugin.spec.parsing.limits import check_possible_run
from carbon_plugin.spec.parsing.saving import save
from carbon_plugin.spec.run import RunSpec, check_is_spec, with_layout
from carbon_plugin.spec.stated_layout import BY_STACK, left_to_stack

FORECAST_VERSION = 1


class Forecast(Struct, frozen=True, kw_only=True):
    """One forecast is what `plan` writes and a run carries.

    `run_time_s` covers training steps and all other time of the run, by part in `goodput`; `device_hours` is devices
    times that. `footprint` has energy by rung, operational and embodied carbon; `wasted` is the part of it that falls
    in the time that neither trains nor evaluates (None where there is no such time). `seed` reproduces their sampling.
    `drivers` are the uncertain inputs, the one that moves total carbon most first. Where `goodput.overrun` is set, all
    numbers are those of a real run, and `best_case` is the same run without the overrun (None: there is no difference).
    """

    version: int
    created_unix_s: float
    plugin_version: str
    spec: RunSpec
    prediction: StepPrediction
    total_steps: int
    run_time_s: Figure
    device_hours: Figure
    footprint: Footprint
    factors: Factors
    cost_usd: Figure | None
    layout_source: str
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]
    seed: int
    goodput: Goodput | None = None
    wasted: Footprint | None = None
    drivers: tuple[Driver, ...] = ()
    best_case: BestCase | None = None


def make_forecast(spec: RunSpec, *, seed: int = 0, overrun: Planned = "own") -> Forecast:
    """Forecast a whole run: its time, energy, carbon and cost, each with a range.

    Args:
        spec: The run. A layout that it leaves open is searched first.
        seed: Seed of the sampling of ranges. Default: 0.
        overrun: What the run takes beyond its modelled losses. Default: "own", as published runs of its kind took.

    Returns:
        The forecast. A stated layout that does not fit in memory is forecast with a warning; `require_fit` refuses it.

    Raises:
        InfeasibleLayoutError: The layout breaks a rule of the model, the cluster or the batch, or none fits.
        SpecError: The spec holds a value that cannot be used.
        FootprintError: The site cannot be accounted for.
    """
    check_is_spec(spec)
    spec, layout_source = _laid_out(spec)
    prediction = predict_step(spec)
    steps = spec.training.total_steps
    goodput = planned_goodput(spec, prediction, overrun)
    run_time = run_time_figure(prediction, goodput)
    device_hours = run_time.scaled(spec.cluster.devices / SECONDS_PER_HOUR, "h")
    check_possible_run(run_time.value, device_hours.value)
    factors = resolve_factors(spec.site, spec.cluster, period=RunPeriod(spec.start_unix_s, run_time.value))
    stretch = (run_time.low / run_time.value, run_time.high / run_time.value)
    energies = run_energies(spec.cluster, prediction, goodput)
    reserved = reservations(spec.cluster, run_time.value)
    footprint = account(energies, reserved, factors, duration_spread=stretch, seed=seed)
    wasted = None
    if goodput.wasted_s > 0:
        lost, held = wasted_energies(spec.cluster, prediction, goodput), reservations(spec.cluster, goodput.wasted_s)
        wasted = _part_of(footprint, account(lost, held, factors, duration_spread=stretch, seed=seed))
    best = best_case(goodput)
    price = spec.price_usd_per_device_hour
    assumptions = (
        *spec.assumptions,
        *_shared_hosts(spec.cluster),
        *prediction.assumptions,
        *goodput.assumptions,
        *factors.assumptions,
    )
    return Forecast(
        version=FORECAST_VERSION,
        created_unix_s=time.time(),
        plugin_version=carbon_plugin.__version__,
        spec=spec,
        prediction=prediction,
        total_steps=steps,
        run_time_s=run_time,
        device_hours=device_hours,
        footprint=footprint,
        factors=factors,
        cost_usd=device_hours.scaled(price, "USD") if price is not None else None,
        layout_source=layout_source,
        assumptions=_unique(assumptions),
        warnings=(*warnings_of(spec, prediction), *factors.warnings),
        seed=seed,
        goodput=goodput,
        wasted=wasted,
        drivers=drivers(energies, reserved, factors, duration_spread=stretch),
        best_case=None if best is None else _best_case(spec, prediction, best, factors, seed),
    )


def _part_of(whole: Footprint, part: Footprint) -> Footprint:
    """Return the footprint of a part of a run with its share, by energy, of what contracts make of the whole."""
    if whole.market is None:
        return part
    share = part.energy_j["facility"].value / whole.energy_j["facility"].value
    return msgspec.structs.replace(part, market=whole.market.scaled(share))


def _laid_out(spec: RunSpec) -> tuple[RunSpec, str]:
    """Return the run with a layout, which is searched where the spec leaves it open, and where the layout is from."""
    if spec.layout is not None:
        return spec, "stated in the spec"
    found = search_layout(spec)
    tried = f"fastest of {found.fitting:,} that fit, of {plural(found.evaluated, 'layout')}"
    assumptions = (*spec.assumptions, *_chosen(spec, found.layout))
    laid_out = msgspec.structs.replace(with_layout(spec, found.layout), assumptions=assumptions)
    return laid_out, f"auto{with_held(spec)}: {tried}"


def _best_case(spec: RunSpec, prediction: StepPrediction, goodput: Goodput, factors: Factors, seed: int) -> BestCase:
    """Return the run without an overrun, at the intensity of the hours of the real run."""
    run_time = run_time_figure(prediction, goodput)
    hours, price = run_time.scaled(spec.cluster.devices / SECONDS_PER_HOUR, "h"), spec.price_usd_per_device_hour
    return BestCase(
        run_time_s=run_time,
        device_hours=hours,
        footprint=account(
            run_energies(spec.cluster, prediction, goodput),
            reservations(spec.cluster, run_time.value),
            factors,
            duration_spread=(run_time.low / run_time.value, run_time.high / run_time.value),
            seed=seed,
        ),
        cost_usd=hours.scaled(price, "USD") if price is not None else None,
    )


def _chosen(spec: RunSpec, layout: ParallelLayout) -> list[Assumption]:
    """Return the fields that the search sets without having chosen them."""
    fields = [name for name in left_to_stack(layout) if getattr(layout, name) and name not in spec.layout_held]
    splits = "the search runs it with every tensor parallelism, as large frameworks do"
    whys = {name: BY_STACK[name][True] for name in fields} | {"sequence_parallel": splits}
    return [Assumption(f"layout.{name}", "true", whys[name]) for name in fields]


def require_fit(forecast: Forecast) -> None:
    """Raise `InfeasibleLayoutError` where the layout of a forecast does not fit in memory."""
    if not forecast.prediction.memory.fits:
        assert forecast.spec.layout is not None  # a forecast always has one
        room = with_more_room(forecast.spec)
        mended = f"it fits with {', or with '.join(room)}; or leave" if room else "leave"
        raise InfeasibleLayoutError(
            f"layout: {phrase_of(forecast.spec.layout)} {misfit(forecast.prediction.memory)}; {mended} the layout out "
            "and it is searched, or plan it all the same with --force"
        )


def run_time_figure(prediction: StepPrediction, goodput: Goodput) -> Figure:
    """Return the time of the whole run in s, with its range.

    The log widths of the step's range and of that of the assumed losses are added in squares. The range of an overrun
    contains both, because it is that of published over predicted time; so the wider of the two ranges counts.
    """
    step, time_s = prediction.step_time_s, goodput.run_time_s
    low = math.hypot(math.log(step.low / step.value), math.log(goodput.spread[0]))
    high = math.hypot(math.log(step.high / step.value), math.log(goodput.spread[1]))
    source = f"{step.source}; all other time of the run"
    if goodput.overrun is not None:
        low = max(low, math.log(goodput.overrun.value / goodput.overrun.low))
        high = max(high, math.log(goodput.overrun.high / goodput.overrun.value))
        source += f"; {goodput.overrun.source}"
    return Figure(time_s, time_s * math.exp(-low), time_s * math.exp(high), "s", "modelled", source)


def run_energies(cluster: Cluster, prediction: StepPrediction, goodput: Goodput) -> list[EnergyItem]:
    """Return the energy of each rung over the run in J, at the step's power, or at open-context power while it
    waits.
    """
    busy_s = goodput.run_time_s - goodput.waiting_s
    return modelled_energies(cluster, prediction.gpu_power_w, busy_s) + _waiting_energies(cluster, goodput.waiting_s)


def wasted_energies(cluster: Cluster, prediction: StepPrediction, goodput: Goodput) -> list[EnergyItem]:
    """Return the part of `run_energies` that start-up, checkpoints, restarts and redone work take, in J."""
    busy_s = goodput.wasted_s - goodput.waiting_s
    return modelled_energies(cluster, prediction.gpu_power_w, busy_s) + _waiting_energies(cluster, goodput.waiting_s)


def modelled_energies(cluster: Cluster, device_power_w: Figure, time_s: float) -> list[EnergyItem]:
    """Return the energy of each rung over `time_s` in J, from predicted device power and the node profile.

    Host: base power of the node, in part use by its share of devices as in `reservations`, plus its overhead share of
    device power (fans, regulators, supplies). Network: power of NICs, switches and optics a device, by the tiers of
    switches that so many nodes need.
    """
    host, network = cluster.node.host, cluster.node.network
    device = device_power_w.range.scaled(cluster.devices * time_s)
    base = host.base_power_w.range.scaled(_hosts(cluster) * time_s)
    joined = fabric_factor(cluster.node, cluster.nodes)
    energies: dict[account_inputs.UncertaintyScope, Range] = {
        ("gpu", f"gpu:{cluster.accelerator.name}"): device,
        ("host", f"host:{cluster.node.name}"): base.plus(host.overhead_fraction.range.scaled(device.value)),
        ("network", "network"): network.power_w_per_device.range.scaled(joined * cluster.devices * time_s),
    }
    return [account_inputs.energy_item(scope, energy) for scope, energy in energies.items()]


def reservations(cluster: Cluster, time_s: float) -> tuple[Reservation, ...]:
    """Return what is reserved for `time_s` seconds. A node in part use is charged by its share of devices."""
    return account_inputs.reservations(devices=cluster.devices, hosts=_hosts(cluster), time_s=time_s)


def _hosts(cluster: Cluster) -> float:
    """Return the number of nodes that the run is charged for."""
    return cluster.devices / cluster.node.accelerators


def _shared_hosts(cluster: Cluster) -> list[Assumption]:
    if cluster.devices_per_node == cluster.node.accelerators:
        return []
    share = f"{cluster.devices_per_node} of {cluster.node.accelerators} of a {cluster.node.name}"
    said = "others use the rest of its devices and are charged their share of its power and of its embodied carbon"
    return [Assumption("cluster.devices_per_node", share, said)]


def save_forecast(forecast: Forecast, path: str | os.PathLike[str]) -> None:
    """Write a forecast as JSON, for `watch(planned=...)`.

    Args:
        forecast: The forecast.
        path: File to write; one that exists is replaced.

    Returns:
        None.

    Raises:
        OSError: The file cannot be written.
    """
    save(path, msgspec.json.format(msgspec.json.encode(forecast), indent=2) + b"\n")


def load_forecast(path: str | os.PathLike[str]) -> Forecast:
    """Read a forecast that `save_forecast` or `carbon-plugin plan -o` wrote.

    Args:
        path: The file.

    Returns:
        The forecast.

    Raises:
        SpecError: The file cannot be read, is no forecast, or is of another version.
    """
    path = Path(path)
    content = read_bytes(path, SpecError)
    forecast = parse_json(content, path, "not a forecast of carbon-plugin", SpecError, Forecast)
    if forecast.version != FORECAST_VERSION:
        raise SpecError(f"{path}: version is {forecast.version}, expected {FORECAST_VERSION}")
    return forecast


def _waiting_energies(cluster: Cluster, time_s: float) -> list[EnergyItem]:
    if time_s == 0:
        return []
    return modelled_energies(cluster, idle_power_figure(cluster), time_s)


def _unique(assumptions: Sequence[Assumption]) -> tuple[Assumption, ...]:
    return tuple(dict.fromkeys(assumptions))


def layout_phrase(forecast: Forecast) -> str:
    """Return the layout of a forecast in one phrase."""
    assert forecast.spec.layout is not None  # a forecast always has one
    return phrase_of(forecast.spec.layout)
