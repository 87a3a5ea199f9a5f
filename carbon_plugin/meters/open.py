"""Open all meters of one host together: GPUs, host and network, so that exactly one of them holds each part of the
energy.

What is measured is not modelled again; what is modelled says so, and every choice is a note for the ledger. The monitor
decides which process of a node opens the meters.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from msgspec import Struct, structs

from carbon_plugin.meters.gpu.open import GpuMeters, open_gpu_meters
from carbon_plugin.meters.gpu.presence import UNANSWERED, shows_driver, unread_gpus
from carbon_plugin.meters.gpu.selection import DeviceSelection
from carbon_plugin.meters.gpu.unread import unread_meters
from carbon_plugin.meters.host.machine import HostInfo, read_host_info
from carbon_plugin.meters.host.model_meter import GpuDraw, ModelledPart, ModelMeter, summed
from carbon_plugin.meters.host.parts import HostPlan, host_parts, node_bounds, platform_of, stated_cpu_tdp
from carbon_plugin.meters.host.rapl import open_rapl_meter
from carbon_plugin.meters.host.rapl_domains import POWERCAP
from carbon_plugin.meters.host.share import HostShare
from carbon_plugin.meters.host_part import reserved_share, share_note, split_source, stated_share
from carbon_plugin.meters.meter_set import Found, GpuSide, MeterSet
from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.meter import GpuHistory, NodeMeter, open_node_meter
from carbon_plugin.meters.protocol import Meter, Note, PowerSource, Unavailable, UnreadGpus
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Figure


class JobPart(Struct, frozen=True, kw_only=True):
    """One instance says which part of this host a job holds, as far as the caller knows.

    `reserved` are the job's GPUs (see `select_devices`). `host_share` is its part of the host; by default it follows
    from the reserved GPUs where others may hold the rest. `nodes` is the number of nodes of the job, with which its
    network grows. Without `include_host` only GPUs are metered, for ranks beside a leader that meters the host. The
    leader meters the host for `beside` further GPUs of the job, which only those ranks see. `local_ranks` is the number
    of the job's ranks on this host, whose CPU time is that of their launcher's children.
    """

    reserved: Sequence[str | int] | None = None
    host_share: float | None = None
    nodes: int = 1
    include_host: bool = True
    beside: int = 0
    local_ranks: int = 1


class KnownHardware(Struct, frozen=True, kw_only=True):
    """One instance holds what the caller knows of the hardware that no driver tells.

    `node_profile` models the host where it is not measured; without one, or where `accelerator` is a CPU, the CPU is
    modelled by TDP and utilisation. `gpu_power_w` is the power that is assumed of a GPU that is there but that no
    driver tells of; without it such GPUs have no energy. `thought` are GPUs that the job is assumed to have and that no
    driver tells of: they are counted by a driver that answers only for others, or they are in a plan.
    """

    node_profile: Node | None = None
    accelerator: Accelerator | None = None
    gpu_power_w: Figure | None = None
    thought: UnreadGpus | None = None


ALL_OF_THE_HOST = JobPart()
NOTHING_KNOWN = KnownHardware()


class _Opening(Struct, frozen=True, kw_only=True):
    """One instance holds the inputs with which the meters of a host are opened once its GPUs are open.

    `key` is the name of the host in the ledger, `node` the profile that models the host, and `share` the job's part of
    the host, with `share_notes` on where it is from.
    """

    host: HostInfo
    key: str
    node: Node | None
    share: HostShare
    share_notes: list[Note]
    gpus: GpuMeters
    unread: UnreadGpus | None
    job: JobPart
    known: KnownHardware
    environ: Mapping[str, str]
    powercap: Path
    clock: Callable[[], float]


class _Opened(Struct, frozen=True, kw_only=True):
    """One instance holds the opened meters of a host beside its GPUs, with the powers that replace a node meter, by
    device key, where it tells nothing possible.
    """

    meters: list[Meter]
    models: dict[str, PowerSource]
    notes: list[Note]
    unavailable: list[Unavailable]


def open_meters(
    job: JobPart = ALL_OF_THE_HOST,
    known: KnownHardware = NOTHING_KNOWN,
    *,
    node_address: NodeAddress | None = None,
    boot_id: str | None = None,
    environ: Mapping[str, str] = os.environ,
    powercap: Path = POWERCAP,
    clock: Callable[[], float] = time.monotonic,
) -> MeterSet:
    """Open every meter that this host allows and model the rest. Never raises for a device that fails.

    `node_address` is a meter of the whole node, which then replaces CPU, DRAM and model, or a meter of a facility.
    Where something else fails, such as that no file can be opened, what is open is released.
    """
    with contextlib.ExitStack() as opened:
        meters = _open_all(opened, job, known, node_address, boot_id, environ, powercap, clock)
        opened.pop_all()
    return meters


def _open_all(
    opened: contextlib.ExitStack,
    job: JobPart,
    known: KnownHardware,
    node_address: NodeAddress | None,
    boot_id: str | None,
    environ: Mapping[str, str],
    powercap: Path,
    clock: Callable[[], float],
) -> MeterSet:
    """Open the meters as `open_meters` says. `opened` closes those that are open so far."""
    host = read_host_info(environ=environ)
    gpus = open_gpu_meters(reserved=job.reserved, accelerator=known.accelerator, environ=environ, clock=clock)
    opened.callback(gpus.close)
    opening = _opening(host, gpus, job, known, boot_id, environ, powercap, clock)
    side = _gpu_side(opened, opening, node_address)
    beside = (
        _open_host(opened, opening, side, node_address)
        if job.include_host
        else _Opened(meters=[], models={}, notes=[], unavailable=[])
    )
    named = boot_id or host.boot_id
    notes = [] if named else [Note("assumption", f"no boot id: the host is known as {host.key}")]
    return MeterSet(
        [gpus, *beside.meters],
        gpus=side,
        models=beside.models,
        found=Found(
            host=host,
            host_share=opening.share.part.value if job.include_host else 0.0,
            notes=[*notes, *gpus.notes, *(opening.share_notes if job.include_host else []), *beside.notes],
            unavailable=[*gpus.problems, *beside.unavailable],
            unread=opening.unread,
            silent=_silent(gpus, opening.unread, environ),
        ),
    )


def _opening(
    host: HostInfo,
    gpus: GpuMeters,
    job: JobPart,
    known: KnownHardware,
    boot_id: str | None,
    environ: Mapping[str, str],
    powercap: Path,
    clock: Callable[[], float],
) -> _Opening:
    """Return the inputs of the other meters: the name and the profile of the host, and the job's part of it."""
    node = None if known.accelerator is not None and known.accelerator.kind == "cpu" else known.node_profile
    unread = _unread(gpus, known.thought, environ, in_container=host.container is not None)
    share, notes = (
        reserved_share(gpus, node, host, environ, unread, job.beside)
        if job.host_share is None
        else (stated_share(job.host_share), [])
    )
    key = boot_id or host.key
    return _Opening(
        host=host,
        key=key + _part_of_key(gpus) if share.part.value < 1.0 and gpus.answers else key,
        node=node,
        share=share,
        share_notes=notes,
        gpus=gpus,
        unread=unread,
        job=job,
        known=known,
        environ=environ,
        powercap=powercap,
        clock=clock,
    )


