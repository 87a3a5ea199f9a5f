"""The scaling question: a loss or a compute budget in; the cheapest cluster that trains it in time, its carbon, out.

For each size of cluster (whole nodes, powers of two of devices) and batch (critical, a half, a quarter of it) the
layout search gives the fastest step; goodput and footprint are those of a forecast. Of what meets the deadline the
least carbon wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from carbon_plugin.errors import CarbonPluginError, InfeasibleLayoutError, SpecError
from carbon_plugin.footprint.account import Factors, Footprint, account
from carbon_plugin.footprint.factors import resolve_factors
from carbon_plugin.plan.forecast import modelled_energies, reservations, run_energies, run_time_figure
from carbon_plugin.plan.goodput import Goodput, run_goodput
from carbon_plugin.plan.scaling_laws import (
    ScalingLaw,
    Split,
    best_split,
    critical_batches,
    least_compute,
    loss_of,
    loss_range,
    token_factor,
    tokens_to_reach,
)
from carbon_plugin.plan.scaling_shape import model_of
from carbon_plugin.plan.search import describe, search_layout
from carbon_plugin.predict.power import sustained_w
from carbon_plugin.predict.rates import peak_of
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.figure import Assumption, Figure
from carbon_plugin.spec.hardware import Accelerator, Cluster, Node
from carbon_plugin.spec.model import TransformerModel
from carbon_plugin.spec.profiles import Directories, default_node_for, load_accelerator
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.training import Precision, TrainingPlan

SEQ_LEN = 4096
"""Tokens a sequence."""
BATCH_SHARES = (1.0, 0.5, 0.25)
"""Batches tried, over the critical one: a smaller one needs fewer tokens and leaves less to spread over devices."""
BEST_MFU = 0.7
"""No cluster smaller than one that would meet the deadline at this MFU is tried."""
DOUBLINGS = 7
"""How often the cluster is doubled from there."""
DRAWS = 1
"""Samples where only the central value is looked at."""
MEASURED_DEVICES = 6144
"""Devices of the largest published run that the predictor was compared with."""
MEASURED_PARAMETERS = 1.01e12
"""Parameters of the largest one."""
DAY_S = 86400.0


class Target(Struct, frozen=True, kw_only=True):
    """What is to be trained: a model shape, the tokens that it needs at a small batch, and the loss that it reaches."""

    law: ScalingLaw
    model: TransformerModel
    split: Split
    loss: float


class Option(Struct, frozen=True, kw_only=True):
    """One way to train the target: a laid-out run with its predicted step and its time."""

    spec: RunSpec
    prediction: StepPrediction
    goodput: Goodput
    batch_share: float

    @property
    def time_s(self) -> float:
        """Of the whole run."""
        return self.goodput.run_time_s


class BatchAnswer(Struct, frozen=True, kw_only=True):
    """The best cluster if one law of the critical batch holds: its devices, time and central carbon."""

    critical_batch: float
    devices: int
    time_days: float
    meets_deadline: bool
    total_kg: float


class ScalePoint(Struct, frozen=True, kw_only=True):
    """The answer for one target, accelerator and zone. Ranges are p10 and p90.

    `compute_flop` is 6 N D of the law; `tokens` what the run trains on, with what its batch costs, `batch` tokens a
    step. `by_batch_law` has the answer for each law of the critical batch; the point is that of the middle one, and the
    range of `total_kg` covers all that meet the deadline. `ideal_kg` is the carbon of the same compute at peak FLOP/s
    without any loss. `extrapolated` names what lies beyond what was ever measured.
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
    step_time_s: float
    mfu: float
    goodput: float
    meets_deadline: bool
    time_s: Figure
    device_hours: float
    facility_energy_j: Figure
    operational_kg: Figure
    embodied_kg: Figure
    total_kg: Figure
    ideal_kg: float
    by_batch_law: dict[str, BatchAnswer]
    extrapolated: tuple[str, ...]
    assumptions: tuple[Assumption, ...] = ()

    @property
    def embodied_share(self) -> float:
        """Embodied carbon over all carbon of the run."""
        return self.embodied_kg.value / self.total_kg.value


def target_of_compute(law: ScalingLaw, flops: float) -> Target:
    """The model and tokens that reach the lowest loss with so much compute. Raises `SpecError` for no compute."""
    if not (math.isfinite(flops) and flops >= 1e15):
        raise SpecError(f"compute: {flops:g} FLOP, expected at least 1e15")
    model = model_of(best_split(law, flops).parameters, sparse=law.sparse)
    active = float(model.active_parameters)
    split = Split(active, flops / (6 * active))
    return Target(law=law, model=model, split=split, loss=loss_of(law, split))


