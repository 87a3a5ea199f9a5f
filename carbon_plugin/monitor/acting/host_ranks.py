"""Find out what the training threads of a host's ranks do from the kernel's accounts, without asking them.

Each process looks at its own training thread beside the training, and tells the others of its host in the folder where
they meet. A rank that is never blocked keeps the others waiting in their collectives.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import msgspec
from msgspec import Struct

from carbon_plugin.monitor.acting.samples import RankShare
from carbon_plugin.monitor.clock import TrainingClock

SUFFIX = ".signals"
_NS = 1e9
_MOST_BYTES = 200
"""More than three numbers of the kernel take."""


class RankState(Struct, frozen=True, kw_only=True):
    """Holds what one rank reports: the time by the host's monotonic clock, the last step boundary, and sums of its
    training thread since its start, s: running on a CPU, being ready to run without one, and waiting for data.
    """

    rank: int
    at_s: float
    steps: int
    mark_s: float
    cpu_s: float
    delay_s: float
    data_s: float


_decoder = msgspec.json.Decoder(RankState)


class ThreadTimes(NamedTuple):
    """Holds the seconds that a thread ran on a CPU, and those that it was ready to run and had none."""

    cpu_s: float
    delay_s: float


class TrainingThread:
    """Reads the kernel's account of the thread that makes this object. `times` may be called on another thread."""

    def __init__(self) -> None:
        self._file = f"/proc/self/task/{threading.get_native_id()}/schedstat"

    def times(self) -> ThreadTimes | None:
        """Return the sums since the thread began, or None on a system that does not provide them."""
        try:
            file = os.open(self._file, os.O_RDONLY)
            try:
                cpu_ns, delay_ns, _ = os.read(file, _MOST_BYTES).split()
            finally:
                os.close(file)
        except (OSError, ValueError):
            return None
        return ThreadTimes(int(cpu_ns) / _NS, int(delay_ns) / _NS)

    def state(self, rank: int, clock: TrainingClock) -> RankState | None:
        """Return what this rank reports now."""
        times, mark = self.times(), clock.mark
        if times is None:
            return None
        return RankState(
            rank=rank,
            at_s=time.monotonic(),
            steps=clock.base_step + mark.steps,
            mark_s=mark.monotonic_s,
            cpu_s=times.cpu_s,
            delay_s=times.delay_s,
            data_s=clock.data_wait_s,
        )


class HostRanks:
    """Computes shares of the time from the reports of a host's ranks, as differences between two looks."""

    def __init__(self) -> None:
        self._before: dict[int, RankState] = {}

    def look(self, told: Sequence[bytes], step_time_s: float) -> Mapping[int, RankShare]:
        """Return the shares since the last look, by rank. `told` are the reports of living ranks."""
        now: dict[int, RankState] = {}
        for message in told:
            try:
                state = _decoder.decode(message)
            except msgspec.MsgspecError:  # another version wrote it
                continue
            now[state.rank] = state
        behind = _behind_steps(now, step_time_s)
        shares = {}
        for rank, state in now.items():
            before = self._before.get(rank)
            took_s = state.at_s - before.at_s if before is not None else 0.0
            if before is not None and took_s > 0:
                shares[rank] = RankShare(
                    busy=_share(state.cpu_s - before.cpu_s, took_s),
                    delayed=_share(state.delay_s - before.delay_s, took_s),
                    data=_share(state.data_s - before.data_s, took_s),
                    behind_steps=behind.get(rank, 0.0),
                )
        self._before = now
        return shares


def _share(part_s: float, whole_s: float) -> float:
    return min(1.0, max(0.0, part_s / whole_s))


def _behind_steps(states: Mapping[int, RankState], step_time_s: float) -> dict[int, float]:
    """Return by how many steps each rank is behind the others, from the moments at which all reach the last step."""
    if len(states) < 2 or step_time_s <= 0:
        return {}
    last = max(state.steps for state in states.values())
    reach_s = {rank: state.mark_s + (last - state.steps) * step_time_s for rank, state in states.items()}
    found = {}
    for rank, moment_s in reach_s.items():
        others = median(moment for other, moment in reach_s.items() if other != rank)
        found[rank] = max(0.0, (moment_s - others) / step_time_s)
    return found
