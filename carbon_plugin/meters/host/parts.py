"""Build the parts of a host that nothing measures, each with its equation, and compute the most that a host
can draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from carbon_plugin.meters.bounds import ANY_GPU_W, Bounds
from carbon_plugin.meters.host.cpu_load import job_root_pid, open_cpu_load
from carbon_plugin.meters.host.machine import HostInfo
from carbon_plugin.meters.host.model_meter import CpuPower, GpuDraw, ModelledPart, constant, with_overhead
from carbon_plugin.meters.host.modelled import (
    cpu_tdp,
    dram_power,
    network_power,
    node_base_power,
    overhead_fractions,
)
from carbon_plugin.meters.host.rapl import Platform
from carbon_plugin.meters.host.share import HostShare
from carbon_plugin.meters.protocol import UnreadGpus
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.metered import DeviceIdentity, Rung
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.range import Range

NODE_HEADROOM = 1.5
"""The factor by which a node may exceed the sum of its parts: supplies lose power, and no list names all parts (our
convention).
"""

OTHER_W = 500.0
"""The power in W of disks, fans and network cards of a machine of which nothing is known (our convention)."""

UNKNOWN_NODE_W = 20e3
"""The power in W that no node with eight accelerators exceeds (our convention)."""

NODE_LAG_S = 30.0
"""The age in seconds that a value may have: by default Slurm renews the counters of nodes every 30 s."""


class HostPlan(Struct, frozen=True, kw_only=True):
    """One plan holds the facts by which the modelled parts of a host are chosen."""

    host: HostInfo
    key: str
    node: Node | None
    cpu_tdp: Range | None
    share: HostShare
    gpu_equivalents: float
    nodes: int
    local_ranks: int
    node_measured: bool
    cpu_measured: bool
    dram_measured: bool


def stated_cpu_tdp(accelerator: Accelerator | None, node_profile: Node | None) -> Range | None:
    """Return the TDP of all CPUs where the job's device is a CPU, or None where it is a GPU.

    It is that of the node profile, since several ranks may share the packages and the device is then one rank's part;
    without a node profile it is the device's own.
    """
    if accelerator is None or accelerator.kind != "cpu":
        return None
    if node_profile is not None:
        return node_profile.host.cpu_tdp_w.range.scaled(node_profile.host.sockets)
    return accelerator.tdp_w.range


def host_parts(plan: HostPlan, draw: GpuDraw, clock: Callable[[], float]) -> list[ModelledPart]:
    """Return the parts of the host and the network that no meter reads.

    They follow the node's profile, or without one what this machine is.
    """
    if plan.node is None:
        return _machine_parts(plan, clock)
    return _node_parts(plan, plan.node, draw)


def platform_of(host: HostInfo, node_profile: Node | None) -> Platform:
    """Return what the CPUs and the memory of this machine can draw, against which RAPL is checked."""
    dram = dram_power(host.memory_bytes) if host.memory_bytes else None
    if node_profile is None:
        return Platform(cpu_tdp=cpu_tdp(host.physical_cores), dram=dram)
    return Platform(cpu_tdp=node_profile.host.cpu_tdp_w.range.scaled(node_profile.host.sockets), dram=dram)


def node_bounds(
    host: HostInfo,
    node_profile: Node | None,
    accelerator: Accelerator | None,
    gpus_most_w: Sequence[float | None] | None,
    unread: UnreadGpus | None,
) -> Bounds:
    """Return what this node can draw with all that is in it; where its accelerators are unknown, the most of any node.

    `gpus_most_w` is the most that each metered GPU can draw in W (None for a GPU that states no limit), or None where
    no GPU is metered.
    """
    if gpus_most_w is None and unread is None and node_profile is None:
        return Bounds(ceiling_w=UNKNOWN_NODE_W, limit_w=None, source="the most of any node", lag_s=NODE_LAG_S)
    gpus_w = sum(most_w or ANY_GPU_W for most_w in gpus_most_w or ())
    if unread is not None:
        gpus_w += unread.count * ANY_GPU_W
    machine_w = cpu_tdp(host.physical_cores).high + dram_power(host.memory_bytes).high + OTHER_W
    source = f"GPUs of {gpus_w:.0f} W and a machine of {machine_w:.0f} W"
    if node_profile is not None:
        each_w = accelerator.tdp_w.value if accelerator is not None and accelerator.kind == "gpu" else 0.0
        gpus_w = max(gpus_w, node_profile.accelerators * each_w)
        beside_w = node_profile.host.base_power_w.range.high + overhead_fractions(node_profile).high * gpus_w
        machine_w = max(machine_w, beside_w)
        source = f"the profile {node_profile.name} with GPUs of {gpus_w:.0f} W"
    return Bounds(ceiling_w=NODE_HEADROOM * (gpus_w + machine_w), limit_w=None, source=source, lag_s=NODE_LAG_S)


def _node_parts(plan: HostPlan, node: Node, draw: GpuDraw) -> list[ModelledPart]:
    """Return the host and the network of a node with a profile, less what counters measure."""
    if plan.node_measured:
        return _network_part(plan, node)
    whole = node_base_power(node, cpu_measured=plan.cpu_measured, dram_measured=plan.dram_measured)
    share = plan.share
    base = whole.times(share.part)
    fractions = overhead_fractions(node)
    measured = [name for name, known in (("CPU", plan.cpu_measured), ("DRAM", plan.dram_measured)) if known]
    note = (
        f"{base.value:.0f} W ({base.low:.0f}-{base.high:.0f}) + {fractions.value:g} of GPU power, "
        f"from the profile {node.name}"
        + (f", without the measured {' and '.join(measured)}" if measured else "")
        + (f", for the job's share {share.part.value:.3f} of the host" if share.part.value < 1 else "")
    )
    identity = _identity(plan, "host", "host", "host", "node profile model", note)
    return [ModelledPart(identity, with_overhead(base, fractions, draw)), *_network_part(plan, node)]


def _network_part(plan: HostPlan, node: Node) -> list[ModelledPart]:
    network = network_power(node, plan.gpu_equivalents or node.accelerators, plan.nodes)
    if network.high <= 0:
        return []
    note = (
        f"{network.value:.0f} W ({network.low:.0f}-{network.high:.0f}) of switches and optics, "
        f"from the profile {node.name}"
    )
    identity = _identity(plan, "network", "network", "network", "node profile model", note)
    return [ModelledPart(identity, constant(network))]


def _machine_parts(plan: HostPlan, clock: Callable[[], float]) -> list[ModelledPart]:
    """Return CPU and DRAM of a machine without a profile, as far as no counter measures them."""
    host = plan.host
    parts: list[ModelledPart] = []
    if not plan.cpu_measured:
        tdp = plan.cpu_tdp or cpu_tdp(host.physical_cores)
        load = open_cpu_load(job_root_pid(plan.local_ranks), clock)
        source = "from the device profile" if plan.cpu_tdp else f"assumed for {plural(host.physical_cores, 'core')}"
        note = (
            f"TDP {tdp.value:.0f} W ({tdp.low:.0f}-{tdp.high:.0f}, {source}) times the utilisation by {load.scope}; "
            "disks, fans and supply losses are not included"
        )
        power = CpuPower(load, tdp, host.logical_cores, host.allowed_cores / host.logical_cores)
        parts.append(ModelledPart(_identity(plan, "cpu", "host", "package", "cpu utilisation model", note), power))
    if not plan.dram_measured:
        dram = dram_power(host.usable_memory_bytes)
        note = f"{host.usable_memory_bytes * 1e-9:.0f} GB at 0.2 W/GB (0.1-0.375)"
        parts.append(ModelledPart(_identity(plan, "dram", "host", "dram", "dram capacity model", note), constant(dram)))
    return parts


def _identity(plan: HostPlan, part: str, rung: Rung, scope: str, meter: str, note: str) -> DeviceIdentity:
    return DeviceIdentity(
        key=f"{plan.key}/{part}",
        name=part,
        rung=rung,
        scope=scope,
        meter=meter,
        energy_kind="modelled",
        profile=plan.node.name if plan.node else None,
        note=note,
    )
