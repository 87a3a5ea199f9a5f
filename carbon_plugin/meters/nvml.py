"""The NVML meter: energy of the job's GPUs, each physical GPU read once, whatever CUDA calls them.

Counter first; where there is none, power is integrated and says so; where neither answers, the reading is absent.
Only the monitor thread reads it. After a fork it answers nothing and never calls the driver.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.meters.context import GpuContext
from carbon_plugin.meters.nvml_driver import ErrorCode, Inventory, NvmlDriver, NvmlError
from carbon_plugin.meters.nvml_targets import Board, Target, describe_board, find_device, missing_target, target_of
from carbon_plugin.meters.protocol import Note, Reading, Unavailable
from carbon_plugin.meters.selection import DeviceSelection, select_devices
from carbon_plugin.meters.track import POLL_S, Sample, Step, Track, advance, start_track
from carbon_plugin.spec.hardware import Accelerator

SLOW_CALL_S = 1.0
"""A read that takes longer is reported; usual calls take milliseconds (one board: 2.4 ms median, 6.6 ms worst)."""

MIG_SPREAD = 0.5
"""Half-range of a slice's share of its GPU: neighbours may idle or work harder than it (our convention)."""

_CLOSE_WAIT_S = 1.0

_ADVICE: dict[ErrorCode, str] = {
    "no_library": "normal without NVIDIA GPUs; in a container, start it with the driver's utility capability "
    "(NVIDIA_DRIVER_CAPABILITIES=compute,utility)",
    "driver_not_loaded": "load the NVIDIA kernel module (nvidia-smi shows whether it answers)",
    "version_mismatch": "the driver was updated under a running kernel module: reboot, or reload the module",
    "permission": "let this user read the /dev/nvidia* files, or start the container with the GPU devices",
}


class _Look(Struct, frozen=True, kw_only=True):
    """One read of a board: the sample, how long it took, and what failed."""

    sample: Sample
    took_s: float
    counter_error: NvmlError | None = None
    power_error: NvmlError | None = None

    @property
    def error(self) -> NvmlError | None:
        """The error that says most, where the board gave nothing at all."""
        if self.counter_error is None or self.power_error is None:
            return None
        return self.power_error if self.counter_error.code == "not_supported" else self.counter_error


