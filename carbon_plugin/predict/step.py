"""Predict one optimizer step of one run: the array equations with names, units and an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.assumed import EXPERT_LOOP, leaves_open_how_experts_run, step_assumptions
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.case.inputs import Layout, Shape, StepWork
from carbon_plugin.predict.counted import counted_memory_bytes, counted_step_flops, counted_step_terms
from carbon_plugin.predict.flops import step_flops
from carbon_plugin.predict.own_runs import NOTHING_KNOWN, OwnDeviation, moved, own_runs, place_of
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.power import power_assumptions, step_power
from carbon_plugin.predict.rates.evidence import own_software
from carbon_plugin.predict.rates.laws import NARROW, peak_of
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.predict.result import MemoryPrediction, StepPrediction
from carbon_plugin.predict.time.schedule import StageLayer, stage_layers, step_of_layers
from carbon_plugin.predict.uncertainty.fit import fit_probability, fits
from carbon_plugin.predict.uncertainty.interval import accuracy_class, spread_left, step_time_figure
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.run import RunSpec, check_input, check_layout, check_work
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

SHOWN_SHIFT = 0.005
"""The least deviation of a layout, as a logarithm, that is worth a line."""
FILLED_FIELDS = ("layout.micro_batch_size", "layout.recompute", "layout.virtual_stages")
"""Fields whose value changes the step so much that the interval is wider where a rule filled one of them."""


def predict_step(spec: RunSpec) -> StepPrediction:
    """Return time, FLOPs, memory and power of one step of `spec`, whose layout must be set.

    Raises `InfeasibleLayoutError` if the layout breaks a rule of the model, the cluster or the batch, and `SpecError`
    if there is no layout, the device lacks the precision or the model cannot have that sequence length. A layout that
    does not fit in memory is predicted all the same, with `memory.fits` false.
    """
    if spec.layout is None:
        raise SpecError("layout: auto was not searched yet; predict_step needs one layout")
    check_layout(spec.model, spec.cluster, spec.layout)
    check_input(spec.model, spec.training)
    device, training = spec.cluster.accelerator, spec.training
    rates, assumptions = resolve_rates(spec.cluster, spec.stack, training.precision)
    step = _step_of(spec, spec.layout, rates)
    case = step.case
    terms = _terms(step, rates)
    model_flops, hardware_flops = _flops(case)
    total = float(sum(terms.values()))
    peak_dtype, peak = peak_of(device, training.precision)
    budget = total * peak.value * spec.cluster.devices
    kind = accuracy_class(spec.model, device, training.precision, spec.stack, terms.get("host", 0.0) / total)
    own = own_software(device, spec.stack) is not None
    # Rules that fill inputs filled them for the runs of the same cluster too, so that the fit holds their error.
    assumed = () if own else tuple(item.field for item in spec.assumptions if item.field in FILLED_FIELDS)
    # A fit to runs of the same software holds how its experts run.
    looped = 1.0 if own else expert_loop_factor(spec, total, step)
    figure, interval = step_time_figure(
        total, kind, assumed=assumed, left=spread_left(device, spec.stack, step.like), other=(EXPERT_LOOP, looped)
    )
    power, activity = step_power(terms, spec.cluster)
    return StepPrediction(
        step_time_s=figure,
        step_time_95_s=interval,
        breakdown_s=terms,
        tokens_per_s_per_device=training.tokens_per_step / total / spec.cluster.devices,
        model_flops_per_step=model_flops,
        hardware_flops_per_step=hardware_flops,
        mfu=model_flops / budget,
        hfu=hardware_flops / budget,
        peak_flops=peak.value,
        peak_dtype=peak_dtype,
        attention_convention="module's own" if isinstance(spec.model, CountedModel) else "causal",
        micro_batches=step.micro_batches,
        memory=_memory(spec, case, rates),
        gpu_power_w=power,
        gpu_energy_per_step_j=power.scaled(total * spec.cluster.devices, "J"),
        accuracy_class=kind,
        activity=activity,
        assumptions=(
            *assumptions,
            *_of_own_runs(spec, step.like),
            *step_assumptions(spec),
            *power_assumptions(spec.cluster),
        ),
    )


def _of_own_runs(spec: RunSpec, like: OwnDeviation) -> tuple[Assumption, ...]:
    """Return by how much the user's own runs of this layout and of like ones move the step, where they do."""
    if abs(like.shift) < SHOWN_SHIFT:
        return ()
    field = f"{spec.cluster.accelerator.name}.own_software"
    why = "what own runs of this layout and of like ones took beyond the fitted constants and offset (calibrate)"
    return (Assumption(field, f"this layout takes {math.exp(like.shift):.3g} times as long", why),)


