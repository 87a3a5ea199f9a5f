"""Meter the energy of a job's GPUs of one vendor. Each physical GPU is read once, whatever a framework calls it.

The counter comes first; where there is none, power is integrated and the reading says so; where neither answers, the
stretch is estimated. The driver is called on its own thread, since it may hang: `read` waits for a second, and what has
not answered by then is estimated from its last power until it does. After a fork the meter answers nothing and never
calls the driver.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event

from msgspec.structs import replace

from carbon_plugin.meters.bounds import Bounds
from carbon_plugin.meters.gate import ReadingGate
from carbon_plugin.meters.gpu.board_reader import BoardReader
from carbon_plugin.meters.gpu.boards import Board, MeteredDevice, assumed_board, describe_board, find_device, target_of
from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.meters.gpu.driver import Gpu, GpuDriver, GpuError
from carbon_plugin.meters.gpu.driver_thread import DriverAnswer, DriverBusyError
from carbon_plugin.meters.gpu.session import DriverSession
from carbon_plugin.meters.protocol import Note, Reading
from carbon_plugin.meters.track import POLL_S
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.threads.turns import give_way

SLOW_CALL_S = 1.0
"""A read that takes longer is reported; usual calls take milliseconds (one board: 2.4 ms median, 6.6 ms worst)."""

READ_WAIT_S = 1.0
"""The time in seconds for which `read` waits for the driver."""

DESCRIBE_WAIT_S = 1.0
CONTEXT_WAIT_S = 0.3
CLOSE_WAIT_S = 0.3

SHARE_SPREAD = 0.5
"""The half-range of the share of a GPU that a part of it draws: neighbours may idle or work harder (our convention)."""


class GpuMeter:
    """The meter reads GPUs of one vendor. Make it with `open_vendor_meter`.

    `gpu_equivalents` counts its GPUs, a part of one as its share of it. `poll_interval_s` is None while every GPU that
    answers has a counter, else the longest interval that integration allows; it changes if a counter goes away or comes
    back. `whole` are the readings of whole GPUs from which the last `read` was made: where parts are metered, those of
    the GPUs that they are parts of. `bounds` are what each device can draw.
    """

    poll_interval_s: float | None

    def __init__(
        self,
        session: DriverSession,
        boards: Sequence[Board],
        targets: Sequence[MeteredDevice],
        *,
        clock: Callable[[], float],
        slow_call_s: float,
    ) -> None:
        self.devices = [target.identity for target in targets]
        self.vendor = session.vendor
        self.inventory = session.inventory
        self.gpu_equivalents = sum(1.0 if target.share is None else target.share for target in targets)
        self.notes = [Note("device", f"{t.identity.key}: {t.identity.note}") for t in targets if t.identity.note]
        self._pid = os.getpid()
        self._driver: GpuDriver | None = session.driver
        self._thread = session.thread
        self._reader = BoardReader(session.driver, boards, clock, slow_call_s)
        self._targets = list(targets)
        self._clock = clock
        self._round: DriverAnswer[None] | None = None
        of_boards = {board.gpu.uuid: board.bounds for board in boards}
        self.bounds = {target.identity.key: _bounds(target, of_boards) for target in targets}
        self._gate = ReadingGate(of_boards, peers={board.gpu.uuid: board.gpu.name for board in boards})
        self.whole: list[Reading] = []
        self._read_boards()
        self.poll_interval_s = POLL_S if self._reader.integrates else None

    def read(self) -> list[Reading]:
        """Return one reading a device, in the order of `devices`. The list is empty after `close` and in a forked
        child.
        """
        if os.getpid() != self._pid or self._driver is None:
            return []
        self._read_boards()
        self.poll_interval_s = POLL_S if self._reader.integrates else None
        boards = {reading.key: reading for reading in self.whole}
        return [self._reading(target, boards) for target in self._targets]

    def estimate(self, key: str) -> Range | None:
        """Return the power of a device, with its range, in a time before its first reading, W; None if nothing tells
        it.
        """
        target = next((target for target in self._targets if target.identity.key == key), None)
        watts = None if target is None else self._gate.estimate(target.board_uuid)
        return watts if watts is None or target is None or target.share is None else watts.scaled(target.share)

    def contexts(self) -> dict[str, GpuContext]:
        """Return what limits each device now, by its key. A device that does not answer is left out."""
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
        """Read all boards, wait a while for the answers, and let them through the gate into `whole`."""
        asked_s, wait_until_s = self._clock(), time.monotonic() + READ_WAIT_S
        if self._round is not None and self._round.wait(READ_WAIT_S):  # a slow driver still answers the last round
            ended, self._round = self._round, None
            ended.result()
        if self._round is None:
            self._round = self._thread.submit(self._reader.sample_all)
            if self._round.wait(wait_until_s - time.monotonic()):
                self._round.result()
        fresh, now = self._reader.readings(asked_s, self._clock(), self._thread.busy_s)
        if fresh:
            # Samples that are older than this moment are taken in first, so that what follows starts from them.
            self._gate.admit(fresh)
        self.whole = self._gate.admit(now)

    def _reading(self, target: MeteredDevice, boards: Mapping[str, Reading]) -> Reading:
        whole = boards[target.board_uuid]
        if target.share is None:
            return whole
        # Where the job has all parts of a GPU, their shares do not change what the job has drawn.
        spread = 0.0 if target.held_whole else SHARE_SPREAD
        return _share(whole, target.identity.key, target.share, spread)


def open_vendor_meter(
    session: DriverSession,
    uuids: Sequence[str],
    *,
    accelerator: Accelerator | None,
    clock: Callable[[], float] = time.monotonic,
    slow_call_s: float = SLOW_CALL_S,
) -> GpuMeter:
    """Open a meter on those GPUs, and parts of GPUs, that the driver of a session lists; other UUIDs are left out.

    `accelerator` is the profile that matching GPUs are marked with.
    """
    places = [(gpu, part) for gpu, part in (find_device(session.inventory, uuid) for uuid in uuids) if gpu is not None]
    boards = _boards(session, [gpu for gpu, _ in places])
    parts_held = {gpu.uuid: {part.uuid for of, part in places if part and of.uuid == gpu.uuid} for gpu, _ in places}
    targets = [
        target_of(
            boards[gpu.uuid],
            part,
            accelerator,
            held_whole=gpu.divided_evenly and parts_held[gpu.uuid] == {one.uuid for one in gpu.slices},
        )
        for gpu, part in places
    ]
    return GpuMeter(session, list(boards.values()), targets, clock=clock, slow_call_s=slow_call_s)


def _boards(session: DriverSession, gpus: Sequence[Gpu]) -> dict[str, Board]:
    """Return the boards of some GPUs by UUID, with the calls that answer on each.

    The calls are assumed where the driver does not answer in time.
    """
    once = {gpu.uuid: gpu for gpu in gpus}
    late = Event()
    try:
        described = session.thread.call(
            lambda: [_described(session.driver, gpu, late) for gpu in once.values()], DESCRIBE_WAIT_S
        )
    except DriverBusyError:
        late.set()
        described = [assumed_board(gpu) for gpu in once.values()]
    return {board.gpu.uuid: board for board in described}


def _described(driver: GpuDriver, gpu: Gpu, late: Event) -> Board:
    give_way()
    return describe_board(driver, gpu, late)


def _contexts(driver: GpuDriver, places: Mapping[str, str]) -> dict[str, GpuContext]:
    found: dict[str, GpuContext] = {}
    for key, uuid in places.items():
        give_way()
        with contextlib.suppress(GpuError):  # the reading of the same moment says what is wrong with it
            found[key] = driver.context(uuid)
    return found


def _bounds(target: MeteredDevice, of_boards: Mapping[str, Bounds]) -> Bounds:
    bounds = of_boards[target.board_uuid]
    return bounds if target.share is None else bounds.scaled(target.share)


def _share(whole: Reading, key: str, share: float, spread: float) -> Reading:
    """Return a part's reading made from its GPU's: an estimate whose range its neighbours explain, where it has any."""
    part = replace(whole, key=key)
    if whole.energy is None:
        return part
    return replace(
        part,
        energy=whole.energy.times(Range(share, share * (1 - spread), min(1.0, share * (1 + spread)))),
        kind="modelled" if spread and whole.kind != "absent" else whole.kind,
        power_w=None if whole.power_w is None else whole.power_w * share,
        estimated_j=whole.estimated_j * share,
    )
