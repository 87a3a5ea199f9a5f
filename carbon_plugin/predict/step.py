"""Predict one optimizer step of one run: the array equations with names, units and an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.arrays import Values
from carbon_plugin.predict.assumed import EXPERT_LOOP, leaves_open_how_experts_run, step_assumptions
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.counted import counted_memory_bytes, counted_step_terms
from carbon_plugin.predict.flops import step_flops
from carbon_plugin.predict.peak import memory_bytes
from carbon_plugin.predict.power import power_assumptions, step_power
from carbon_plugin.predict.rates.laws import peak_of
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.rates.resolve import narrowing_rows, own_rows, resolve_rates
from carbon_plugin.predict.result import MemoryPrediction, StepPrediction
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.predict.uncertainty.fit import fit_probability, fits
from carbon_plugin.predict.uncertainty.interval import accuracy_class, step_time_figure
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.run import RunSpec, check_input, check_layout, check_work

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
    micro_batches = check_work(spec.layout, spec.training)
    device, training = spec.cluster.accelerator, spec.training
    rates, assumptions = resolve_rates(spec.cluster, spec.stack, training.precision)
    terms, memory, flops = _evaluate(spec, spec.layout, rates, micro_batches)
    total = float(sum(terms.values()))
    peak_dtype, peak = peak_of(device, training.precision)
    budget = total * peak.value * spec.cluster.devices
    kind = accuracy_class(spec.model, device, training.precision, spec.stack, terms.get("host", 0.0) / total)
    own = own_rows(device, spec.stack)
    # Rules that fill inputs filled them for the runs of the same cluster too, so that the fit holds their error.
    assumed = () if own else tuple(item.field for item in spec.assumptions if item.field in FILLED_FIELDS)
    looped = 1.0 if own else expert_loop_factor(spec, total)
    figure, interval = step_time_figure(
        total, kind, assumed=assumed, own_rows=narrowing_rows(device, spec.stack), other=(EXPERT_LOOP, looped)
    )
    arrays: dict[str, Values] = {name: np.float64(time) for name, time in terms.items()}
    power, activity = step_power(arrays, spec.cluster)
    need = sum(memory.values())
    capacity = device.memory_bytes.value
    likely = float(fit_probability(need / capacity, spec.stack.population))
    return StepPrediction(
        step_time_s=figure,
        step_time_95_s=interval,
        breakdown_s=terms,
        tokens_per_s_per_device=training.tokens_per_step / total / spec.cluster.devices,
        model_flops_per_step=flops[0],
        hardware_flops_per_step=flops[1],
        mfu=flops[0] / budget,
        hfu=flops[1] / budget,
        peak_flops=peak.value,
        peak_dtype=peak_dtype,
        attention_convention="module's own" if isinstance(spec.model, CountedModel) else "causal",
        micro_batches=micro_batches,
        memory=MemoryPrediction(
            parts_bytes=memory,
            total_bytes=need,
            capacity_bytes=capacity,
            fits=bool(fits(need, capacity)),
            fit_probability=likely,
        ),
        gpu_power_w=power,
        gpu_energy_per_step_j=power.scaled(total * spec.cluster.devices, "J"),
        accuracy_class=kind,
        activity=activity,
        assumptions=(*assumptions, *step_assumptions(spec), *power_assumptions(spec.cluster)),
    )


def expert_loop_factor(spec: RunSpec, step_time_s: float) -> float:
    """Return how many times longer than `step_time_s` a step takes if a loop runs the experts and not the grouped
    products that are assumed. It is 1 where a spec leaves nothing open about its experts."""
    return step_time_with(spec, _with_expert_loop) / step_time_s if leaves_open_how_experts_run(spec) else 1.0


def _with_expert_loop(rates: Rates) -> Rates:
    """Return the rates of software that runs one expert after the other, in which the host needs each one's tokens."""
    return replace(rates, expert_loop=np.float64(1), counts_on_host=np.float64(1))


def step_time_with(spec: RunSpec, changed: Callable[[Rates], Rates]) -> float:
    """Return the seconds of one step of `spec`, whose layout must be set, under changed rates of its cluster."""
    if spec.layout is None:
        raise SpecError("layout: auto was not searched yet; a step time needs one layout")
    rates, _ = resolve_rates(spec.cluster, spec.stack, spec.training.precision)
    terms, _, _ = _evaluate(spec, spec.layout, changed(rates), check_work(spec.layout, spec.training))
    return float(sum(terms.values()))


def _evaluate(
    spec: RunSpec, layout: ParallelLayout, rates: Rates, micro_batches: int
) -> tuple[dict[str, float], dict[str, float], tuple[float, float]]:
    """Return terms in seconds (without zero ones), memory parts in bytes, and (model, hardware) FLOPs of a step."""
    if isinstance(spec.model, CountedModel):
        terms = counted_step_terms(spec.model, layout, spec.training, spec.stack, rates, micro_batches)
        forward = spec.model.forward_flops_per_sample * spec.training.global_batch_size
        trained = spec.model.trainable_parameters / max(spec.model.parameters, 1)
        model_flops = forward * (2 + trained)
        again = forward * layout.recompute_share if layout.recompute == "full" else 0.0
        return terms, counted_memory_bytes(spec.model, layout, spec.training), (model_flops, model_flops + again)
    shape, grid, work = shape_of(spec.model), layout_of(layout), work_of(spec.training, spec.stack)
    step = step_time(shape, grid, work, rates)
    terms = {name: float(time) for name, time in step.terms.items() if abs(float(time)) > 0}
    memory = {name: float(part) for name, part in memory_bytes(shape, grid, work, rates).items() if float(part) > 0}
    model, hardware = step_flops(shape, grid, work)
    return terms, memory, (float(model), float(hardware))
