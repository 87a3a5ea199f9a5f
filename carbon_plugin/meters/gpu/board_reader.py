"""Read physical GPUs on the driver's thread, and provide at any moment what is known about each.

A read may take as long as the driver needs: each sample carries the time of its own call, and what a slow driver has
not told yet is absent until it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.meters.advance import advance, start_track
from carbon_plugin.meters.gpu.boards import Board
from carbon_plugin.meters.gpu.driver import GpuDriver, GpuError
from carbon_plugin.meters.protocol import Reading
from carbon_plugin.meters.track import Sample, Step, Track
from carbon_plugin.threads.turns import give_way


class _BoardSample(Struct, frozen=True, kw_only=True):
    """One instance holds one read of a board: the sample, how long it took, and what failed."""

    sample: Sample
    took_s: float
    counter_error: GpuError | None = None
    power_error: GpuError | None = None

    @property
    def error(self) -> GpuError | None:
        """Return the error that says most if neither counter nor power answered, else None."""
        if self.counter_error is None or self.power_error is None:
            return None
        return self.power_error if self.counter_error.code == "not_supported" else self.counter_error


class BoardReader:
    """One instance reads boards and keeps the latest reading of each.

    The driver's thread calls `sample_all` and the reader's thread `readings`; between them each board's latest reading
    is replaced in one step. `integrates` are the boards whose power must be polled.
    """

    def __init__(
        self, driver: GpuDriver, boards: Sequence[Board], clock: Callable[[], float], slow_call_s: float
    ) -> None:
        self.integrates: frozenset[str] = frozenset(board.gpu.uuid for board in boards if not board.counter)
        self._driver = driver
        self._boards = list(boards)
        self._clock = clock
        self._slow_call_s = slow_call_s
        self._tracks: dict[str, Track] = {}
        self._latest: dict[str, Reading] = {}
        self._taken: dict[str, float] = {}

    def sample_all(self) -> None:
        """Advance the track of every board by one sample."""
        for board in self._boards:
            give_way()
            self._latest[board.gpu.uuid] = self._reading_of(board)

    def readings(self, asked_s: float, now_s: float, busy_s: float) -> tuple[list[Reading], list[Reading]]:
        """Return the new samples that are too old for this moment, and a reading of each board for this moment.

        A sample from before `asked_s`, the moment at which the reading was asked for, says nothing about what was drawn
        since. `busy_s` is how long the present call of the driver has been running.
        """
        late, now = [], []
        for board in self._boards:
            uuid = board.gpu.uuid
            latest = self._latest.get(uuid)
            if latest is not None and latest.monotonic_s >= asked_s:
                now.append(latest)
            else:
                if latest is not None and latest.monotonic_s > self._taken.get(uuid, 0.0):
                    late.append(latest)
                now.append(self._stale(uuid, latest, now_s, busy_s))
            if latest is not None:
                self._taken[uuid] = latest.monotonic_s
        return late, now

    def _stale(self, uuid: str, latest: Reading | None, now_s: float, busy_s: float) -> Reading:
        """Return what is known of a board whose driver has not answered yet: its energy up to the last sample."""
        waited_s = busy_s if latest is None else now_s - latest.monotonic_s
        known = latest or Reading(key=uuid, monotonic_s=now_s, energy=None, kind="absent", covered_s=0.0)
        return replace(
            known,
            monotonic_s=now_s,
            kind="absent",
            fault="slow",
            message=f"{uuid}: the driver has not answered for {waited_s:.1f} s",
            power_w=None,
        )

    def _reading_of(self, board: Board) -> Reading:
        """Return one read of a board as a reading of the whole GPU; `covered_s` counts from its first sample."""
        uuid = board.gpu.uuid
        taken = self._sample(board)
        if taken.error is not None and taken.error.code == "uninitialized" and _reopened(self._driver):
            taken = self._sample(board)
        track = self._tracks.get(uuid)
        if taken.error is not None:
            return _unread(uuid, taken, track)
        integrates = taken.counter_error is not None
        self.integrates = self.integrates | {uuid} if integrates else self.integrates - {uuid}
        if track is None:
            # This is the first answer of this GPU. What it drew before is unknown, so the answer ends no stretch.
            started = start_track(taken.sample, board.bounds)
            step = Step(track=started, energy=started.energy, kind="power_integrated" if integrates else "counter")
        else:
            step = advance(track, taken.sample, board.traits)
        self._tracks[uuid] = step.track
        return _read(board, taken, step, self._slow_call_s)

    def _sample(self, board: Board) -> _BoardSample:
        """Read counter and power, of which one is enough.

        The sample has the time of the end of the call that gave it, because a call that hangs waits for the driver
        first. The counter may have been read at any moment of its call.
        """
        start_s = self._clock()
        counter_j, counter_error, counted_s = self._timed(self._driver.energy_j, board)
        power_w, power_error, end_s = self._timed(self._driver.power_w, board)
        sample_s = end_s if counter_j is None else counted_s
        return _BoardSample(
            sample=Sample(
                monotonic_s=sample_s,
                counter_j=counter_j,
                power_w=power_w,
                late_s=0.0 if counter_j is None else counted_s - start_s,
            ),
            took_s=end_s - start_s,
            counter_error=counter_error,
            power_error=power_error,
        )

    def _timed(self, read: Callable[..., float], board: Board) -> tuple[float | None, GpuError | None, float]:
        value: float | None = None
        failure: GpuError | None = None
        try:
            value = read(board.gpu.uuid, board.scope)
        except GpuError as error:
            failure = error
        return value, failure, self._clock()


def _reopened(driver: GpuDriver) -> bool:
    """Initialise the library again after other code in this process shut it down; return whether that worked."""
    try:
        driver.reopen()
    except GpuError:
        return False
    return True


def _unread(uuid: str, taken: _BoardSample, track: Track | None) -> Reading:
    """Return the reading where neither counter nor power answered: the energy is kept, and the stretch is absent, not
    zero.
    """
    code = taken.error.code if taken.error else "error"
    return Reading(
        key=uuid,
        monotonic_s=taken.sample.monotonic_s,
        energy=track.energy if track else None,
        kind="absent",
        fault=code,
        message=f"{uuid} could not be read: {taken.error}",
        covered_s=track.covered_s if track else 0.0,
    )


def _read(board: Board, taken: _BoardSample, step: Step, slow_call_s: float) -> Reading:
    uuid = board.gpu.uuid
    fault, message = step.fault, step.message
    if fault is None and board.counter and taken.counter_error is not None:
        fault, message = taken.counter_error.code, f"the energy counter fails: {taken.counter_error}"
    if fault is None and taken.took_s > slow_call_s:
        fault, message = "slow", f"one read took {taken.took_s:.1f} s in the driver"
    return Reading(
        key=uuid,
        monotonic_s=taken.sample.monotonic_s,
        energy=step.energy,
        kind=step.kind,
        power_w=taken.sample.power_w,
        fault=fault,
        message=None if message is None else f"{uuid}: {message}",
        covered_s=step.track.covered_at(taken.sample.monotonic_s, step.kind),
        late_s=taken.sample.late_s,
    )
