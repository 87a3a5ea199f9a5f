"""The NVML meter: energy of the job's GPUs, each physical GPU read once, whatever CUDA calls them.

Counter first; where there is none, power is integrated and says so; where neither answers, the stretch is estimated.
The driver is called on its own thread, since it may hang: `read` waits for a second, and what has not answered by then
is estimated from its last power until it does. After a fork it answers nothing and never calls the driver.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.gate import Gate
from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.meters.gpu.driver_thread import Answer, DriverBusyError, DriverThread
from carbon_plugin.meters.gpu.nvml_driver import ErrorCode, Gpu, Inventory, NvmlDriver, NvmlError
from carbon_plugin.meters.gpu.nvml_targets import (
    Board,
    Target,
    assumed_board,
    describe_board,
    find_device,
    target_of,
)
from carbon_plugin.meters.gpu.nvml_watch import BoardReader
from carbon_plugin.meters.gpu.selection import DeviceSelection, select_devices
from carbon_plugin.meters.protocol import Note, Reading, Unavailable
from carbon_plugin.meters.track import POLL_S
from carbon_plugin.spec.amounts import plural, verb
from carbon_plugin.spec.hardware.cluster import Accelerator

SLOW_CALL_S = 1.0
"""A read that takes longer is reported; usual calls take milliseconds (one board: 2.4 ms median, 6.6 ms worst)."""

READ_WAIT_S = 1.0
"""How long `read` waits for the driver."""

OPEN_WAIT_S = 5.0
"""How long to wait for the driver to initialise. Without the persistence daemon it can take longer on a large node; its
GPUs are then metered from the moment on that it answers."""

HANGS = "nvml_hangs"
"""Kind of the reason that says that the driver has not answered yet."""

DESCRIBE_WAIT_S = 1.0
CONTEXT_WAIT_S = 0.3
CLOSE_WAIT_S = 0.3

MIG_SPREAD = 0.5
"""Half-range of a slice's share of its GPU: neighbours may idle or work harder than it (our convention)."""

_ADVICE: dict[ErrorCode, str] = {
    "no_library": "normal without NVIDIA GPUs; in a container, start it with the driver's utility capability "
    "(NVIDIA_DRIVER_CAPABILITIES=compute,utility)",
    "driver_not_loaded": "load the NVIDIA kernel module (nvidia-smi shows whether it answers)",
    "version_mismatch": "the driver was updated under a running kernel module: reboot, or reload the module",
    "permission": "let this user read the /dev/nvidia* files, or start the container with the GPU devices",
}


