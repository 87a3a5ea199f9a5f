"""All meters of one host, opened together: GPUs, host and network, each part of the energy in exactly one of them.

What is measured is not modelled again; what is modelled says so, and every choice is a note for the ledger. Which
process of a node opens them is the monitor's business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path

from msgspec import structs

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.gate import Gate
from carbon_plugin.meters.gpu.context import ContextChange, ContextWatch
from carbon_plugin.meters.gpu.nvml import HANGS, NvmlMeter, late_driver, open_nvml_meter
from carbon_plugin.meters.gpu.presence import UNANSWERED, shows_driver, unread_gpus
from carbon_plugin.meters.gpu.selection import DeviceSelection
from carbon_plugin.meters.gpu.unread import unread_meters
from carbon_plugin.meters.host.machine import HostInfo, read_host_info
from carbon_plugin.meters.host.model_meter import GpuDraw, ModelMeter, summed
from carbon_plugin.meters.host.parts import HostPlan, host_parts, node_bounds, platform_of, stated_cpu_tdp
from carbon_plugin.meters.host.rapl import open_rapl_meter
from carbon_plugin.meters.host.rapl_domains import POWERCAP
from carbon_plugin.meters.host.share import WHOLE, HostShare, ShareSource, fixed, gpu_share, slurm_share, used_share
from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.meter import GpuHistory, NodeMeter, open_node_meter
from carbon_plugin.meters.protocol import Meter, Note, Reading, Unavailable, UnreadGpus
from carbon_plugin.meters.watts import PowerSource, Watts
from carbon_plugin.spec.amounts import plural
from carbon_plugin.spec.figure import Figure
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.metered import DeviceIdentity

_ALIKE = ("package", "dram")
"""Scopes of devices that work alike on one machine, so that one tells what another one may draw."""


class MeterSet:
    """The meters of one host behind one `read`. Make it with `open_meters`.

    `notes` are reasons and assumptions for the ledger; `unavailable` are the meters that could not be had (their
    reasons are notes too). `host_share` is the part of the host that is charged to the job here (0 beside a leader
    that has the host); host readings have it applied. `gpus` is the NVML meter, None without NVML; `unread` are the
    GPUs that there are all the same, None where nothing shows any. `silent` is the problem of a driver that is there
    and does not tell whether it has GPUs, where nothing else does. GPUs of a driver that hung when this was
    opened are among `devices` from the first `read` on after it has answered. `poll_interval_s` is the shortest of its
    meters', None if any cadence is right.
    """

    poll_interval_s: float | None

    def __init__(
        self,
        meters: Sequence[Meter],
        *,
        host: HostInfo,
        gpus: NvmlMeter | None,
        beside: NvmlMeter | None,
        draw: GpuDraw,
        history: GpuHistory,
        host_share: float,
        notes: Sequence[Note],
        unavailable: Sequence[Unavailable],
        unread: UnreadGpus | None,
        silent: Unavailable | None,
        models: Mapping[str, PowerSource],
        stand_ins: Sequence[ModelMeter],
        late: Callable[[], NvmlMeter | Unavailable] | None,
    ) -> None:
        self.devices: list[DeviceIdentity] = [device for meter in meters for device in meter.devices]
        self.host = host
        self.gpus = gpus
        self.host_share = host_share
        self.notes = [*notes, *(Note(problem.kind, problem.reason) for problem in unavailable)]
        self.unavailable = list(unavailable)
        self.unread = unread
        self.silent = silent
        self._meters = list(meters)
        self._beside = beside
        self._draw = draw
        self._history = history
        self._context = ContextWatch()
        self._late = late
        self._stand_ins = list(stand_ins)
        self._bounds = {key: bound for meter in meters for key, bound in meter.bounds.items()}
        peers = {device.key: device.scope for device in self.devices if device.scope in _ALIKE}
        self._gate = Gate(self._bounds, peers=peers, models=models)
        self.poll_interval_s = self._shortest_poll_s()

    def read(self) -> list[Reading]:
        """One reading a device, in the order of `devices`, as the gate lets them through; none after `close` or in a
        forked child."""
        readings: list[Reading] = []
        self._take_late_gpus()
        if self._beside is not None:
            self._beside.read()
        for meter in self._meters:  # the GPUs come first: what others draw on their behalf, or contain, follows
            own = self._gate.admit(meter.read())
            if meter is self.gpus:
                self._draw.observe(own)
                self._history.observe([*self.gpus.whole, *(self._beside.whole if self._beside else [])])
            readings += own
        self.poll_interval_s = self._shortest_poll_s()
        return readings

    def _take_late_gpus(self) -> None:
        """Meter the GPUs of a driver that has answered at last; `devices`, `gpus`, `notes` and `unread` change then."""
        if self._late is None or not late_driver():
            return
        opened, self._late = self._late(), None
        if isinstance(opened, Unavailable):
            return
        self.gpus, self.unread, self.silent = opened, None, None
        self.devices = [*opened.devices, *self.devices]
        self.notes = [Note("gpus_late", "the driver has answered: its GPUs are metered from now on"), *opened.notes]
        self._meters.insert(0, opened)
        self._bounds.update(opened.bounds)

    def retire_stand_ins(self) -> bool:
        """Leave out what stands in for the GPUs of a driver that has answered since; whether there was any.

        For the end of a window: up to there the stand-ins tell what was drawn."""
        if not self._stand_ins or self.unread is not None:
            return False
        self._meters = [meter for meter in self._meters if meter not in self._stand_ins]
        gone = {device.key for meter in self._stand_ins for device in meter.devices}
        self.devices = [device for device in self.devices if device.key not in gone]
        self._stand_ins = []
        self._draw.all_metered()
        return True

    def estimate(self, key: str) -> Watts | None:
        """Power of a device, with its range, in a time that lies before its first reading; None if nothing tells."""
        return self._gate.estimate(key)

    def context_changes(self) -> list[ContextChange]:
        """What is new about power limits, clocks and throttling of the job's GPUs since the last call."""
        return self._context.news(self.gpus.contexts()) if self.gpus else []

    def close(self) -> None:
        """Release all devices. Safe to call twice."""
        for meter in self._all():
            meter.close()

    def _all(self) -> list[Meter]:
        return [*self._meters, self._beside] if self._beside else self._meters

    def _shortest_poll_s(self) -> float | None:
        return min((m.poll_interval_s for m in self._all() if m.poll_interval_s is not None), default=None)


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
    assumed of a GPU that is there and that no driver tells of; without it such GPUs have no energy. `thought` are
    GPUs that the job is thought to have and that no driver tells of: some that one counts which answers for others, or
    those of a plan. `nodes` are those of the job, whose network grows with them. `host_share` is the
    job's part of the host; by default it follows the reserved GPUs where others may hold the rest. `include_host` False
    meters GPUs only, for ranks beside a leader that has the host. `root_pid` is the process whose tree is the job.
    `node_address` is a meter of the whole node, which then stands for CPU, DRAM and model, or of a facility.
    """
    host = read_host_info(environ=environ)
    key = boot_id or host.key
    notes = [] if boot_id or host.boot_id else [Note("assumption", f"no boot id: the host is known as {key}")]
    node = None if accelerator is not None and accelerator.kind == "cpu" else node_profile
    open_gpus = partial(open_nvml_meter, reserved=reserved, accelerator=accelerator, environ=environ, clock=clock)
    nvml = open_gpus()
    gpus = nvml if isinstance(nvml, NvmlMeter) else None
    notes += gpus.notes if gpus else []
    unavailable = [nvml] if isinstance(nvml, Unavailable) else []
    unread = _unread(nvml, thought, environ, in_container=host.container is not None)
    share, share_notes = (
        _host_share(gpus, node, host, environ, unread) if host_share is None else (_stated(host_share), [])
    )
    if share.value < 1.0 and gpus is not None:
        # Another container of this run may charge another part of the same host: each part is a device of its own.
        names = " ".join(sorted(device.key for device in gpus.devices)).encode()
        key += f"/part-{blake2b(names, digest_size=4).hexdigest()}"
    meters: list[Meter] = [gpus] if gpus else []
    draw, history = GpuDraw(_unmetered(gpus, node, unread), gpu_power_w.value if gpu_power_w else None), GpuHistory()
    beside = None
    models: dict[str, PowerSource] = {}
    stand_ins = unread_meters(unread, key, accelerator, gpu_power_w, clock) if include_host else []
    if include_host:
        notes += share_notes
        measured = None
        if node_address is not None:
            beside = _gpus_beside(gpus, clock) if node_address.covers == "node" else None
            history.observe([*(gpus.whole if gpus else []), *(beside.whole if beside else [])])
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
                share=_split(share),
                note=_share_note(share),
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
            gpu_equivalents=(gpus.gpu_equivalents if gpus else 0.0) + (unread.count if unread else 0),
            nodes=nodes,
            node_measured=node_measured,
            cpu_measured=node_measured or bool({"package", "module"} & scopes),
            dram_measured=node_measured or bool({"dram", "module"} & scopes),
        )
        meters += stand_ins
        parts = host_parts(plan, draw, root_pid, environ, clock)
        if isinstance(measured, NodeMeter) and node_measured:
            # What stands in for the node meter where it tells nothing, or nothing possible.
            alone = structs.replace(plan, node_measured=False, cpu_measured=False, dram_measured=False)
            hosts = [p.power for p in host_parts(alone, draw, root_pid, environ, clock) if p.identity.rung == "host"]
            models[measured.devices[0].key] = summed(hosts)
        if parts:
            meters.append(ModelMeter(parts, clock))
            draw.observe(gpus.read() if gpus else [])
            notes += [Note("modelled", f"{part.identity.name}: {part.identity.note}") for part in parts]
    return MeterSet(
        meters,
        host=host,
        gpus=gpus,
        beside=beside,
        draw=draw,
        history=history,
        host_share=share.value if include_host else 0.0,
        notes=notes,
        unavailable=unavailable,
        unread=unread,
        silent=_silent(nvml, unread, environ),
        models=models,
        stand_ins=stand_ins,
        late=open_gpus if isinstance(nvml, Unavailable) and nvml.kind == HANGS else None,
    )


def _unread(
    nvml: NvmlMeter | Unavailable, thought: UnreadGpus | None, environ: Mapping[str, str], *, in_container: bool
) -> UnreadGpus | None:
    if isinstance(nvml, Unavailable):
        return unread_gpus(nvml, environ, container=in_container) or thought
    # GPUs of a driver that has answered since it was last asked are metered.
    return thought if thought is not None and thought.problem.kind == UNANSWERED else None


def _silent(nvml: NvmlMeter | Unavailable, unread: UnreadGpus | None, environ: Mapping[str, str]) -> Unavailable | None:
    """The problem of a driver that is there, where nothing tells of its GPUs."""
    if isinstance(nvml, NvmlMeter) or unread is not None or not shows_driver(nvml, environ):
        return None
    return nvml


def _open_node(
    address: NodeAddress,
    key: str,
    bounds: Bounds,
    share: HostShare,
    gpus: NvmlMeter | None,
    node: Node | None,
    history: GpuHistory,
    environ: Mapping[str, str],
    clock: Callable[[], float],
) -> NodeMeter | Unavailable:
    """The meter of the node or facility; none of a node with GPUs of others that cannot be taken out of it."""
    listed = len(gpus.inventory.gpus) if gpus else 0
    if address.covers == "node" and gpus is not None and node is not None and listed < node.accelerators:
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
        share=_split(share),
        note=_share_note(share),
        gpus=history if gpus else None,
        environ=environ,
        clock=clock,
    )


def _gpus_beside(gpus: NvmlMeter | None, clock: Callable[[], float]) -> NvmlMeter | None:
    """GPUs of the node that are not the job's: a node meter contains them; they are taken out and charged to nobody."""
    if gpus is None:
        return None
    ours = {reading.key for reading in gpus.whole}
    others = tuple(gpu.uuid for gpu in gpus.inventory.gpus if gpu.uuid not in ours)
    if not others:
        return None
    selection = DeviceSelection(uuids=others, source="explicit", reason="GPUs of the node beside the job's")
    meter = open_nvml_meter(selection, clock=clock)
    return meter if isinstance(meter, NvmlMeter) else None


