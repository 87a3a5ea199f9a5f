"""Estimate the power of GPUs that a job should have and that nothing can read, and write the warning about them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from carbon_plugin.ledger.held.expected import NOT_SEEN_EVENT, SILENT_EVENT
from carbon_plugin.meters.gpu.presence import shows_driver
from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.meters.protocol import Unavailable, UnreadGpus
from carbon_plugin.monitor.settings.settings import Settings
from carbon_plugin.predict.power import unread_power_figure
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.hardware.profiles import list_accelerators
from carbon_plugin.spec.numbers.amounts import plural, verb
from carbon_plugin.spec.numbers.figure import Figure


def named_gpu(settings: Settings) -> Accelerator | None:
    """Return the GPU that the user or the plan names for the job, or None for a job on CPUs or where nobody names
    one."""
    planned = settings.forecast.spec.cluster.accelerator if settings.forecast else None
    return next((a for a in (settings.declared.accelerator, planned) if a is not None and a.kind == "gpu"), None)


def planned_gpus(settings: Settings, problem: Unavailable, environ: Mapping[str, str]) -> UnreadGpus | None:
    """Return the GPUs of one node of the plan as unread ones, where a driver is present but shows none and nothing else
    tells of them.
    """
    plan = settings.forecast
    if plan is None or plan.spec.cluster.accelerator.kind != "gpu" or not shows_driver(problem, environ):
        return None
    count = plan.spec.cluster.devices_per_node
    return UnreadGpus(count=count, evidence=f"the plan names {count} a node", problem=problem)


def unread_power(settings: Settings, accelerator: Accelerator | None, *, usable: bool) -> Figure:
    """Return the power of a GPU that no driver reads, W.

    It is the power that the plan predicts, or else that of the profile of its model. Without both, it lies anywhere in
    the range of all GPUs that have profiles. In a job on CPUs the GPU is assumed to be idle.
    """
    if accelerator is not None and accelerator.kind == "gpu":
        plan = settings.forecast
        if usable and plan is not None and plan.spec.cluster.accelerator == accelerator:
            return replace(plan.prediction.gpu_power_w, source="as the plan predicts it")
        return unread_power_figure(accelerator, usable=usable)
    usable = usable and accelerator is None
    known = [unread_power_figure(a, usable=usable) for a in list_accelerators() if a.kind == "gpu"]
    known.sort(key=lambda figure: figure.value)
    low, high = min(figure.low for figure in known), max(figure.high for figure in known)
    source = f"any of the {len(known)} GPUs that there are profiles of, because its model is not known"
    return Figure(known[len(known) // 2].value, low, high, "W", "assumed", source)


def warning_of(meters: MeterSet, settings: Settings, cut_off: str | None) -> tuple[str | None, str] | None:
    """Return what the user must know at the start about GPUs that are not metered, as (kind of event, sentence).

    The kind is None where the event of the meters already says it. The result is None where all GPUs are metered or
    there are none. `cut_off` says which of the named GPUs CUDA leaves out.
    """
    unread, silent, named = meters.unread, meters.silent, named_gpu(settings)
    sentences = [cut_off] if cut_off else []
    if unread is not None:
        advice = f" ({unread.problem.advice})" if unread.problem.advice else ""
        sentences.append(f"{unread.sentence}{advice}")
    silent_gpus = [d for d in meters.devices if d.rung == "gpu" and d.energy_kind == "absent"]
    if silent_gpus:
        count, keys = len(silent_gpus), ", ".join(device.key for device in silent_gpus)
        many = f"{plural(count, 'GPU')} {verb(count, 'is', 'are')}"
        sentences.append(f"{many} not metered ({keys}): {silent_gpus[0].note}")
    if silent_gpus:
        sentences.append("What can be said of their energy is in the totals as an estimate, with a range")
    elif unread is not None:
        sentences.append("Their energy is in the totals as an estimate, with a range")
    if sentences:
        return None, ". ".join(sentences)
    if silent is not None:
        advice = f" ({silent.advice})" if silent.advice else ""
        return (
            SILENT_EVENT,
            f"this machine may have GPUs that nothing can read: {silent.reason}{advice}. Nothing tells how many there "
            "are, so their energy is in no total",
        )
    if not meters.gpus.answers and named is not None:
        return (
            NOT_SEEN_EVENT,
            f"the job is said to run on {named.name}, and nothing on this machine shows a GPU: only the machine itself "
            "is metered, and what GPUs draw is in no total",
        )
    return None
