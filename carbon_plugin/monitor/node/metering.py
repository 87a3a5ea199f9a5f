"""Open the meters of this host for this job: find the job's GPUs, and the profiles that describe the host and the
GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from carbon_plugin.detect.observed import Observed
from carbon_plugin.meters.gpu.driver import Inventory
from carbon_plugin.meters.gpu.presence import unanswered_gpus, unread_gpus
from carbon_plugin.meters.gpu.selection import driver_names, select_devices
from carbon_plugin.meters.host.machine import read_host_info
from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.meters.open import JobPart, KnownHardware, open_meters
from carbon_plugin.meters.protocol import Unavailable, UnreadGpus
from carbon_plugin.monitor.node.missing_gpus import named_gpu, planned_gpus, unread_power
from carbon_plugin.monitor.processes.leader import Claim
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings.settings import Settings
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.hardware.profiles import default_node_for, match_device_name
from carbon_plugin.spec.metered import DeviceIdentity

Reserved = Sequence[str | int] | None


class JobHardware(Struct, frozen=True, kw_only=True):
    """Holds the GPUs that the job has on this host, and the profile of the first one's model.

    `hidden` is how many further GPUs a node of that model has that the driver does not show. `unread` are GPUs that
    exist although no driver answers for them, or that do not answer the driver. `cut_off` says which of the named GPUs
    CUDA leaves out.
    """

    reserved: Reserved
    keys: tuple[str, ...]
    accelerator: Observed | None
    hidden: int = 0
    unread: UnreadGpus | None = None
    cut_off: str | None = None


def look_at_hardware(settings: Settings, shown: Inventory | Unavailable, environ: Mapping[str, str]) -> JobHardware:
    """Return the job's GPUs as far as this process can tell: those that the user named, else those of its environment.

    `shown` is what the driver lists.
    """
    reserved = settings.options.reserved_gpus
    if not isinstance(shown, Inventory):
        in_container = read_host_info(environ=environ).container is not None
        unread = unread_gpus(shown, environ, container=in_container) or planned_gpus(settings, shown, environ)
        return JobHardware(reserved=reserved, keys=(), accelerator=None, unread=unread)
    chosen = select_devices(shown.gpus, environ, reserved, len(shown.problems))
    names = [gpu.name for gpu in shown.gpus if gpu.uuid in chosen.uuids or _holds(gpu.slices, chosen.uuids)]
    profile = match_device_name(names[0]) if names else None
    return JobHardware(
        reserved=reserved,
        keys=chosen.uuids,
        accelerator=Observed(profile, f"the driver calls the GPU {names[0]}") if profile else None,
        hidden=max(0, default_node_for(profile).accelerators - len(shown.gpus)) if profile else 0,
        unread=unanswered_gpus(shown, chosen, environ),
        cut_off=chosen.cut_off,
    )


def open_host_meters(
    settings: Settings,
    hardware: JobHardware,
    environ: Mapping[str, str],
    *,
    gpus: Sequence[str] | None,
    host: bool,
    ranks: Ranks,
    beside: int = 0,
) -> MeterSet:
    """Return the meters of this host, one of the nodes that `ranks` knows.

    They meter the given GPUs, or all that the environment reserves where `gpus` is None, and the host if `host` is
    true, also for GPUs of the job `beside` these.
    """
    accelerator = hardware.accelerator.value if hardware.accelerator else _cpu_profile(settings)
    unread = hardware.unread
    if unread is not None and accelerator is None:
        accelerator = named_gpu(settings)
    known = hardware.keys or unread is not None or _is_cpu(accelerator)
    return open_meters(
        JobPart(
            reserved=gpus if gpus is not None else hardware.reserved,
            nodes=ranks.nodes,
            include_host=host,
            beside=beside,
            local_ranks=ranks.local_world_size,
        ),
        KnownHardware(
            node_profile=_node_profile(settings, accelerator) if known else None,
            accelerator=accelerator,
            gpu_power_w=None if unread is None else unread_power(settings, accelerator, usable=unread.usable),
            thought=unread if host else None,
        ),
        node_address=settings.node_meter,
        environ=environ,
    )


def with_ranks(devices: Sequence[DeviceIdentity], claims: Sequence[Claim]) -> list[DeviceIdentity]:
    """Return the devices with the ranks that compute on them."""
    from msgspec.structs import replace

    return [
        replace(device, ranks=[claim.rank for claim in claims if _claimed(device, claim)]) if claims else device
        for device in devices
    ]


def _claimed(device: DeviceIdentity, claim: Claim) -> bool:
    """Return whether a rank computes on a device."""
    return device.key.partition("-")[2] in {name for uuid in claim.uuids for name in driver_names(uuid)}


def _holds(slices: Sequence[object], uuids: Sequence[str]) -> bool:
    return any(getattr(part, "uuid", None) in uuids for part in slices)


def _cpu_profile(settings: Settings) -> Accelerator | None:
    """Return the profile of this machine's CPU where the user or the plan names one. A profile of another kind does not
    fit."""
    planned = settings.forecast.spec.cluster.accelerator if settings.forecast else None
    return next((a for a in (settings.declared.accelerator, planned) if _is_cpu(a)), None)


def _is_cpu(accelerator: Accelerator | None) -> bool:
    return accelerator is not None and accelerator.kind == "cpu"


def _node_profile(settings: Settings, accelerator: Accelerator | None) -> Node | None:
    planned = settings.forecast.spec.cluster.node if settings.forecast else None
    for node in (settings.declared.node, planned):
        if node is not None and accelerator is not None and node.accelerator == accelerator.name:
            return node
    return default_node_for(accelerator) if accelerator is not None and accelerator.kind != "cpu" else None