class NvmlMeter:
    """Meter of the selected GPUs. Make it with `open_nvml_meter`.

    `gpu_equivalents` counts its GPUs, a MIG slice as its share of one.
    `poll_interval_s` is None while every GPU that answers has a counter, else the longest interval that integration
    allows; it changes if a counter goes away or comes back. `whole` are the readings of whole GPUs behind the last
    `read`: where slices are metered, of the GPUs that they are slices of. `bounds` are what each device can draw.
    """

    poll_interval_s: float | None

    def __init__(
        self,
        driver: NvmlDriver,
        thread: DriverThread,
        boards: Sequence[Board],
        targets: Sequence[Target],
        *,
        inventory: Inventory,
        selection: DeviceSelection,
        notes: Sequence[Note],
        clock: Callable[[], float],
        slow_call_s: float,
    ) -> None:
        self.devices = [target.identity for target in targets]
        self.inventory = inventory
        self.selection = selection
        self.gpu_equivalents = sum(1.0 if target.share is None else target.share for target in targets)
        self.notes = list(notes)
        self._pid = os.getpid()
        self._driver: NvmlDriver | None = driver
        self._thread = thread
        self._reader = BoardReader(driver, boards, clock, slow_call_s)
        self._targets = list(targets)
        self._clock = clock
        self._round: Answer[None] | None = None
        of_boards = {board.gpu.uuid: board.bounds for board in boards}
        self.bounds = {target.identity.key: _bounds(target, of_boards) for target in targets}
        self._gate = Gate(of_boards, peers={board.gpu.uuid: board.gpu.name for board in boards})
        self.whole: list[Reading] = []
        self._read_boards()
        self.poll_interval_s = POLL_S if self._reader.integrates else None

    def read(self) -> list[Reading]:
        """One reading a device, in the order of `devices`; none after `close` or in a forked child."""
        if os.getpid() != self._pid or self._driver is None:
            return []
        self._read_boards()
        self.poll_interval_s = POLL_S if self._reader.integrates else None
        boards = {reading.key: reading for reading in self.whole}
        return [self._reading(target, boards) for target in self._targets]

    def contexts(self) -> dict[str, GpuContext]:
        """What holds each device back now, by its key; a device that does not answer is left out."""
        driver = self._driver
        if os.getpid() != self._pid or driver is None:
            return {}
        places = {target.identity.key: target.board_uuid for target in self._targets}
        try:
            return self._thread.call(lambda: _contexts(driver, places), CONTEXT_WAIT_S)
        except DriverBusyError:
            return {}

    def close(self) -> None:
        """Release the driver. A call that hangs is not waited for."""
        driver, self._driver = self._driver, None
        if driver is not None and os.getpid() == self._pid:
            self._thread.submit(driver.close).wait(CLOSE_WAIT_S)
            self._thread.end()

    def _read_boards(self) -> None:
        """Look at all boards, wait a while for the answers, and let them through the gate into `whole`."""
        asked_s, wait_until_s = self._clock(), time.monotonic() + READ_WAIT_S
        if self._round is not None and self._round.wait(READ_WAIT_S):  # a driver that was slow still answers the last
            ended, self._round = self._round, None
            ended.result()
        if self._round is None:
            self._round = self._thread.submit(self._reader.look_at_all)
            if self._round.wait(wait_until_s - time.monotonic()):
                self._round.result()
        fresh, now = self._reader.readings(asked_s, self._clock(), self._thread.busy_s)
        if fresh:
            # Samples that are older than this moment are taken in first, so that what follows starts from them.
            self._gate.admit(fresh)
        self.whole = self._gate.admit(now)

    def _reading(self, target: Target, boards: Mapping[str, Reading]) -> Reading:
        whole = boards[target.board_uuid]
        return whole if target.share is None else _share(whole, target.identity.key, target.share)


def open_nvml_meter(
    selection: DeviceSelection | None = None,
    *,
    reserved: Sequence[str | int] | None = None,
    accelerator: Accelerator | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.monotonic,
    slow_call_s: float = SLOW_CALL_S,
) -> NvmlMeter | Unavailable:
    """Open a meter on the job's GPUs, or say why there is none.

    `selection` fixes the GPUs; without it `reserved` (UUIDs, prefixes, NVML indices) or the environment decides, see
    `selection.select_devices`. What is reserved and does not answer is no device of the meter, and in its
    `selection.missing`. `accelerator` is the profile that matching GPUs are marked with.
    """
    opened = _open_driver()
    if isinstance(opened, Unavailable):
        return opened
    driver, inventory = opened.driver, opened.inventory
    chosen = selection or select_devices(inventory.gpus, environ, reserved, len(inventory.problems))
    boards = _boards(opened, [gpu for uuid in chosen.uuids if (gpu := find_device(inventory, uuid)[0])])
    targets: list[Target] = []
    for uuid in chosen.uuids:
        gpu, part = find_device(inventory, uuid)
        if gpu is not None:
            targets.append(target_of(boards[gpu.uuid], part, accelerator))
    notes = [
        Note(
            "gpu_selection",
            f"{plural(len(targets), 'GPU')} {verb(len(targets), 'is', 'are')} taken as reserved: {chosen.reason}",
        )
    ]
    notes += [Note("nvml_problem", message) for _, message in inventory.problems]
    notes += [Note("assumption", sentence) for sentence in chosen.assumptions]
    notes += [Note("device", f"{t.identity.key}: {t.identity.note}") for t in targets if t.identity.note]
    return NvmlMeter(
        driver,
        opened.thread,
        list(boards.values()),
        targets,
        inventory=inventory,
        selection=chosen,
        notes=notes,
        clock=clock,
        slow_call_s=slow_call_s,
    )


