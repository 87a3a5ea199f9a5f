"""The two clocks of a training: the one that counts its steps, and the wall clock that labels their moments.

The training thread counts steps and notes phases without a lock, I/O, a device or an allocation that grows: one tuple
is replaced at every step, and assignment is atomic under the interpreter's lock, so that the monitor thread reads a
consistent mark at any time.

Durations are never taken from the wall clock. Its relation to the monotonic clock is fixed when the process starts and
follows it only as slowly as NTP slews it. A clock that somebody sets is therefore not followed: windows go on joining,
and `WallClock.ahead_s` says by how much the wall clock now differs from the labels, so that the audit can put them
right. Sleep of the machine is followed at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from carbon_plugin.ledger.held.clocks import CLOCK_STEP_S
from carbon_plugin.ledger.records import Phase

_MAX_TRANSITIONS = 65_536
MAX_SLEW = 5e-4
"""Seconds a second by which the relation of the two clocks may change, as NTP slews."""


class Mark(NamedTuple):
    """The last step boundary: steps ended since the start of this process, when, and the tokens of the whole job.

    `uncounted` steps came without a number of tokens."""

    steps: int
    monotonic_s: float
    tokens: int
    uncounted: int


class Transition(NamedTuple):
    """The moment a phase began, and the last step boundary before it."""

    monotonic_s: float
    phase: Phase
    mark: Mark


def last_mark(moment_s: float, marks: Sequence[Mark]) -> Mark:
    """Of marks in the order of time, the last one that is not after a moment; the first one where all are."""
    return next((mark for mark in reversed(marks) if mark.monotonic_s <= moment_s), marks[0])


class TrainingClock:
    """Counts for one training thread. `wake` is called at a phase change when a window should end."""

    def __init__(
        self, wake: Callable[[], None], min_window_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.start = Mark(0, now(), 0, 0)
        self._mark: tuple[int, float, int, int] = self.start
        self.phase: Phase = "startup"
        self.base_step = 0
        """What the steps of this process are counted on from: those of the run before it, less those undone since."""
        self.cut_s = self.start.monotonic_s
        """When the last window ended; the monitor thread sets it."""
        self.ended_s: float | None = None
        """When the training ended; None while it goes on."""
        self._wake = wake
        self._min_window_s = min_window_s
        self._now = now
        self._transitions: deque[Transition] = deque(maxlen=_MAX_TRANSITIONS)

    @property
    def mark(self) -> Mark:
        """The last step boundary."""
        return Mark(*self._mark)

    def end(self) -> None:
        """The training ends: no step follows."""
        self.ended_s = self._now()

    def step_end(self, tokens: int | None = None) -> None:
        """An optimizer step ended; `tokens` of the whole job if the caller knows them."""
        # A plain tuple: after a step our code is in no cache, and building a named one took a third of the call.
        steps, _, total, uncounted = self._mark
        if tokens is None:
            self._mark = (steps + 1, self._now(), total, uncounted + 1)
        else:
            self._mark = (steps + 1, self._now(), total + tokens, uncounted)
        if self.phase == "startup":
            self.enter("train")

    def enter(self, phase: Phase) -> Phase:
        """A phase begins; the one before it is returned."""
        before = self.phase
        if phase != before:
            now = self._now()
            self.phase = phase
            self._transitions.append(Transition(now, phase, self.mark))
            # The counter steps every ~100 ms: a window shorter than seconds would be noise, so it is apportioned.
            if now - self.cut_s >= self._min_window_s:
                self._wake()
        return before

    def until(self, moment_s: float) -> list[Transition]:
        """Transitions up to a moment, for the monitor thread."""
        noted = self._transitions.copy()  # in one step: the training thread may note another meanwhile
        return [transition for transition in noted if transition.monotonic_s <= moment_s]

    def drain(self, until_s: float) -> list[Transition]:
        """The same, which nobody asks for again."""
        drained = []
        while self._transitions and self._transitions[0].monotonic_s <= until_s:
            drained.append(self._transitions.popleft())
        return drained


def boot_clock_s() -> float:
    """Seconds since the machine was started, time asleep included; where there is no such clock, the monotonic one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class WallClock:
    """Unix time of moments of the monotonic clock, and what the wall clock and the machine did meanwhile.

    `ahead_s` is how far the wall clock is ahead of the labels as of the last `adjust`.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
        boot: Callable[[], float] = boot_clock_s,
    ) -> None:
        self._now, self._unix, self._boot = now, unix, boot
        self._adjusted_s = now()
        self._asleep_s = boot() - self._adjusted_s
        self._offset_s = unix() - self._adjusted_s
        self.ahead_s = 0.0

    def unix_s(self, monotonic_s: float) -> float:
        """Unix seconds of a monotonic moment, as its label."""
        return monotonic_s + self._offset_s

    def boot_s(self, monotonic_s: float) -> float:
        """The same moment by the clock that counts since the machine was started."""
        return monotonic_s + self._asleep_s

    def now_unix_s(self) -> float:
        """The label of this moment."""
        return self.unix_s(self._now())

    def adjust(self) -> float:
        """Follow what the machine slept and what the wall clock was slewed since the last call; returns the seconds
        that the machine slept. Labels of moments before the sleep must have been asked for before."""
        now = self._now()
        asleep_s = self._boot() - now
        slept_s = max(0.0, asleep_s - self._asleep_s)
        self._asleep_s = asleep_s
        self._offset_s += slept_s
        behind_s = self._unix() - now - self._offset_s
        if abs(behind_s) <= CLOCK_STEP_S:
            limit_s = MAX_SLEW * (now - self._adjusted_s)
            slewed_s = min(limit_s, max(-limit_s, behind_s))
            self._offset_s += slewed_s
            behind_s -= slewed_s
        self._adjusted_s = now
        self.ahead_s = behind_s
        return slept_s
