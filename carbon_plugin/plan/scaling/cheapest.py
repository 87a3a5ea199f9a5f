"""Find the cheapest cluster that reaches a loss or spends a compute budget in time, and the carbon of that run.

For each size of cluster (whole nodes, powers of two of devices) and each batch (the critical one, a half and a quarter
of it) the layout search gives the fastest step; goodput and footprint are those of a forecast. Of the runs that meet
the deadline, the one with least carbon is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.values import Factors
from carbon_plugin.plan.forecast import modelled_energies, reservations, run_time_figure
from carbon_plugin.plan.scaling.laws import (
    TOKEN_OVERHEAD,
    ComputeSplit,
    ScalingLaw,
    best_split,
    critical_batches,
    least_compute,
    loss_of,
    loss_range,
    tokens_to_reach,
)
from carbon_plugin.plan.scaling.options import (
    AS_USUAL,
    BATCH_SHARES,
    DeviceInNode,
    Method,
    Target,
    TrainingOption,
    best_case_of,
    best_option,
    central_kg,
    footprint_of,
    hardware_of,
    layouts_for,
)
from carbon_plugin.plan.scaling.shape import model_of
from carbon_plugin.plan.search.phrases import phrase_of
from carbon_plugin.predict.power import sustained_w
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import Directories
from carbon_plugin.spec.numbers.amounts import count, percent
from carbon_plugin.spec.numbers.figure import Assumption, Figure
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY, SECONDS_PER_HOUR
from carbon_plugin.spec.site import Site

MEASURED_DEVICES = 6144
"""The number of devices of the largest published run with which the predictor was compared."""
MEASURED_PARAMETERS = 1.01e12
"""The number of parameters of the largest published model with which the predictor was compared."""


COMPUTE = (1e15, 1e32)
"""The compute in FLOP for which an answer is given: below it no step is full, above it no cluster is large enough."""


class BatchAnswer(Struct, frozen=True, kw_only=True):
    """One instance holds the best cluster under one law of the critical batch: its devices, time and central carbon."""

    critical_batch: float
    devices: int
    time_days: float
    meets_deadline: bool
    total_kg: float


class ScalePoint(Struct, frozen=True, kw_only=True):
    """One point is the answer for one target, accelerator and zone. Ranges are p10 and p90.

    `compute_flop` is 6 N D of the law. `tokens` are those that the run trains on, including what its batch costs;
    `batch` is in tokens a step. `by_batch_law` has the answer for each law of the critical batch; the point is that of
    the middle one, and the range of `total_kg` covers all that meet the deadline. `ideal_kg` is the carbon of the same
    compute at peak FLOP/s without any loss. `extrapolated` names what lies beyond all measurements. Time,
    energy and carbon are those of a real run but `best_case_time_s` and `best_case_kg`, which follow from `step_time_s`
    and `goodput` alone.
    """

    law: str
    compute_flop: float
    loss: float
    loss_low: float
    loss_high: float
    parameters: float
    active_parameters: float
    tokens: float
    batch: float
    model: str
    accelerator: str
    zone: str
    devices: int
    layout: str
    step_time_s: Figure
    mfu: float
    goodput: float
    meets_deadline: bool
    time_s: Figure
    device_hours: Figure
    facility_energy_j: Figure
    operational_kg: Figure
    embodied_kg: Figure
    total_kg: Figure
    ideal_kg: float
    by_batch_law: dict[str, BatchAnswer]
    extrapolated: tuple[str, ...]
    best_case_time_s: float
    best_case_kg: float

    @property
    def embodied_share(self) -> float:
        """Return embodied carbon over all carbon of the run."""
        return self.embodied_kg.value / self.total_kg.value


class CheapestTraining(Struct, frozen=True, kw_only=True):
    """One answer holds a point for each site, and everything that was assumed."""

    points: tuple[ScalePoint, ...]
    assumptions: tuple[Assumption, ...]


METHOD = (
    Assumption("model", "width 128 times depth", "family of Llama 3 (arXiv 2407.21783, table 3)"),
    Assumption(
        "batch",
        f"the best of {', '.join(f'{share:g}' for share in BATCH_SHARES)} times the critical one, each rounded down to "
        "a power of two of sequences",
        f"which costs {percent(TOKEN_OVERHEAD, 0)} more tokens at the critical one (arXiv 2410.21676)",
    ),
    Assumption("cluster", "whole nodes, powers of two of devices", "sizes that any layout divides"),
    Assumption("training.optimizer", "adamw", "usual for transformers"),
)
"""The assumptions of every answer, besides those of its device and its forecast."""


def target_of_compute(law: ScalingLaw, flops: float) -> Target:
    """Return the model and tokens of the lowest loss for this compute. Raises `SpecError` beyond `COMPUTE`."""
    least, most = COMPUTE
    if not least <= flops <= most:
        raise SpecError(f"compute: {flops:g} FLOP, expected {least:g} to {most:g}")
    model = model_of(best_split(law, flops).parameters, sparse=law.sparse)
    active = float(model.active_parameters)
    split = ComputeSplit(active, flops / (6 * active))
    return Target(law=law, model=model, split=split, loss=loss_of(law, split))


def target_of_loss(law: ScalingLaw, loss: float) -> Target:
    """Return the model and tokens of the least compute for a loss. Raises `SpecError` for a loss out of reach."""
    cheapest = least_compute(law, loss)
    if cheapest.flops > COMPUTE[1]:
        raise SpecError(
            f"loss: {loss:g} takes {cheapest.flops:.2g} FLOP by {law.name}, expected {COMPUTE[1]:g} at most"
        )
    model = model_of(cheapest.parameters, sparse=law.sparse)
    active = float(model.active_parameters)
    return Target(law=law, model=model, split=ComputeSplit(active, tokens_to_reach(law, loss, active)), loss=loss)


def answer(
    target: Target,
    accelerator: str,
    sites: Sequence[Site],
    deadline_days: float,
    *,
    method: Method = AS_USUAL,
    profile_dirs: Directories = (),
    seed: int = 0,
) -> CheapestTraining:
    """Return the best cluster of one accelerator for a target, accounted for at each site; the first site decides.

    Without an option that meets the deadline the fastest one is given. Raises `InfeasibleLayoutError` if the model fits
    on no cluster that is tried, `SpecError` or `FootprintError` for names that are unknown.
    """
    if not deadline_days > 0:
        raise SpecError(f"deadline_days is {deadline_days:g}, expected a positive number")
    if not sites:
        raise SpecError("zone: give at least one grid zone")
    hardware = hardware_of(accelerator, method, profile_dirs)
    # The factors hold embodied carbon per device, host and network share, for any number of devices.
    factors = [resolve_factors(site, hardware.cluster(1)) for site in sites]
    laid_out = layouts_for(target, hardware, sites[0])
    critical = critical_batches(target.loss, target.split.tokens)
    by_law = {
        law: best_option(target, batch, hardware, laid_out, factors[0], deadline_days)
        for law, batch in critical.items()
    }
    middle = sorted(critical, key=lambda law: critical[law])[1]
    best = by_law[middle]
    if best is None:
        raise InfeasibleLayoutError(
            f"scale: {target.model.name} ({count(target.model.parameters)} parameters) fits on none of the clusters of "
            f"{hardware.device.name} that were tried, with batches of up to {count(critical[middle])} tokens"
        )
    points = []
    for site, given in zip(sites, factors, strict=True):
        answers = {
            law: BatchAnswer(
                critical_batch=critical[law],
                devices=option.spec.cluster.devices,
                time_days=option.time_s / SECONDS_PER_DAY,
                meets_deadline=option.meets(deadline_days),
                total_kg=central_kg(option, given),
            )
            for law, option in by_law.items()
            if option is not None
        }
        points.append(_point(target, best, hardware, answers, site, given, deadline_days, seed))
    assumed = [*METHOD, *hardware.assumptions, *best.prediction.assumptions, *best.goodput.assumptions]
    assumed += [item for given in factors for item in given.assumptions]
    return CheapestTraining(points=tuple(points), assumptions=tuple(dict.fromkeys(assumed)))


def ideal_kg(flops: float, hardware: DeviceInNode, factors: Factors) -> float:
    """Return the kgCO2e of the compute at the peak FLOP/s and sustained power of one node, with nothing lost."""
    node = hardware.node
    cluster = Cluster(accelerator=hardware.device, node=node, nodes=1, devices_per_node=node.accelerators)
    time_s = flops / (hardware.peak_flops * cluster.devices)
    watts = sustained_w(cluster)
    power = Figure(watts, watts, watts, "W", "modelled", "back-to-back matrix products")
    energies = modelled_energies(cluster, power, time_s)
    return account(energies, reservations(cluster, time_s), factors, draws=1).counted_kg.value


def _point(
    target: Target,
    option: TrainingOption,
    hardware: DeviceInNode,
    by_law: dict[str, BatchAnswer],
    site: Site,
    factors: Factors,
    deadline_days: float,
    seed: int,
) -> ScalePoint:
    spec, prediction, model = option.spec, option.prediction, target.model
    cluster, training = spec.cluster, spec.training
    footprint = footprint_of(option, factors, seed=seed)
    best, time = best_case_of(option), run_time_figure(prediction, option.goodput)
    low, high = loss_range(target.law, target.split)
    assert spec.layout is not None  # an option is laid out
    assert footprint.embodied_kg is not None  # every profile states the manufacture of its hardware
    return ScalePoint(
        law=target.law.name,
        compute_flop=target.split.flops,
        loss=target.loss,
        loss_low=low,
        loss_high=high,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        tokens=float(training.total_steps * training.tokens_per_step),
        batch=float(training.tokens_per_step),
        model=model.name,
        accelerator=cluster.accelerator.name,
        zone=site.zone or "stated",
        devices=cluster.devices,
        layout=phrase_of(spec.layout),
        step_time_s=prediction.step_time_s,
        mfu=prediction.mfu,
        goodput=option.goodput.useful_share,
        meets_deadline=option.meets(deadline_days),
        time_s=time,
        device_hours=time.scaled(cluster.devices / SECONDS_PER_HOUR, "h"),
        facility_energy_j=footprint.energy_j["facility"],
        operational_kg=footprint.operational_kg,
        embodied_kg=footprint.embodied_kg,
        total_kg=_widened(footprint.counted_kg, [item.total_kg for item in by_law.values() if item.meets_deadline]),
        ideal_kg=ideal_kg(target.split.flops, hardware, factors),
        by_batch_law=by_law,
        extrapolated=_extrapolated(target, cluster),
        best_case_time_s=best.time_s,
        best_case_kg=central_kg(best, factors),
    )


def _widened(total: Figure, other_kg: Sequence[float]) -> Figure:
    """Return the total with a range that also covers the answers of the batch laws.

    The log distances to their answers are added in squares to those of the ends.
    """
    below = min([0.0, *(math.log(kg / total.value) for kg in other_kg)])
    above = max([0.0, *(math.log(kg / total.value) for kg in other_kg)])
    low = math.hypot(math.log(total.low / total.value), below)
    high = math.hypot(math.log(total.high / total.value), above)
    return msgspec.structs.replace(total, low=total.value * math.exp(-low), high=total.value * math.exp(high))


def _extrapolated(target: Target, cluster: Cluster) -> tuple[str, ...]:
    beyond = {
        f"loss law beyond {target.law.measured_flops:.0e} FLOP": target.split.flops > target.law.measured_flops,
        f"step time beyond {MEASURED_DEVICES:,} devices": cluster.devices > MEASURED_DEVICES,
        f"step time beyond {count(MEASURED_PARAMETERS)} parameters": target.model.parameters > MEASURED_PARAMETERS,
    }
    return tuple(what for what, true in beyond.items() if true)