def list_gpus() -> Inventory | Unavailable:
    """What the driver lists, without metering anything: for mapping ranks to GPUs, and for `doctor`."""
    opened = _open_driver()
    if isinstance(opened, Unavailable):
        return opened
    opened.thread.submit(opened.driver.close)
    opened.thread.end()
    return opened.inventory


def late_driver() -> bool:
    """Whether a driver that was waited for in vain has answered since, so that a meter can be opened now."""
    opening = _OPENING.get(os.getpid())
    return opening is not None and opening[1].done


_OPENING: dict[int, tuple[DriverThread, Answer[tuple[NvmlDriver, Inventory]]]] = {}
"""An initialisation that takes too long to be waited for, by process: who asks next has its result."""


class _Opened(Struct, frozen=True):
    """An initialised driver, the thread that calls it, and what it lists."""

    driver: NvmlDriver
    thread: DriverThread
    inventory: Inventory


def _open_driver() -> _Opened | Unavailable:
    begun = _OPENING.pop(os.getpid(), None)
    thread = DriverThread() if begun is None else begun[0]
    answer = thread.submit(_opened) if begun is None else begun[1]
    waited_s = OPEN_WAIT_S if begun is None else 0.0
    try:
        if not answer.wait(waited_s):
            _OPENING[os.getpid()] = (thread, answer)
            raise thread.busy(waited_s)
        driver, inventory = answer.result()
        return _Opened(driver, thread, inventory)
    except NvmlError as error:
        thread.end()
        return Unavailable(
            kind=f"nvml_{error.code}",
            reason=f"NVIDIA GPUs cannot be metered: {error}",
            advice=_ADVICE.get(error.code),
        )
    except DriverBusyError as error:
        return Unavailable(
            kind=HANGS,
            reason=f"NVIDIA GPUs cannot be metered: {error}",
            advice="see whether nvidia-smi answers; a driver that hangs needs a reset of the GPU or a reboot",
        )


def _opened() -> tuple[NvmlDriver, Inventory]:
    driver = NvmlDriver()
    try:
        return driver, driver.inventory()
    except NvmlError:
        driver.close()
        raise


def _boards(opened: _Opened, gpus: Sequence[Gpu]) -> dict[str, Board]:
    """The boards of some GPUs with the calls that answer on each, by UUID; assumed where the driver takes its time."""
    once = {gpu.uuid: gpu for gpu in gpus}
    late = Event()
    try:
        described = opened.thread.call(
            lambda: [describe_board(opened.driver, gpu, late) for gpu in once.values()], DESCRIBE_WAIT_S
        )
    except DriverBusyError:
        late.set()
        described = [assumed_board(gpu) for gpu in once.values()]
    return {board.gpu.uuid: board for board in described}


def _contexts(driver: NvmlDriver, places: Mapping[str, str]) -> dict[str, GpuContext]:
    found: dict[str, GpuContext] = {}
    for key, uuid in places.items():
        with contextlib.suppress(NvmlError):  # the reading of the same moment says what is wrong with it
            found[key] = driver.context(uuid)
    return found


def _bounds(target: Target, of_boards: Mapping[str, Bounds]) -> Bounds:
    bounds = of_boards[target.board_uuid]
    return bounds if target.share is None else bounds.scaled(target.share)


def _share(whole: Reading, key: str, share: float) -> Reading:
    """A slice's part of its GPU's reading, as an estimate with a range that its neighbours explain."""
    part = replace(whole, key=key)
    if whole.energy_j is None or whole.low_j is None or whole.high_j is None:
        return part
    return replace(
        part,
        energy_j=whole.energy_j * share,
        low_j=whole.low_j * share * (1 - MIG_SPREAD),
        high_j=whole.high_j * min(1.0, share * (1 + MIG_SPREAD)),
        kind="absent" if whole.kind == "absent" else "modelled",
        power_w=None if whole.power_w is None else whole.power_w * share,
        estimated_j=whole.estimated_j * share,
    )
