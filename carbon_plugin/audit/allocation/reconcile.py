"""Compare the scheduler's account with the ledgers.

GPU time that was allocated and that no ledger observed is reported and modelled as idle. It stands beside the totals,
because nobody knows what the GPUs did in that time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from carbon_plugin.audit.findings.reserved import Allocation, Reconciliation
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.tally.account.accounting import SAMPLING
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.ledger.held.account_inputs import chargeable, energy_item, reservations
from carbon_plugin.ledger.held.unobserved import IdlePower, host_power, idle_power, unobserved_scope
from carbon_plugin.spec.hardware.profiles import default_node_for, find_accelerator
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.amounts import number
from carbon_plugin.spec.numbers.figure import Assumption, Figure
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.spec.numbers.units import SECONDS_PER_HOUR

_LISTED_NOTES = 8


def gpus_by_host(summary: AuditSummary) -> dict[str, int]:
    """Return how many GPUs the ledgers name on each host."""
    return dict(Counter(device.hostname for device in summary.devices if device.identity.rung == "gpu"))


def reconcile(summary: AuditSummary, allocations: Sequence[Allocation], source: str) -> Reconciliation:
    """Compare what a scheduler allocated with what the ledgers of a run observed.

    unobserved = max(0, sum(gpus * duration) - observed device time). Reserved time that the totals of the run already
    hold as idle is not modelled again. If the devices of the run are MIG slices, so are the scheduler's GPUs. All
    device time is given in whole GPUs. A job that was never started, or that has no GPUs, was allocated 0.
    """
    share = _share(summary)
    allocated_s = sum((1.0 if one.sized else share) * one.gpus * one.duration_s for one in allocations)
    # Others are charged for their share. Ranks of a run that no ledger names a GPU of held CPUs, not GPUs.
    reserved_s = summary.reserved.device_s + summary.reserved.shared_s if _names_gpus(summary) else 0.0
    observed_s = reserved_s - summary.reserved.before_first_record_s if _names_gpus(summary) else 0.0
    unobserved_s = max(0.0, allocated_s - observed_s)
    uncharged_s = max(0.0, allocated_s - reserved_s)
    modelled_s = min(unobserved_s, summary.reserved.modelled_idle_s)
    idle = _idle_power(summary)
    power, footprint = (_sum(idle.by_rung, idle.profiles) if idle else None), None
    if idle is not None and summary.factors is not None:
        footprint = _footprint(idle, unobserved_s - modelled_s, uncharged_s, summary.factors)
    unknown = "no hardware profile knows the idle power of the run's device"
    reason = unknown if idle is None else summary.no_carbon_reason
    return Reconciliation(
        source=source,
        allocations=list(allocations),
        allocated_device_s=allocated_s,
        observed_device_s=observed_s,
        unobserved_device_s=unobserved_s,
        uncharged_device_s=uncharged_s,
        power_w=power,
        footprint=footprint,
        not_modelled_reason=None if footprint else reason,
        assumptions=_assumptions(summary, allocations, allocated_s, observed_s, power),
    )


def _names_gpus(summary: AuditSummary) -> bool:
    return any(device.identity.rung == "gpu" for device in summary.devices)


def _share(summary: AuditSummary) -> float:
    """Return the average share of a whole GPU that a device of the run is."""
    return summary.coverage.whole_gpus / summary.coverage.gpus if summary.coverage.gpus else 1.0


def _footprint(idle: IdlePower, unobserved_s: float, uncharged_s: float, factors: Factors) -> Footprint:
    items = [energy_item(unobserved_scope(rung), power.scaled(unobserved_s)) for rung, power in idle.by_rung.items()]
    reserved = reservations(devices=uncharged_s, hosts=uncharged_s / idle.devices_per_node)
    return account(items, chargeable(reserved, factors), factors, draws=SAMPLING.draws, seed=SAMPLING.seed)


def _idle_power(summary: AuditSummary) -> IdlePower | None:
    """Return the idle power of a device of this run with its part of the node, or None without a profile.

    The central value and the low end are those of `ledger.held.unobserved`. The high end is the average power of the
    run's GPUs, because a device that nobody observed may have been at work.
    """
    profile = _profile(summary)
    nodes = len({device.hostname for device in summary.devices if device.identity.rung == "gpu"})
    idle = idle_power(profile, nodes) if profile else None
    accelerator = find_accelerator(profile) if profile else None
    if idle is None or accelerator is None:
        return None
    gpus = [device.energy for device in summary.devices if device.identity.rung == "gpu"]
    observed_s = _share(summary) * sum(gpu.device_s * (1 - gpu.meters.absent) for gpu in gpus)
    busy_w = sum(gpu.energy_j for gpu in gpus) / observed_s if observed_s > 0 else 0.0
    device = idle.by_rung["gpu"].widened(busy_w) if busy_w > idle.by_rung["gpu"].value else idle.by_rung["gpu"]
    by_rung = {**idle.by_rung, "gpu": device, "host": host_power(default_node_for(accelerator), device)}
    source = f"idle to mean power of the run, profile {idle.profiles}"
    return IdlePower(by_rung, idle.devices_per_node, source)


def _profile(summary: AuditSummary) -> str | None:
    """Return the name of the profile of most GPUs in the ledgers, or else the name of the profile in the spec
    that ran.
    """
    named = Counter(device.identity.profile for device in summary.devices if device.identity.rung == "gpu")
    stated = summary.run.effective.get("cluster.accelerator")
    spec = stated.get("value") if isinstance(stated, dict) else stated
    names = [name for name, _ in named.most_common() if name] + ([spec] if isinstance(spec, str) else [])
    return names[0] if names else None


def _assumptions(
    summary: AuditSummary,
    allocations: Sequence[Allocation],
    allocated_s: float,
    observed_s: float,
    power: Figure | None,
) -> list[Assumption]:
    found = []
    if observed_s > allocated_s:
        excess = f"{number((observed_s - allocated_s) / SECONDS_PER_HOUR)} device-hours"
        lacks = "jobs of this run" if allocated_s > 0 else "any job with GPUs that was started"
        found.append(Assumption("observed beyond allocated", excess, f"the scheduler's file lacks {lacks}"))
    if not _names_gpus(summary):
        found.append(Assumption("observed devices", "no GPU", "no ledger names a GPU, so none was seen"))
    for note in list(dict.fromkeys(note for one in allocations for note in one.notes))[:_LISTED_NOTES]:
        found.append(Assumption("GPUs of the scheduler", note, "the names of its resources"))
    if summary.coverage.gpu_slices and not all(one.sized for one in allocations):
        share = f"{_share(summary):.3g} of a GPU each"
        found.append(Assumption("GPUs of the scheduler", share, "MIG slices, as the run's devices are"))
    if power is not None:
        watts = f"{power.value:.0f} W ({power.low:.0f}-{power.high:.0f}) a device"
        found.append(Assumption("power of unobserved devices", watts, "nobody observed them; modelled as idle"))
    return found


def _sum(parts: Mapping[Rung, Range], source: str) -> Figure:
    """Return the sum of powers whose errors are fully correlated."""
    return Figure.of(Range.total(parts.values()), "W", "modelled", source)
