"""Keep the two clocks of a training: the one that counts its steps and phases, and the wall clock that labels its
moments.

The training thread counts steps and notes phases without a lock, I/O, a device or an allocation that grows. It replaces
one tuple at every step. Assignment is atomic under the interpreter's lock, so the monitor thread reads a consistent
mark at any time.

Durations are never taken from the wall clock. The offset between the wall clock and the monotonic clock is fixed when
the process starts, and follows the wall clock only as slowly as NTP slews it. A jump of the wall clock is therefore not
followed: windows go on joining without a gap, and `WallClock.ahead_s` says by how much the wall clock differs from the
labels, so that the audit can correct them. Time that the machine sleeps is followed at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from carbon_plugin.ledger.held.clocks import CLOCK_STEP_S
from carbon_plugin.ledger.records import KNOWN_PHASES, OTHER_PHASE, Phase

_MAX_TRANSITIONS = 65_536
_MOST_LOOKS = 10
_LOOK_AGAIN_S = 1e-4
"""Another thread looks so often at most, and waits so long between, until the steps and their tokens agree."""
_AT_ONCE_S = 1e-3
"""Clocks that are read within this time, s, are taken for those of one moment."""
MAX_SLEW = 5e-4
"""The offset between the two clocks changes by at most this many seconds a second, as much as NTP slews."""
MAX_OWN = 16
"""A training may name this many phases of its own. The limit is needed because a name with a step number in it would be
a new phase at each step."""
MAX_LENGTH = 40


class Mark(NamedTuple):
    """Holds the last step boundary.

    It holds the number of steps that ended since this process started, the monotonic moment of the last one, s, and the
    tokens that the whole job has processed. `uncounted` is the number of steps that came without a number of tokens.
    """

    steps: int
    monotonic_s: float
    tokens: int
    uncounted: int


class Transition(NamedTuple):
    """Holds the moment at which a phase began, with the last step boundary before it."""

    monotonic_s: float
    phase: Phase
    mark: Mark


def last_mark(moment_s: float, marks: Sequence[Mark]) -> Mark:
    """Return the mark of the most steps among the first one and those that are not after the moment.

    The marks may come in any order: a process that is held up notes those of its changes of phase and those of its
    readings long after each other.
    """
    return max([marks[0], *(mark for mark in marks[1:] if mark.monotonic_s <= moment_s)], key=lambda mark: mark.steps)


class TrainingClock:
    """One instance counts the steps and phases of one training thread. It calls `wake` at a phase change at which a
    window should end, and `failed` with an exception of `step_end`, which raises none."""

    # The attributes lie beside each other in memory, because a step finds none of them in a cache.
    __slots__ = (
        "_entered_s", "_last", "_mark", "_min_window_s", "_now", "_told", "_transitions", "_wake", "attend", "attended",
        "base_step", "cut_s", "data_wait_s", "ended_s", "failed", "phase", "start",
    )  # fmt: skip

    def __init__(
        self,
        wake: Callable[[], None],
        min_window_s: float,
        now: Callable[[], float] = time.monotonic,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self.start = Mark(0, now(), 0, 0)
        # The steps so far with the moment of the last one. The tokens so far, with the steps that told them, and the
        # last of those steps.
        self._mark: tuple[int, float] = (0, self.start.monotonic_s)
        self._told: tuple[int, int, int] = (0, 0, 0)
        self._last: Mark | None = None
        self.failed = failed
        self.phase: Phase = "startup"
        self.base_step = 0
        """The step of the run at which this process began to count: the steps of the run before it, less those that
        were undone since."""
        self.cut_s = self.start.monotonic_s
        """The monotonic moment at which the last window ended, s. The monitor thread sets it."""
        self.ended_s: float | None = None
        """The monotonic moment at which the training ended, s. It is None while the training goes on."""
        self.data_wait_s = 0.0
        """The seconds in the phase "data_wait" that have ended."""
        self._entered_s = self.start.monotonic_s
        self._wake = wake
        self._min_window_s = min_window_s
        self._now = now
        self._transitions: deque[Transition] = deque(maxlen=_MAX_TRANSITIONS)
        self.attend = True
        """This says whether the next step is to call `attended`. Any thread may set it."""
        self.attended: Callable[[], None] | None = None
        """The training thread calls this at the first step after `attend` was set. Steps that only count skip it."""

    @property
    def mark(self) -> Mark:
        """Return the last step boundary."""
        if self._last is not None:
            return self._last
        for _ in range(_MOST_LOOKS):
            noted, (steps, monotonic_s) = self._told, self._mark
            tokens, told, told_at = noted
            if told_at <= steps and noted is self._told:
                break
            time.sleep(_LOOK_AGAIN_S)  # the training thread is between the tokens of a step and the step itself
        return Mark(steps, monotonic_s, tokens, steps - told)

    def end(self) -> None:
        """Note that the training ends now and that no step follows."""
        self.ended_s = self._now()

    def leave(self) -> None:
        """Stop counting. A script may have kept `step_end` and may still call it."""
        self._last = self.mark

    def step_end(self, tokens: int | None = None) -> None:
        """Count an optimizer step that has ended. `tokens` is the number of tokens of the whole job, if the caller
        knows it."""
        # One plain tuple is replaced, in as few operations as possible: after a step our code is in no cache, so that
        # what it costs is the memory that it touches. There is no closure and no wrapper for the same reason.
        try:
            steps = self._mark[0] + 1
            if tokens is not None:
                total, told, _ = self._told
                self._told = (total + tokens, told + 1, steps)
            self._mark = (steps, self._now())
            if self.attend:
                self._attend()
        except Exception as error:
            if self.failed is None:
                raise
            self.failed(error)

    def tell(self, tokens: int) -> None:
        """Note the tokens of the whole job in the step that was counted last, which came without them."""
        total, told, _ = self._told
        self._told = (total + tokens, told + 1, self._mark[0])

    def enter(self, phase: Phase) -> Phase:
        """Begin a phase and return the one before it."""
        before = self.phase
        if phase != before:
            now = self._now()
            if before == "data_wait":
                self.data_wait_s += now - self._entered_s
            self._entered_s = now
            self.phase = phase
            if phase == "startup":
                self.attend = True
            self._transitions.append(Transition(now, phase, self.mark))
            # A window of less than seconds would be noise, because the counter steps every ~100 ms. It is apportioned.
            if now - self.cut_s >= self._min_window_s:
                self._wake()
        return before

    def _attend(self) -> None:
        self.attend = False  # first, so that nothing that is set meanwhile is lost
        if self.phase == "startup":
            self.enter("train")
        if self.attended is not None:
            self.attended()

    def until(self, moment_s: float) -> list[Transition]:
        """Return the transitions up to a monotonic moment without removing them. Only the monitor thread calls this."""
        noted = self._transitions.copy()  # copied in one step, because the training thread may add another meanwhile
        return [transition for transition in noted if transition.monotonic_s <= moment_s]

    def drain(self, until_s: float) -> list[Transition]:
        """Return the transitions up to a monotonic moment, and remove them."""
        drained = []
        while self._transitions and self._transitions[0].monotonic_s <= until_s:
            drained.append(self._transitions.popleft())
        return drained


class PhaseNames:
    """Holds the names of one training's phases: those that the tables know, and its own, such as "rollout".

    Any name is a phase. After sixteen own names, further ones are "other".
    """

    def __init__(self) -> None:
        self._named: dict[object, str] = {name: name for name in KNOWN_PHASES}
        self._own: set[str] = set()

    def named(self, phase: str) -> str:
        """Return the name under which the ledger records the phase."""
        known = self._named.get(phase)
        if known is not None:
            return known
        name = "".join(letter if letter.isprintable() else " " for letter in str(phase)).strip()[:MAX_LENGTH]
        if not name or (name not in self._own and len(self._own) >= MAX_OWN):
            return OTHER_PHASE
        self._own.add(name)
        self._named[phase] = name
        return name


def boot_clock_s() -> float:
    """Return the seconds since the machine was started, time asleep included. Without such a clock, return the
    monotonic clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class WallClock:
    """Gives moments of the monotonic clock their Unix time, and notes when the wall clock is set or the machine sleeps.

    `ahead_s` is by how many seconds the wall clock was ahead of the labels at the last `adjust`.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
        boot: Callable[[], float] = boot_clock_s,
    ) -> None:
        self._now, self._unix, self._boot = now, unix, boot
        self._adjusted_s, boot_s, unix_s = self._one_moment()
        self._asleep_s = boot_s - self._adjusted_s
        self._offset_s = unix_s - self._adjusted_s
        self.ahead_s = 0.0

    def unix_s(self, monotonic_s: float) -> float:
        """Return the label of a monotonic moment, in Unix seconds."""
        return monotonic_s + self._offset_s

    def boot_s(self, monotonic_s: float) -> float:
        """Return a monotonic moment in seconds since the machine was started."""
        return monotonic_s + self._asleep_s

    def now_unix_s(self) -> float:
        """Return the label of this moment, in Unix seconds."""
        return self.unix_s(self._now())

    def adjust(self) -> float:
        """Follow the sleep of the machine and the slewing of the wall clock since the last call, and return the seconds
        of sleep. Ask for the labels of moments before the sleep before you call this."""
        now, boot_s, unix_s = self._one_moment()
        asleep_s = boot_s - now
        slept_s = max(0.0, asleep_s - self._asleep_s)
        self._asleep_s = asleep_s
        self._offset_s += slept_s
        behind_s = unix_s - now - self._offset_s
        if abs(behind_s) <= CLOCK_STEP_S:
            limit_s = MAX_SLEW * (now - self._adjusted_s)
            slewed_s = min(limit_s, max(-limit_s, behind_s))
            self._offset_s += slewed_s
            behind_s -= slewed_s
        self._adjusted_s = now
        self.ahead_s = behind_s
        return slept_s

    def _one_moment(self) -> tuple[float, float, float]:
        """Return the monotonic clock, the clock since the start of the machine and the Unix time of one moment, s.

        They are read again where time has passed meanwhile. A process that is stopped between two of them would take
        the stop for a sleep of the machine, or for a step of its wall clock.
        """
        reads = []
        for _ in range(_MOST_LOOKS):
            now = self._now()
            read = now, self._boot(), self._unix()
            took_s = self._now() - now
            reads.append((took_s, read))
            if took_s <= _AT_ONCE_S:
                break
        return min(reads)[1]
