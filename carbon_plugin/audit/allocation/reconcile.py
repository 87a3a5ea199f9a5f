"""Compare the scheduler's account with the ledgers. GPU time that was allocated and that no ledger observed is reported
and modelled as idle. It stands beside the totals, because nobody knows what the GPUs did in that time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.audit.result import Allocation, AuditSummary, Reconciliation
from carbon_plugin.audit.tally.accounting import SAMPLING
from carbon_plugin.footprint.account import account
from carbon_plugin.footprint.values import Factors, Footprint
from carbon_plugin.ledger.held.account_inputs import chargeable, energy_item, reservations
from carbon_plugin.spec.amounts import number
from carbon_plugin.spec.figure import Assumption, Figure
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.hardware.fabric import fabric_factor
from carbon_plugin.spec.hardware.profiles import default_node_for, find_accelerator
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.range import Range
from carbon_plugin.spec.units import SECONDS_PER_HOUR

_LISTED_NOTES = 8


class _Idle(Struct, frozen=True):
    """The power of a device that nobody uses, by rung, W, and the devices of a node."""

    by_rung: dict[Rung, Figure]
    devices_per_node: int


def gpus_by_host(summary: AuditSummary) -> dict[str, int]:
    """Return how many GPUs the ledgers name on each host."""
    return dict(Counter(device.hostname for device in summary.devices if device.identity.rung == "gpu"))


def reconcile(summary: AuditSummary, allocations: Sequence[Allocation], source: str) -> Reconciliation:
    """Compare what a scheduler allocated with what the ledgers of a run observed.

    unobserved = max(0, sum(gpus * duration) - observed device time). Where the run's devices are MIG slices, so are the
    scheduler's GPUs, and all device time is of whole GPUs. A job that was never started, or has no GPUs, was
    allocated 0.
    """
    share = _share(summary)
    allocated_s = sum((1.0 if one.sized else share) * one.gpus * one.duration_s for one in allocations)
    # Others are charged for their share. Ranks of a run that no ledger names a GPU of held CPUs, not GPUs.
    reserved_s = summary.reserved.device_s + summary.reserved.shared_s if _names_gpus(summary) else 0.0
    observed_s = reserved_s - summary.reserved.before_first_record_s if _names_gpus(summary) else 0.0
    unobserved_s = max(0.0, allocated_s - observed_s)
    uncharged_s = max(0.0, allocated_s - reserved_s)
    idle = _idle_power(summary)
    power, footprint = (_sum(idle.by_rung) if idle else None), None
    if idle is not None and summary.factors is not None:
        footprint = _footprint(idle, unobserved_s, uncharged_s, summary.factors)
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
    """Return which part of a GPU a device of the run is on average."""
    return summary.coverage.whole_gpus / summary.coverage.gpus if summary.coverage.gpus else 1.0


def _footprint(idle: _Idle, unobserved_s: float, uncharged_s: float, factors: Factors) -> Footprint:
    items = [
        energy_item((rung, f"{rung}:unobserved"), power.range.scaled(unobserved_s))
        for rung, power in idle.by_rung.items()
    ]
    reserved = reservations(devices=uncharged_s, hosts=uncharged_s / idle.devices_per_node)
    return account(items, chargeable(reserved, factors), factors, draws=SAMPLING.draws, seed=SAMPLING.seed)


def _idle_power(summary: AuditSummary) -> _Idle | None:
    """Return the idle power of this run's device with its part of the node, or None without a profile.

    The central value and the low are the profile's idle power. The high is what the run's GPUs drew on average, because
    a device that nobody observed may have been at work.
    """
    accelerator = _accelerator(summary)
    if accelerator is None:
        return None
    node = default_node_for(accelerator)
    idle = accelerator.idle_power_w.figure("W")
    gpu = summary.by_rung.get("gpu")
    observed_s = _share(summary) * gpu.device_s * (1 - gpu.meters.absent) if gpu else 0.0
    busy_w = gpu.energy_j / observed_s if gpu and observed_s > 0 else idle.high
    source = f"idle to mean power of the run, profile {accelerator.name}"
    device = Figure(idle.value, idle.low, max(idle.high, busy_w), "W", "modelled", source)
    by_rung: dict[Rung, Figure] = {"gpu": device, "host": _host_power(node, device)}
    if node.network.power_w_per_device.value > 0:
        nodes = len({device.hostname for device in summary.devices if device.identity.rung == "gpu"})
        by_rung["network"] = node.network.power_w_per_device.figure("W").scaled(fabric_factor(node, nodes), "W")
    return _Idle(by_rung, node.accelerators)


def _host_power(node: Node, device: Figure) -> Figure:
    """Return P_host = base / devices + overhead fraction * P_device (the node model of the meters), for one device."""
    base = node.host.base_power_w.range.scaled(1 / node.accelerators)
    power = base.plus(node.host.overhead_fraction.range.times(device.range))
    return Figure.of(power, "W", "modelled", f"profile {node.name}")


def _accelerator(summary: AuditSummary) -> Accelerator | None:
    """Return the profile of most of the GPUs that the ledgers name, else that of the spec that ran."""
    named = Counter(device.identity.profile for device in summary.devices if device.identity.rung == "gpu")
    stated = summary.run.effective.get("cluster.accelerator")
    spec = stated.get("value") if isinstance(stated, dict) else stated
    names = [name for name, _ in named.most_common() if name] + ([spec] if isinstance(spec, str) else [])
    return find_accelerator(names[0]) if names else None


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


def _sum(parts: dict[Rung, Figure]) -> Figure:
    """Return the sum of powers whose errors are fully correlated."""
    total = Range.total(one.range for one in parts.values())
    return Figure.of(total, "W", "modelled", "; ".join(one.source for one in parts.values()))
