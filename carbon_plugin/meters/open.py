"""Open all meters of one host together: GPUs, host and network, so that exactly one of them holds each part of the
energy.

What is measured is not modelled again; what is modelled says so, and every choice is a note for the ledger. The monitor
decides which process of a node opens the meters.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from msgspec import structs

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.gpu.open import GpuMeters, open_gpu_meters
from carbon_plugin.meters.gpu.presence import UNANSWERED, shows_driver, unread_gpus
from carbon_plugin.meters.gpu.selection import DeviceSelection
from carbon_plugin.meters.gpu.unread import unread_meters
from carbon_plugin.meters.host.machine import read_host_info
from carbon_plugin.meters.host.model_meter import GpuDraw, ModelMeter, summed
from carbon_plugin.meters.host.parts import HostPlan, host_parts, node_bounds, platform_of, stated_cpu_tdp
from carbon_plugin.meters.host.rapl import open_rapl_meter
from carbon_plugin.meters.host.rapl_domains import POWERCAP
from carbon_plugin.meters.host.share import HostShare
from carbon_plugin.meters.host_part import reserved_share, share_note, split_source, stated_share
from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.meter import GpuHistory, NodeMeter, open_node_meter
from carbon_plugin.meters.protocol import Meter, Note, PowerSource, Unavailable, UnreadGpus
from carbon_plugin.spec.amounts import plural
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.hardware.cluster import Accelerator, Node


def open_meters(
    *,
    reserved: Sequence[str | int] | None = None,
    node_profile: Node | None = None,
    accelerator: Accelerator | None = None,
    gpu_power_w: Figure | None = None,
    thought: UnreadGpus | None = None,
    boot_id: str | None = None,
    host_share: float | None = None,
    nodes: int = 1,
    include_host: bool = True,
    root_pid: int | None = None,
    node_address: NodeAddress | None = None,
    environ: Mapping[str, str] = os.environ,
    powercap: Path = POWERCAP,
    clock: Callable[[], float] = time.monotonic,
) -> MeterSet:
    """Open every meter that this host allows and model the rest. Never raises for a device that fails.

    `reserved` are the job's GPUs (see `select_devices`). `node_profile` models the host where it is not measured;
    without one, or where `accelerator` is a CPU, the CPU is modelled by TDP and utilisation. `gpu_power_w` is the power
    that is assumed of a GPU that is there but that no driver tells of; without it such GPUs have no energy. `thought`
    are GPUs that the job is assumed to have and that no driver tells of: they are counted by a driver that answers only
    for others, or they are in a plan. `nodes` is the number of nodes of the job, with which its network grows.
    `host_share` is the job's part of the host; by default it follows from the reserved GPUs where others may hold the
    rest. `include_host` False meters GPUs only, for ranks beside a leader that meters the host. `root_pid` is the
    process whose tree is the job. `node_address` is a meter of the whole node, which then replaces CPU, DRAM and model,
    or a meter of a facility.
    """
    host = read_host_info(environ=environ)
    key = boot_id or host.key
    notes = [] if boot_id or host.boot_id else [Note("assumption", f"no boot id: the host is known as {key}")]
    node = None if accelerator is not None and accelerator.kind == "cpu" else node_profile
    gpus = open_gpu_meters(reserved=reserved, accelerator=accelerator, environ=environ, clock=clock)
    notes += gpus.notes
    unavailable = list(gpus.problems)
    unread = _unread(gpus, thought, environ, in_container=host.container is not None)
    share, share_notes = (
        reserved_share(gpus, node, host, environ, unread) if host_share is None else (stated_share(host_share), [])
    )
    if share.part.value < 1.0 and gpus.answers:
        # Another container of this run may charge another part of the same host, so that each part is a device.
        names = " ".join(sorted(device.key for device in gpus.devices)).encode()
        key += f"/part-{blake2b(names, digest_size=4).hexdigest()}"
    meters: list[Meter] = [gpus]
    draw, history = GpuDraw(_unmetered(gpus, node, unread), gpu_power_w.value if gpu_power_w else None), GpuHistory()
    beside = None
    models: dict[str, PowerSource] = {}
    stand_ins = unread_meters(unread, key, accelerator, gpu_power_w, clock) if include_host else []
    if include_host:
        notes += share_notes
        measured = None
        if node_address is not None:
            beside = _gpus_beside(gpus, clock) if node_address.covers == "node" else None
            history.observe([*gpus.whole, *(beside.whole if beside else [])])
            bounds = node_bounds(host, node_profile, accelerator, _most_w(gpus), unread)
            measured = _open_node(node_address, key, bounds, share, gpus, node, history, environ, clock)
        if isinstance(measured, NodeMeter):
            meters.append(measured)
            notes += [Note("node_meter", f"{device.name}: {device.note}") for device in measured.devices]
        elif measured is not None:
            unavailable.append(measured)
        node_measured = isinstance(measured, NodeMeter) and measured.devices[0].rung == "host"
        if not node_measured:
            rapl, problems = open_rapl_meter(
                key,
                root=powercap,
                platform=platform_of(host, node_profile),
                share=split_source(share),
                note=share_note(share),
                clock=clock,
            )
            meters += [rapl] if rapl is not None else []
            unavailable += problems
        scopes = {device.scope for meter in meters for device in meter.devices}
        plan = HostPlan(
            host=host,
            key=key,
            node=node,
            cpu_tdp=stated_cpu_tdp(accelerator, node_profile),
            share=share,
            gpu_equivalents=gpus.gpu_equivalents + (unread.count if unread else 0),
            nodes=nodes,
            node_measured=node_measured,
            cpu_measured=node_measured or bool({"package", "module"} & scopes),
            dram_measured=node_measured or bool({"dram", "module"} & scopes),
        )
        meters += stand_ins
        parts = host_parts(plan, draw, root_pid, environ, clock)
        if isinstance(measured, NodeMeter) and node_measured:
            # These models replace the node meter where it tells nothing, or nothing possible.
            alone = structs.replace(plan, node_measured=False, cpu_measured=False, dram_measured=False)
            hosts = [p.power for p in host_parts(alone, draw, root_pid, environ, clock) if p.identity.rung == "host"]
            models[measured.devices[0].key] = summed(hosts)
        if parts:
            meters.append(ModelMeter(parts, clock))
            draw.observe(gpus.read())
            notes += [Note("modelled", f"{part.identity.name}: {part.identity.note}") for part in parts]
    return MeterSet(
        meters,
        host=host,
        gpus=gpus,
        beside=beside,
        draw=draw,
        history=history,
        host_share=share.part.value if include_host else 0.0,
        notes=notes,
        unavailable=unavailable,
        unread=unread,
        silent=_silent(gpus, unread, environ),
        models=models,
        stand_ins=stand_ins,
    )


def _unread(
    gpus: GpuMeters, thought: UnreadGpus | None, environ: Mapping[str, str], *, in_container: bool
) -> UnreadGpus | None:
    """Return the GPUs that no meter reads, None where nothing shows any.

    Environment variables count only where no driver answers, since they may name GPUs that are metered.
    """
    told = {} if gpus.answers else environ
    found = (unread_gpus(problem, told, container=in_container) for problem in gpus.problems)
    unread = next((one for one in found if one is not None), None)
    if unread is not None or not gpus.answers:
        return unread or thought
    # GPUs of a driver that has answered since it was last asked are metered, so that they are not unread.
    return thought if thought is not None and thought.problem.kind == UNANSWERED else None


def _silent(gpus: GpuMeters, unread: UnreadGpus | None, environ: Mapping[str, str]) -> Unavailable | None:
    """Return the problem of a driver that is there where nothing tells of its GPUs, else None."""
    if gpus.answers or unread is not None:
        return None
    return next((problem for problem in gpus.problems if shows_driver(problem, environ)), None)


def _open_node(
    address: NodeAddress,
    key: str,
    bounds: Bounds,
    share: HostShare,
    gpus: GpuMeters,
    node: Node | None,
    history: GpuHistory,
    environ: Mapping[str, str],
    clock: Callable[[], float],
) -> NodeMeter | Unavailable:
    """Return the meter of the node or the facility, or why there is none.

    There is none for a node with GPUs of others, if these cannot be read and subtracted.
    """
    listed = len(gpus.inventory.gpus)
    if address.covers == "node" and gpus.answers and node is not None and listed < node.accelerators:
        return Unavailable(
            kind="node_hidden_gpus",
            reason=f"the node meter cannot be used: it contains {plural(node.accelerators, 'GPU')}, {listed} of "
            "them visible",
            advice="run where all GPUs of the node are visible, or leave the node meter out",
        )
    return open_node_meter(
        address,
        key,
        bounds=bounds,
        share=split_source(share),
        note=share_note(share),
        gpus=history if gpus.answers else None,
        environ=environ,
        clock=clock,
    )


def _gpus_beside(gpus: GpuMeters, clock: Callable[[], float]) -> GpuMeters | None:
    """Return a meter of the GPUs of the node that are not the job's, None where there are none or no driver answers.

    A node meter contains their energy, which is subtracted and charged to nobody.
    """
    ours = {reading.key for reading in gpus.whole}
    others = tuple(gpu.uuid for gpu in gpus.inventory.gpus if gpu.uuid not in ours)
    if not others:
        return None
    selection = DeviceSelection(uuids=others, source="explicit", reason="GPUs of the node beside the job's")
    meter = open_gpu_meters(selection, clock=clock)
    return meter if meter.answers else None


def _unmetered(gpus: GpuMeters, node: Node | None, unread: UnreadGpus | None) -> int:
    """Return how many GPUs draw power on this host without being readable."""
    if unread is not None:
        return unread.count
    return node.accelerators if not gpus.answers and node is not None else 0


def _most_w(gpus: GpuMeters) -> list[float | None] | None:
    """Return the most that each metered GPU can draw in W, or None where no GPU is metered."""
    return None if not gpus.answers else [gpu.most_power_w for gpu in gpus.inventory.gpus]