class NvmlMeter:
    """Meter of the selected GPUs. Make it with `open_nvml_meter`.

    `gpu_equivalents` counts its GPUs, a MIG slice as its share of one.
    `poll_interval_s` is None while every GPU that answers has a counter, else the longest interval that integration
    allows; it changes if a counter goes away or comes back. `whole` are the readings of whole GPUs behind the last
    `read`: where slices are metered, of the GPUs that they are slices of.
    """

    poll_interval_s: float | None

    def __init__(
        self,
        driver: NvmlDriver,
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
        self._boards = list(boards)
        self._targets = list(targets)
        self._clock = clock
        self._slow_call_s = slow_call_s
        self._lock = threading.Lock()
        self._tracks: dict[str, Track] = {}
        self._integrates: set[str] = set()
        self.whole = [self._read_board(driver, board) for board in self._boards]
        self.poll_interval_s = POLL_S if self._integrates else None

    def read(self) -> list[Reading]:
        """One reading a device, in the order of `devices`; none after `close` or in a forked child."""
        if os.getpid() != self._pid:
            return []
        with self._lock:
            if self._driver is None:
                return []
            boards = {board.gpu.uuid: self._read_board(self._driver, board) for board in self._boards}
            self.poll_interval_s = POLL_S if self._integrates else None
            self.whole = list(boards.values())
        return [self._reading(target, boards) for target in self._targets]

    def contexts(self) -> dict[str, GpuContext]:
        """What holds each device back now, by its key; a device that does not answer is left out."""
        if os.getpid() != self._pid:
            return {}
        found: dict[str, GpuContext] = {}
        with self._lock:
            for target in self._targets:
                if self._driver is not None and target.board_uuid is not None:
                    with contextlib.suppress(NvmlError):  # the reading of the same moment says what is wrong with it
                        found[target.identity.key] = self._driver.context(target.board_uuid)
        return found

    def close(self) -> None:
        """Release the driver. A read that hangs in the driver is not waited for longer than a second."""
        if os.getpid() != self._pid or not self._lock.acquire(timeout=_CLOSE_WAIT_S):
            return
        try:
            if self._driver is not None:
                self._driver.close()
                self._driver = None
        finally:
            self._lock.release()

    def _read_board(self, driver: NvmlDriver, board: Board) -> Reading:
        """Advance the board's track by one look at it, and say it as a reading of the whole GPU."""
        uuid = board.gpu.uuid
        look = self._look(driver, board)
        if look.error is not None and look.error.code == "uninitialized" and _reopened(driver):
            look = self._look(driver, board)
        track = self._tracks.get(uuid)
        if look.error is not None:
            return _unread(uuid, look, track)
        (self._integrates.discard if look.counter_error is None else self._integrates.add)(uuid)
        if track is None:
            # First answer of this GPU: what it drew before is unknown, so this is a start, not a stretch.
            step = Step(track=start_track(look.sample), kind="absent")
        else:
            step = advance(track, look.sample, board.traits)
        self._tracks[uuid] = step.track
        return _read(board, look, step, self._slow_call_s)

    def _look(self, driver: NvmlDriver, board: Board) -> _Look:
        """Read counter and power; either alone is enough. The sample's time is the end of the call behind it: one that
        hangs waits for the driver first."""
        start_s = self._clock()
        counter_j, counter_error, counted_s = self._timed(driver.energy_j, board)
        power_w, power_error, end_s = self._timed(driver.power_w, board)
        sample_s = end_s if counter_j is None else counted_s
        return _Look(
            sample=Sample(monotonic_s=sample_s, counter_j=counter_j, power_w=power_w),
            took_s=end_s - start_s,
            counter_error=counter_error,
            power_error=power_error,
        )

    def _timed(self, read: Callable[..., float], board: Board) -> tuple[float | None, NvmlError | None, float]:
        value: float | None = None
        failure: NvmlError | None = None
        try:
            value = read(board.gpu.uuid, board.scope)
        except NvmlError as error:
            failure = error
        return value, failure, self._clock()

    def _reading(self, target: Target, boards: Mapping[str, Reading]) -> Reading:
        key = target.identity.key
        if target.board_uuid is None:
            return Reading(
                key=key,
                monotonic_s=self._clock(),
                energy_j=None,
                kind="absent",
                fault="lost",
                message=f"{key} is reserved, but NVML does not list it",
            )
        whole = boards[target.board_uuid]
        return whole if target.share is None else _share(whole, key, target.share)


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
    `selection.select_devices`. `accelerator` is the profile that matching GPUs are marked with.
    """
    opened = _open_driver()
    if isinstance(opened, Unavailable):
        return opened
    driver, inventory = opened
    chosen = selection or select_devices(inventory.gpus, environ, reserved)
    boards: dict[str, Board] = {}
    targets: list[Target] = []
    for uuid in chosen.uuids:
        gpu, part = find_device(inventory, uuid)
        if gpu is None:
            targets.append(missing_target(uuid))
            continue
        if gpu.uuid not in boards:
            boards[gpu.uuid] = describe_board(driver, gpu)
        targets.append(target_of(boards[gpu.uuid], part, accelerator))
    targets += [missing_target(name) for name in chosen.missing]
    notes = [Note("gpu_selection", f"{len(targets)} GPUs are taken as reserved: {chosen.reason}")]
    notes += [Note("nvml_problem", message) for _, message in inventory.problems]
    notes += [Note("assumption", sentence) for sentence in chosen.assumptions]
    notes += [Note("device", f"{t.identity.key}: {t.identity.note}") for t in targets if t.identity.note]
    return NvmlMeter(
        driver,
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
    driver, inventory = opened
    driver.close()
    return inventory


def _open_driver() -> tuple[NvmlDriver, Inventory] | Unavailable:
    driver: NvmlDriver | None = None
    try:
        driver = NvmlDriver()
        return driver, driver.inventory()
    except NvmlError as error:
        if driver is not None:
            driver.close()
        return Unavailable(
            kind=f"nvml_{error.code}",
            reason=f"NVIDIA GPUs cannot be metered: {error}",
            advice=_ADVICE.get(error.code),
        )


def _reopened(driver: NvmlDriver) -> bool:
    """Initialise NVML again after somebody else in this process shut it down."""
    try:
        driver.reopen()
    except NvmlError:
        return False
    return True


def _unread(uuid: str, look: _Look, track: Track | None) -> Reading:
    """Neither counter nor power answered: energy is held, and the stretch is absent, never a zero."""
    code = look.error.code if look.error else "error"
    energy = track.energy if track else None
    return Reading(
        key=uuid,
        monotonic_s=look.sample.monotonic_s,
        energy_j=energy.central_j if energy else None,
        kind="absent",
        low_j=energy.low_j if energy else None,
        high_j=energy.high_j if energy else None,
        fault=code,
        message=f"{uuid} could not be read: {look.error}",
    )


def _read(board: Board, look: _Look, step: Step, slow_call_s: float) -> Reading:
    uuid = board.gpu.uuid
    fault, message = step.fault, step.message
    if fault is None and board.counter and look.counter_error is not None:
        fault, message = look.counter_error.code, f"the energy counter fails: {look.counter_error}"
    unsure_j = 0.0
    if fault is None and look.took_s > slow_call_s:
        fault, message = "slow", f"one read took {look.took_s:.1f} s in the driver"
        unsure_j = look.took_s * (look.sample.power_w or 0.0)  # if the value is of the beginning of the call
    energy = step.track.energy
    return Reading(
        key=uuid,
        monotonic_s=look.sample.monotonic_s,
        energy_j=energy.central_j,
        kind=step.kind,
        low_j=energy.low_j,
        high_j=energy.high_j + unsure_j,
        power_w=look.sample.power_w,
        fault=fault,
        message=None if message is None else f"{uuid}: {message}",
    )


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
    )