def _gpu_side(opened: contextlib.ExitStack, opening: _Opening, address: NodeAddress | None) -> GpuSide:
    """Return the meters of the job's GPUs with what the meters and models of the host hear of GPUs.

    `opened` closes the meter of the GPUs beside the job's, which a meter of the whole node needs.
    """
    job, known, clock = opening.job, opening.known, opening.clock
    of_node = job.include_host and address is not None and address.covers == "node"
    beside = _gpus_beside(opening.gpus, clock) if of_node else None
    if beside is not None:
        opened.callback(beside.close)
    stand_ins = (
        unread_meters(opening.unread, opening.key, known.accelerator, known.gpu_power_w, clock)
        if job.include_host
        else []
    )
    return GpuSide(
        metered=opening.gpus,
        beside=beside,
        draw=_draw(opening.gpus, job, known, opening.node, opening.unread),
        history=GpuHistory(),
        stand_ins=stand_ins,
    )


def _open_host(opened: contextlib.ExitStack, opening: _Opening, gpus: GpuSide, address: NodeAddress | None) -> _Opened:
    """Return the meters of the host and the network: those that measure, and models of what none of them measures."""
    measured = _open_node(opening, gpus, address) if address is not None else None
    node_meter = measured if isinstance(measured, NodeMeter) else None
    meters: list[Meter] = [] if node_meter is None else [node_meter]
    opened.callback(lambda: _close(meters))
    unavailable = [measured] if isinstance(measured, Unavailable) else []
    notes = [Note("node_meter", f"{device.name}: {device.note}") for meter in meters for device in meter.devices]
    node_measured = node_meter is not None and node_meter.devices[0].rung == "host"
    if not node_measured:
        rapl, problems = open_rapl_meter(
            opening.key,
            root=opening.powercap,
            platform=platform_of(opening.host, opening.known.node_profile),
            share=split_source(opening.share),
            note=share_note(opening.share),
            clock=opening.clock,
        )
        meters += [rapl] if rapl is not None else []
        unavailable += problems
    scopes = {device.scope for meter in (opening.gpus, *meters) for device in meter.devices}
    plan = _host_plan(opening, scopes, node_measured)
    parts = _modelled(opening, gpus, plan)
    models: dict[str, PowerSource] = {}
    if node_meter is not None and node_measured:
        # These models replace the node meter where it tells nothing, or nothing possible.
        alone = structs.replace(plan, node_measured=False, cpu_measured=False, dram_measured=False)
        hosts = [part.power for part in _modelled(opening, gpus, alone) if part.identity.rung == "host"]
        models[node_meter.devices[0].key] = summed(hosts)
    meters += gpus.stand_ins
    if parts:
        meters.append(ModelMeter(parts, opening.clock))
        gpus.draw.observe(opening.gpus.read())
        notes += [Note("modelled", f"{part.identity.name}: {part.identity.note}") for part in parts]
    return _Opened(meters=meters, models=models, notes=notes, unavailable=unavailable)