def target_of_loss(law: ScalingLaw, loss: float) -> Target:
    """The model and tokens that reach a loss with least compute. Raises `SpecError` for a loss out of reach."""
    model = model_of(least_compute(law, loss).parameters, sparse=law.sparse)
    active = float(model.active_parameters)
    return Target(law=law, model=model, split=Split(active, tokens_to_reach(law, loss, active)), loss=loss)


def answer(
    target: Target,
    accelerator: str,
    sites: Sequence[Site],
    deadline_days: float,
    *,
    profile_dirs: Directories = (),
    seed: int = 0,
) -> list[ScalePoint]:
    """The best cluster of one accelerator for a target, accounted for at each site; the first decides which is best.

    Without an option that meets the deadline the fastest one is given. Raises `InfeasibleLayoutError` if the model fits
    on no cluster tried, `SpecError` or `FootprintError` for what does not exist.
    """
    if not deadline_days > 0:
        raise SpecError(f"deadline_days is {deadline_days:g}, expected a positive number")
    if not sites:
        raise SpecError("zone: give at least one grid zone")
    device = load_accelerator(accelerator, profile_dirs=profile_dirs)
    node = default_node_for(device, profile_dirs=profile_dirs)
    critical = critical_batches(target.loss, target.split.tokens)
    middle = sorted(critical, key=lambda law: critical[law])[1]
    by_law = {law: _best(target, batch, device, node, sites[0], deadline_days) for law, batch in critical.items()}
    best = by_law[middle]
    if best is None:
        raise InfeasibleLayoutError(
            f"scale: {target.model.name} ({target.model.parameters:.3g} parameters) fits on none of the clusters of "
            f"{device.name} that were tried, with batches of up to {critical[middle]:.3g} tokens"
        )
    points = []
    for site in sites:
        factors = resolve_factors(site, best.spec.cluster)
        answers = {
            law: BatchAnswer(
                critical_batch=critical[law],
                devices=option.spec.cluster.devices,
                time_days=option.time_s / DAY_S,
                meets_deadline=_meets(option, deadline_days),
                total_kg=_total_kg(option, factors),
            )
            for law, option in by_law.items()
            if option is not None
        }
        points.append(_point(target, best, answers, site, factors, deadline_days, seed))
    return points


def _best(
    target: Target, critical: float, device: Accelerator, node: Node, site: Site, deadline_days: float
) -> Option | None:
    """Of the options that meet the deadline the one with least carbon; else the fastest; None if nothing fits."""
    options = list(_options(target, critical, device, node, site, deadline_days))
    in_time = [option for option in options if _meets(option, deadline_days)]
    if not in_time:
        return min(options, key=lambda option: option.time_s, default=None)
    factors = resolve_factors(site, in_time[0].spec.cluster)
    return min(in_time, key=lambda option: _total_kg(option, factors))


def _meets(option: Option, deadline_days: float) -> bool:
    return option.time_s <= deadline_days * DAY_S


def _options(
    target: Target, critical: float, device: Accelerator, node: Node, site: Site, deadline_days: float
) -> Iterator[Option]:
    """Laid-out runs on clusters of rising size, with each batch; ends one doubling after the deadline is met.

    Carbon of a run hardly falls on a larger cluster, so that no larger one is looked at. Where no cluster meets the
    deadline smaller ones follow: they fail less often.
    """
    precision = usual_precision(device)
    _, peak = peak_of(device, precision)
    least = target.split.flops / (BEST_MFU * peak.value * deadline_days * DAY_S)
    one_node = math.floor(math.log2(node.accelerators))
    smallest = max(one_node, math.floor(math.log2(least)))
    fewer = range(smallest - 1, max(one_node, smallest - DOUBLINGS) - 1, -1)
    met = 0
    for doubling in (*range(smallest, smallest + DOUBLINGS), *fewer):
        if met > 1 or (met == 1 and doubling < smallest):
            return
        tried = (_option(target, critical, share, device, node, site, 2**doubling, precision) for share in BATCH_SHARES)
        found = [option for option in tried if option is not None]
        yield from found
        met += any(_meets(option, deadline_days) for option in found)