def _split(share: HostShare) -> ShareSource:
    """How measured energy of the host is split: by CPU time where the job's can be told, else as it is reserved."""
    if share.value == 1.0:
        return fixed(WHOLE)
    return used_share(share) or fixed(share)


def _share_note(share: HostShare) -> str | None:
    if share.value == 1.0:
        return None
    how = "by its CPU time, else " if used_share(share) else ""
    return f"the job's share of the host {how}{share.value:.3f} ({share.low:.3f}-{share.high:.3f})"


def _stated(share: float) -> HostShare:
    return HostShare(value=share, low=share, high=share, sentence="stated by the caller")


def _host_share(
    gpus: NvmlMeter | None, node: Node | None, host: HostInfo, environ: Mapping[str, str], unread: UnreadGpus | None
) -> tuple[HostShare, list[Note]]:
    """The job's part of the host where somebody else may hold the rest: by the CPUs that SLURM gave it, else by its
    GPUs; else, and with all GPUs of the node, all of it."""
    if gpus is None or not gpus.devices:
        share = slurm_share(environ, host.logical_cores) or WHOLE
        return share, [] if share.value == 1.0 else [Note("assumption", share.sentence)]
    unanswered = unread.count if unread else 0
    ours = gpus.gpu_equivalents + gpus.selection.hidden + unanswered
    listed = len(gpus.inventory.gpus) + unanswered
    total = max(node.accelerators if node else 0, listed)
    if ours >= total:
        return WHOLE, []
    hidden = listed < total
    if gpus.selection.source == "slurm" or hidden:
        share = slurm_share(environ, host.logical_cores) or gpu_share(ours, total)
        return share, [Note("assumption", share.sentence)]
    sentence = f"the whole host is charged to this job, although it has reserved {ours:g} of {plural(total, 'GPU')}"
    return WHOLE, [Note("assumption", sentence)]


def _unmetered(gpus: NvmlMeter | None, node: Node | None, unread: UnreadGpus | None) -> int:
    """GPUs that draw power on this host without being readable."""
    if unread is not None:
        return unread.count
    return node.accelerators if gpus is None and node is not None else 0


def _most_w(gpus: NvmlMeter | None) -> list[float | None] | None:
    """Return the most that each metered GPU can draw in W, or None where no GPU is metered."""
    return None if gpus is None else [gpu.most_power_w for gpu in gpus.inventory.gpus]