def _close(meters: Sequence[Meter]) -> None:
    for meter in meters:
        meter.close()


def _host_plan(opening: _Opening, scopes: set[str], node_measured: bool) -> HostPlan:
    """Return what must be modelled of the host, given the scopes that meters of it and of its GPUs measure."""
    unread = opening.unread
    metered = opening.gpus
    return HostPlan(
        host=opening.host,
        key=opening.key,
        node=opening.node,
        cpu_tdp=stated_cpu_tdp(opening.known.accelerator, opening.known.node_profile),
        share=opening.share,
        gpu_equivalents=metered.gpu_equivalents + (unread.count if unread else 0) + opening.job.beside,
        nodes=opening.job.nodes,
        local_ranks=opening.job.local_ranks,
        node_measured=node_measured,
        cpu_measured=node_measured or bool({"package", "module"} & scopes),
        dram_measured=node_measured or bool({"dram", "module"} & scopes),
    )


def _modelled(opening: _Opening, gpus: GpuSide, plan: HostPlan) -> list[ModelledPart]:
    return host_parts(plan, gpus.draw, opening.clock)


def _unread(
    gpus: GpuMeters, thought: UnreadGpus | None, environ: Mapping[str, str], *, in_container: bool
) -> UnreadGpus | None:
    """Return the GPUs that no meter reads, or None where nothing indicates any.

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
    """Return the problem of a driver that is present while nothing tells of its GPUs, or None."""
    if gpus.answers or unread is not None:
        return None
    return next((problem for problem in gpus.problems if shows_driver(problem, environ)), None)


def _open_node(opening: _Opening, gpus: GpuSide, address: NodeAddress) -> NodeMeter | Unavailable:
    """Return the meter of the node or the facility, or why there is none.

    There is none for a node with GPUs of others, if these cannot be read and subtracted.
    """
    node, known = opening.node, opening.known
    gpus.observe()
    listed = len(gpus.metered.inventory.gpus)
    if address.covers == "node" and gpus.metered.answers and node is not None and listed < node.accelerators:
        return Unavailable(
            kind="node_hidden_gpus",
            reason=f"the node meter cannot be used: it contains {plural(node.accelerators, 'GPU')}, {listed} of "
            "them visible",
            advice="run where all GPUs of the node are visible, or leave the node meter out",
        )
    most_w = _most_w(gpus.metered)
    return open_node_meter(
        address,
        opening.key,
        bounds=node_bounds(opening.host, known.node_profile, known.accelerator, most_w, opening.unread),
        share=split_source(opening.share),
        note=share_note(opening.share),
        gpus=gpus.history if gpus.metered.answers else None,
        environ=opening.environ,
        clock=opening.clock,
    )


def _gpus_beside(gpus: GpuMeters, clock: Callable[[], float]) -> GpuMeters | None:
    """Return a meter of the GPUs of the node that are not the job's, or None where there are none or no driver answers.

    A node meter contains their energy, which is subtracted and charged to nobody.
    """
    ours = {reading.key for reading in gpus.whole}
    others = tuple(gpu.uuid for gpu in gpus.inventory.gpus if gpu.uuid not in ours)
    if not others:
        return None
    selection = DeviceSelection(uuids=others, source="explicit", reason="GPUs of the node beside the job's")
    meter = open_gpu_meters(selection, clock=clock)
    return meter if meter.answers else None


def _part_of_key(gpus: GpuMeters) -> str:
    """Return what the key of a host ends with where the job holds a part of it.

    Another container of this run may charge another part of the same host, so that each part is a device.
    """
    names = " ".join(sorted(device.key for device in gpus.devices)).encode()
    return f"/part-{blake2b(names, digest_size=4).hexdigest()}"


def _draw(gpus: GpuMeters, job: JobPart, known: KnownHardware, node: Node | None, unread: UnreadGpus | None) -> GpuDraw:
    """Return what the models of the host hear of the power of its GPUs, of those too that other ranks meter."""
    assumed_w = known.gpu_power_w
    times = 1.0 + job.beside / gpus.gpu_equivalents if gpus.gpu_equivalents else 1.0
    return GpuDraw(_unmetered(gpus, node, unread), assumed_w.value if assumed_w else None, times=times)


def _unmetered(gpus: GpuMeters, node: Node | None, unread: UnreadGpus | None) -> int:
    """Return how many GPUs draw power on this host without being readable."""
    if unread is not None:
        return unread.count
    return node.accelerators if not gpus.answers and node is not None else 0


def _most_w(gpus: GpuMeters) -> list[float | None] | None:
    """Return the most that each metered GPU can draw in W, or None where no GPU is metered."""
    return None if not gpus.answers else [gpu.most_power_w for gpu in gpus.inventory.gpus]