def _option(
    target: Target,
    critical: float,
    share: float,
    device: Accelerator,
    node: Node,
    site: Site,
    devices: int,
    precision: Precision,
) -> Option | None:
    """The fastest layout on so many devices, None if there is none."""
    # Powers of two, which any layout divides.
    sequences = 2 ** max(0, math.floor(math.log2(share * critical / SEQ_LEN)))
    tokens = target.split.tokens * token_factor(sequences * SEQ_LEN, critical)
    per_node = min(devices, 2 ** math.floor(math.log2(node.accelerators)))
    spec = RunSpec(
        name=target.model.name,
        model=target.model,
        cluster=Cluster(accelerator=device, node=node, nodes=devices // per_node, devices_per_node=per_node),
        training=TrainingPlan(seq_len=SEQ_LEN, global_batch_size=sequences, tokens=tokens, precision=precision),
        site=site,
    )
    try:
        spec = msgspec.structs.replace(spec, layout=search_layout(spec).layout)
        prediction = predict_step(spec)
        return Option(spec=spec, prediction=prediction, goodput=run_goodput(spec, prediction), batch_share=share)
    except CarbonPluginError:
        # No split of so many devices, no room in memory, or failures that leave no progress.
        return None


def usual_precision(device: Accelerator) -> Precision:
    """What large models are trained in on a device."""
    return "bf16" if "bf16" in device.peak_flops else "fp16"


def _footprint(option: Option, factors: Factors, draws: int, seed: int) -> Footprint:
    time = run_time_figure(option.prediction, option.goodput)
    return account(
        run_energies(option.spec.cluster, option.prediction, option.goodput),
        reservations(option.spec.cluster, time.value),
        factors,
        duration_spread=(time.low / time.value, time.high / time.value),
        draws=draws,
        seed=seed,
    )


def _total_kg(option: Option, factors: Factors) -> float:
    return _footprint(option, factors, DRAWS, 0).total_kg.value


def ideal_kg(target: Target, device: Accelerator, node: Node, precision: Precision, factors: Factors) -> float:
    """Carbon of the compute at the peak FLOP/s and sustained power of one node, with nothing lost, kgCO2e."""
    cluster = Cluster(accelerator=device, node=node, nodes=1, devices_per_node=node.accelerators)
    _, peak = peak_of(device, precision)
    time_s = target.split.flops / (peak.value * cluster.devices)
    watts = sustained_w(cluster)
    power = Figure(watts, watts, watts, "W", "modelled", "back-to-back matrix products")
    energies = modelled_energies(cluster, power, time_s)
    return account(energies, reservations(cluster, time_s), factors, draws=DRAWS).total_kg.value


def _point(
    target: Target,
    option: Option,
    by_law: dict[str, BatchAnswer],
    site: Site,
    factors: Factors,
    deadline_days: float,
    seed: int,
) -> ScalePoint:
    spec, prediction, model = option.spec, option.prediction, target.model
    cluster, training = spec.cluster, spec.training
    footprint = _footprint(option, factors, 2000, seed)
    low, high = loss_range(target.law, target.split)
    assert spec.layout is not None  # an option is laid out
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
        layout=describe(spec.layout),
        step_time_s=prediction.step_time_s.value,
        mfu=prediction.mfu,
        goodput=1 - option.goodput.wasted_s / option.time_s,
        meets_deadline=_meets(option, deadline_days),
        time_s=run_time_figure(prediction, option.goodput),
        device_hours=cluster.devices * option.time_s / 3600,
        facility_energy_j=footprint.energy_j["facility"],
        operational_kg=footprint.operational_kg,
        embodied_kg=footprint.embodied_kg,
        total_kg=_widened(footprint.total_kg, [item.total_kg for item in by_law.values() if item.meets_deadline]),
        ideal_kg=ideal_kg(target, cluster.accelerator, cluster.node, training.precision, factors),
        by_batch_law=by_law,
        extrapolated=_extrapolated(target, cluster),
        assumptions=(*prediction.assumptions, *option.goodput.assumptions, *factors.assumptions),
    )


def _widened(total: Figure, other_kg: Sequence[float]) -> Figure:
    """The range also over the batch laws: log distances to their answers added in squares to those of the ends."""
    below = min([0.0, *(math.log(kg / total.value) for kg in other_kg)])
    above = max([0.0, *(math.log(kg / total.value) for kg in other_kg)])
    low = math.hypot(math.log(total.low / total.value), below)
    high = math.hypot(math.log(total.high / total.value), above)
    return msgspec.structs.replace(total, low=total.value * math.exp(-low), high=total.value * math.exp(high))


def _extrapolated(target: Target, cluster: Cluster) -> tuple[str, ...]:
    beyond = {
        f"loss law beyond {target.law.measured_flops:.0e} FLOP": target.split.flops > target.law.measured_flops,
        f"step time beyond {MEASURED_DEVICES:,} devices": cluster.devices > MEASURED_DEVICES,
        f"step time beyond {MEASURED_PARAMETERS:.3g} parameters": target.model.parameters > MEASURED_PARAMETERS,
    }
    return tuple(what for what, true in beyond.items() if true)
