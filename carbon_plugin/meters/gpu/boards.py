"""Describe what a GPU meter reads: physical boards with the calls that answer on each, and the devices made of them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from msgspec import Struct

from carbon_plugin.meters.bounds import ANY_GPU_W, Bounds
from carbon_plugin.meters.gpu.driver import Gpu, GpuDriver, GpuError, Inventory, MeteredPart, Slice
from carbon_plugin.meters.gpu.vendors import vendor_of
from carbon_plugin.meters.track import COUNTER_SPREAD, POLL_S, Traits
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.metered import Accuracy, DeviceIdentity, EnergyKind

_SAMPLED_SHARE = 0.25
_SAMPLED_PARTS = ((8, 0), (9, 0))

IDLE_SHARE = 0.1
"""The share of its power limit that an idle GPU draws, for the low end of an estimate (our convention)."""

HEADROOM = 1.2
"""Mean power over seconds exceeds the limit by a few percent at most; a value above the limit times this factor is no
power (our convention).
"""


class Board(Struct, frozen=True, kw_only=True):
    """One board is a physical GPU and how it is read.

    `scope` None is the classic call. `counter` and `power` say whether the counter and the power answer, and `module`
    whether its readings cover the whole module.
    """

    gpu: Gpu
    scope: MeteredPart | None
    counter: bool
    power: bool
    module: bool

    @property
    def traits(self) -> Traits:
        """Return how to interpret its samples. A field that is read by scope is the average of the last second."""
        averaging = self.gpu.averaging if self.scope is None else "trailing_mean"
        return Traits(bounds=self.bounds, averaging=averaging)

    @property
    def bounds(self) -> Bounds:
        """Return what it can draw: up to the limit in force, and never more than the highest limit that can be set."""
        gpu = self.gpu
        limit_w = gpu.power_limit_w or gpu.most_power_w
        if limit_w is None:
            return Bounds(ceiling_w=ANY_GPU_W, limit_w=None, source="the most of any accelerator", always_draws=True)
        beside_w = gpu.module_cpu_w if self.module else 0.0
        most_w = max(limit_w, gpu.most_power_w or 0.0)
        return Bounds(
            ceiling_w=HEADROOM * most_w + beside_w,
            limit_w=limit_w + beside_w,
            idle_w=IDLE_SHARE * limit_w,
            always_draws=True,
            source=f"its power limit of {most_w:.0f} W" + (", and what is beside it on the module" if beside_w else ""),
        )


class MeteredDevice(Struct, frozen=True, kw_only=True):
    """One target is a metered device: its identity, the GPU that it is or belongs to, and its share of that if it is a
    part.

    `held_whole` says that all other parts of that GPU are metered for the same job.
    """

    identity: DeviceIdentity
    board_uuid: str
    share: float | None = None
    held_whole: bool = False


def describe_board(driver: GpuDriver, gpu: Gpu, late: Event) -> Board:
    """Find out which calls answer on a GPU, and return it as a board.

    When `late` is set nobody waits for the result any more, and no call is made. If there is a CPU on the same module,
    the scope of the GPU alone is asked for first: the classic call may cover the whole module.
    """
    own_scope = gpu.module_cpu is not None and _answers(driver.energy_j, gpu.uuid, "gpu", late)
    scope: MeteredPart | None = "gpu" if own_scope else None
    return Board(
        gpu=gpu,
        scope=scope,
        counter=_answers(driver.energy_j, gpu.uuid, scope, late),
        power=_answers(driver.power_w, gpu.uuid, scope, late),
        module=gpu.module_cpu is not None and not own_scope,
    )


def assumed_board(gpu: Gpu) -> Board:
    """Return a board for a GPU whose driver has not answered yet: read by the classic calls, which nearly all GPUs
    have.
    """
    return Board(gpu=gpu, scope=None, counter=True, power=True, module=gpu.module_cpu is not None)


def _answers(
    read: Callable[[str, MeteredPart | None], float], uuid: str, scope: MeteredPart | None, late: Event
) -> bool:
    if late.is_set():
        return False
    try:
        read(uuid, scope)
    except GpuError:
        return False
    return True


def find_device(inventory: Inventory, uuid: str) -> tuple[Gpu | None, Slice | None]:
    """Return the GPU with this UUID, or the GPU and its part; (None, None) if the driver lists neither."""
    for gpu in inventory.gpus:
        if gpu.uuid == uuid:
            return gpu, None
        for part in gpu.slices:
            if part.uuid == uuid:
                return gpu, part
    return None, None


def target_of(
    board: Board, part: Slice | None, accelerator: Accelerator | None, *, held_whole: bool = False
) -> MeteredDevice:
    """Return a board, or one part of it, as a device of the ledger. `held_whole` says that the job has all
    its parts.
    """
    gpu, vendor = board.gpu, vendor_of(board.gpu.vendor)
    kind: EnergyKind = "counter" if board.counter else "power_integrated" if board.power else "absent"
    meters = {"counter": f"{vendor.meter} energy counter", "power_integrated": f"{vendor.meter} power, integrated"}
    meter = meters.get(kind, "none")
    notes = []
    if not board.counter:
        notes.append("no energy counter: power is integrated" if board.power else "neither counter nor power answers")
    if board.module:
        notes.append(f"readings cover the module, GPU and {gpu.module_cpu} together: the CPU must not be added again")
    if part is not None and kind != "absent":
        meter = f"{meter}, {vendor.part_name} share"
        if held_whole:
            notes.append(f"{part.share:.3f} of the reading of its GPU {gpu.uuid}, of which the job has all parts")
        else:
            kind = "modelled"
            notes.append(f"estimate: {part.share:.3f} of the energy of its GPU {gpu.uuid}, by compute slices")
    identity = DeviceIdentity(
        key=part.uuid if part else gpu.uuid,
        name=part.name if part else gpu.name,
        rung="gpu",
        scope="module" if board.module else "gpu",
        meter=meter,
        energy_kind=kind,
        profile=_profile_name(gpu, accelerator),
        note="; ".join(notes) or None,
        accuracy=_accuracy(board) if kind in ("counter", "power_integrated") else None,
        share=part.share if part else None,
    )
    return MeteredDevice(
        identity=identity,
        board_uuid=gpu.uuid,
        share=part.share if part else None,
        held_whole=held_whole and part is not None,
    )


def _accuracy(board: Board) -> Accuracy:
    """Return the accuracy that arXiv 2312.02741 found on over 70 NVIDIA GPUs: an error of about 5 %, proportional.

    On A100 and H100 the sensor looks for 25 ms in every 100 ms. The vendor says whose numbers are used for its GPUs.
    """
    vendor = vendor_of(board.gpu.vendor)
    return Accuracy(
        proportional=COUNTER_SPREAD if board.counter else board.traits.power_spread,
        source=vendor.accuracy_source,
        sampled_share=_SAMPLED_SHARE if board.gpu.compute_capability in _SAMPLED_PARTS else None,
        age_s=vendor.counter_age_s if board.counter else POLL_S,
    )


def _profile_name(gpu: Gpu, accelerator: Accelerator | None) -> str | None:
    if accelerator is None:
        return None
    known = {_driver_name(name) for name in accelerator.device_names}
    return accelerator.name if _driver_name(gpu.name) in known else None


def _driver_name(name: str) -> str:
    """Return a driver's name for comparison, without the leading "NVIDIA", which older drivers leave out."""
    return name.casefold().removeprefix("nvidia ")
