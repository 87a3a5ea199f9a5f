"""What an NVML meter reads: physical boards with the calls that answer on each, and the devices made of them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from msgspec import Struct

from carbon_plugin.meters.bounds import ANY_GPU_W, Bounds
from carbon_plugin.meters.gpu.nvml_driver import Gpu, Inventory, NvmlDriver, NvmlError, Scope, Slice
from carbon_plugin.meters.track import COUNTER_SPREAD, POLL_S, Traits
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.metered import Accuracy, DeviceIdentity, EnergyKind

COUNTER_AGE_S = 0.1
"""The energy counter steps about every 100 ms."""

_SAMPLED_SHARE = 0.25
_SAMPLED_PARTS = ((8, 0), (9, 0))
_ACCURACY_SOURCE = "arXiv 2312.02741"


IDLE_SHARE = 0.1
"""Part of its power limit that an idle GPU draws, for the low end of an estimate (our convention)."""

HEADROOM = 1.2
"""Mean power over seconds stays below the limit but for a few percent; what exceeds it by more is no power (our
convention)."""

GRACE_W = 1000.0
"""What a module may draw beside its GPU (our convention)."""


class Board(Struct, frozen=True, kw_only=True):
    """One physical GPU and how it is read: `scope` None is the classic call, `counter` whether it has one."""

    gpu: Gpu
    scope: Scope | None
    counter: bool
    power: bool
    module: bool

    @property
    def traits(self) -> Traits:
        """What its samples mean. A field read by scope is the average of the last second."""
        averaging = self.gpu.averaging if self.scope is None else "trailing_mean"
        return Traits(bounds=self.bounds, averaging=averaging)

    @property
    def bounds(self) -> Bounds:
        """What it can draw: up to the limit in force, and never more than the highest that can be set."""
        gpu = self.gpu
        limit_w = gpu.power_limit_w or gpu.most_power_w
        if limit_w is None:
            return Bounds(ceiling_w=ANY_GPU_W, limit_w=None, source="the most of any accelerator", always_draws=True)
        beside_w = GRACE_W if self.module else 0.0
        most_w = max(limit_w, gpu.most_power_w or 0.0)
        return Bounds(
            ceiling_w=HEADROOM * most_w + beside_w,
            limit_w=limit_w + beside_w,
            idle_w=IDLE_SHARE * limit_w,
            always_draws=True,
            source=f"its power limit of {most_w:.0f} W" + (", and what is beside it on the module" if beside_w else ""),
        )


class Target(Struct, frozen=True, kw_only=True):
    """One metered device: its identity, the GPU that it is or belongs to, and for a MIG slice its share of it."""

    identity: DeviceIdentity
    board_uuid: str
    share: float | None = None


def describe_board(driver: NvmlDriver, gpu: Gpu, late: Event) -> Board:
    """Find out which calls answer on a GPU. When `late` is set nobody waits for it any more, and no call is made.

    Beside a Grace CPU the GPU's own scope is asked for first: the classic call may cover the whole module there.
    """
    own_scope = gpu.has_grace and _answers(driver.energy_j, gpu.uuid, "gpu", late)
    scope: Scope | None = "gpu" if own_scope else None
    return Board(
        gpu=gpu,
        scope=scope,
        counter=_answers(driver.energy_j, gpu.uuid, scope, late),
        power=_answers(driver.power_w, gpu.uuid, scope, late),
        module=gpu.has_grace and not own_scope,
    )


def assumed_board(gpu: Gpu) -> Board:
    """A GPU whose driver has not answered yet: read by the classic calls, which nearly all have."""
    return Board(gpu=gpu, scope=None, counter=True, power=True, module=gpu.has_grace)


def _answers(read: Callable[[str, Scope | None], float], uuid: str, scope: Scope | None, late: Event) -> bool:
    if late.is_set():
        return False
    try:
        read(uuid, scope)
    except NvmlError:
        return False
    return True


def find_device(inventory: Inventory, uuid: str) -> tuple[Gpu | None, Slice | None]:
    """The GPU with this UUID, or the GPU and its MIG slice; (None, None) if NVML lists neither."""
    for gpu in inventory.gpus:
        if gpu.uuid == uuid:
            return gpu, None
        for part in gpu.slices:
            if part.uuid == uuid:
                return gpu, part
    return None, None


def target_of(board: Board, part: Slice | None, accelerator: Accelerator | None) -> Target:
    """A board, or one slice of it, as a device of the ledger."""
    gpu = board.gpu
    kind: EnergyKind = "counter" if board.counter else "power_integrated" if board.power else "absent"
    meter = {"counter": "nvml energy counter", "power_integrated": "nvml power, integrated"}.get(kind, "none")
    notes = []
    if not board.counter:
        notes.append("no energy counter: power is integrated" if board.power else "neither counter nor power answers")
    if board.module:
        notes.append("readings cover the module, GPU and Grace CPU together: the CPU must not be added again")
    if part is not None and kind != "absent":
        kind = "modelled"
        meter = f"{meter}, MIG slice share"
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
    return Target(identity=identity, board_uuid=gpu.uuid, share=part.share if part else None)


def _accuracy(board: Board) -> Accuracy:
    """What arXiv 2312.02741 found on over 70 GPUs: an error of about 5 %, proportional; on A100 and H100 the sensor
    looks for 25 ms in every 100 ms."""
    sampled = _SAMPLED_SHARE if board.gpu.compute_capability in _SAMPLED_PARTS else None
    if board.counter:
        return Accuracy(
            proportional=COUNTER_SPREAD, source=_ACCURACY_SOURCE, sampled_share=sampled, age_s=COUNTER_AGE_S
        )
    return Accuracy(
        proportional=board.traits.power_spread, source=_ACCURACY_SOURCE, sampled_share=sampled, age_s=POLL_S
    )


def _profile_name(gpu: Gpu, accelerator: Accelerator | None) -> str | None:
    if accelerator is None:
        return None
    known = {_driver_name(name) for name in accelerator.device_names}
    return accelerator.name if _driver_name(gpu.name) in known else None


def _driver_name(name: str) -> str:
    """Older drivers leave out the leading "NVIDIA"."""
    return name.casefold().removeprefix("nvidia ")