def _memory(spec: RunSpec, case: _CountedCase | _TransformerCase, rates: Rates) -> MemoryPrediction:
    """Return what a device needs of its memory, part by part, and whether this fits."""
    parts = _memory_parts(case, rates)
    need, capacity = sum(parts.values()), spec.cluster.accelerator.memory_bytes.value
    return MemoryPrediction(
        parts_bytes=parts,
        total_bytes=need,
        capacity_bytes=capacity,
        fits=bool(fits(need, capacity)),
        fit_probability=float(fit_probability(need / capacity, spec.stack.population)),
    )


class _StepOf(NamedTuple):
    """A run as the equations take it: its case, the rates of its cluster, the micro-batches of a step, and, of a
    transformer, its layers and what the user's own runs say of its layout.
    """

    case: _CountedCase | _TransformerCase
    rates: Rates
    micro_batches: int
    layers: Sequence[StageLayer] = ()
    like: OwnDeviation = NOTHING_KNOWN


def expert_loop_factor(spec: RunSpec, step_time_s: float, step: _StepOf | None = None) -> float:
    """Return how many times longer than `step_time_s` a step takes if a loop runs the experts and not the grouped
    products that are assumed. It is 1 where a spec leaves nothing open about its experts.

    `step` is what the equations take of the run, which is read from `spec` where the caller does not have it.
    """
    if not leaves_open_how_experts_run(spec):
        return 1.0
    step = step or _step_of(spec, *_layout_and_rates(spec))
    return sum(_terms(step, replace(step.rates, expert_loop=1.0)).values()) / step_time_s


def step_time_with(spec: RunSpec, changed: Callable[[Rates], Rates]) -> float:
    """Return the seconds of one step of `spec`, whose layout must be set, under changed rates of its cluster."""
    layout, rates = _layout_and_rates(spec)
    step = _step_of(spec, layout, changed(rates))
    return sum(_terms(step, step.rates).values())


def _layout_and_rates(spec: RunSpec) -> tuple[ParallelLayout, Rates]:
    """Return the layout of a run and the rates of its cluster. Raises `SpecError` if it has no layout."""
    if spec.layout is None:
        raise SpecError("layout: auto was not searched yet; a step time needs one layout")
    return spec.layout, resolve_rates(spec.cluster, spec.stack, spec.training.precision)[0]


def _step_of(spec: RunSpec, layout: ParallelLayout, rates: Rates) -> _StepOf:
    """Return what the equations take of a run."""
    micro_batches, case = check_work(layout, spec.training), _case(spec, layout)
    if isinstance(case, _CountedCase):
        return _StepOf(case, rates, micro_batches)
    own = own_runs(spec.cluster.accelerator, spec.stack)
    like = (
        own.deviation(place_of(*case, float(spec.training.precision in NARROW))) if own is not None else NOTHING_KNOWN
    )
    return _StepOf(case, rates, micro_batches, stage_layers(*case, rates), like)


class _CountedCase(NamedTuple):
    """A counted model, its layout, its plan and its software, as the equations of `predict.counted` take them."""

    model: CountedModel
    layout: ParallelLayout
    training: TrainingPlan
    stack: Stack


class _TransformerCase(NamedTuple):
    """A transformer, its layout and its work as arrays."""

    shape: Shape
    layout: Layout
    work: StepWork


def _case(spec: RunSpec, layout: ParallelLayout) -> _CountedCase | _TransformerCase:
    if isinstance(spec.model, CountedModel):
        return _CountedCase(spec.model, layout, spec.training, spec.stack)
    return _TransformerCase(shape_of(spec.model), layout_of(layout), work_of(spec.training, spec.stack))


def _terms(step: _StepOf, rates: Rates) -> dict[str, float]:
    """Return the terms of a step in seconds, without those of zero, under its rates or under those of other software
    for experts.
    """
    if isinstance(step.case, _CountedCase):
        return counted_step_terms(*step.case, rates, step.micro_batches)
    terms = moved(step_of_layers(step.layers, *step.case, rates), step.like.shift).terms
    return {name: float(time) for name, time in terms.items() if abs(float(time)) > 0}


def _memory_parts(case: _CountedCase | _TransformerCase, rates: Rates) -> dict[str, float]:
    """Return the parts of the peak of the fullest device in bytes, without those of zero."""
    if isinstance(case, _CountedCase):
        return counted_memory_bytes(case.model, case.layout, case.training)
    return {name: float(part) for name, part in memory_bytes(*case, rates).items() if float(part) > 0}


def _flops(case: _CountedCase | _TransformerCase) -> tuple[float, float]:
    """Return the FLOPs of a step over all devices: those of the model, and those that the hardware executes."""
    if isinstance(case, _CountedCase):
        return counted_step_flops(case.model, case.layout, case.training)
    model, hardware = step_flops(*case)
    return float(model), float(hardware)
