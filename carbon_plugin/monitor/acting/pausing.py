"""Pause a training after a checkpoint while the grid is dirty, where that saves carbon after the cost of idling.

Rank 0 proposes a pause by the what-if of the rest of the run, on a board that all ranks can reach (`noticeboards`), and
decides for it once all ranks have acknowledged. So either all ranks pause until the same moment or none does. All ranks
wait by themselves, so that none waits in a collective that would time out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from carbon_plugin.errors import FootprintError
from carbon_plugin.monitor.acting.noticeboards import DECISION_S, GO_ON, STOP, Noticeboard
from carbon_plugin.plan.whatif.pausing import PauseSchedule, schedule
from carbon_plugin.spec.numbers.units import GRAMS_PER_KG, JOULES_PER_KWH
from carbon_plugin.spec.parsing.moment import iso_utc

if TYPE_CHECKING:
    from carbon_plugin.footprint.series.trace import Trace

ANSWER_S = 60.0
"""A rank waits so long for the others at a checkpoint, s."""
MOST_IN_VAIN = 3
"""A rank that has waited for rank 0 so many times in a row without a word from it only looks, and waits no more."""
LOOK_S = 0.2
MOST_SLEEP_S = 60.0
NO_PAUSE = 0.0


class RestOfRun(Struct, frozen=True, kw_only=True):
    """Says what the rest of a run takes: time, power of its machines in training and in idling, W, PUE, and the
    embodied carbon that is charged a second, kg.
    """

    remaining_s: float
    running_w: float
    idle_w: float
    pue: float
    embodied_kg_per_s: float


class _Pause(Struct, frozen=True, kw_only=True):
    """Holds what rank 0 publishes at a checkpoint: the step, and until when all ranks are to pause, or `NO_PAUSE`."""

    step: int
    until_unix_s: float


_decoder = msgspec.json.Decoder(_Pause)


class PausePlan(Struct, frozen=True, kw_only=True):
    """Describes a pause that saves carbon: its end, and by how much the rest of the run emits less with all of its
    pauses.
    """

    until_unix_s: float
    saved_kg: float


def pause_of(
    forecast: str, rest: RestOfRun, *, now_unix_s: float, above_g_per_kwh: float, most_s: float
) -> PausePlan | None:
    """Return the pause that begins now, as `worth_pausing` does, with a file of intensity for the hours to come."""
    from carbon_plugin.footprint.series.file import load_trace

    trace = load_trace(forecast)
    return worth_pausing(trace, rest, now_unix_s=now_unix_s, above_g_per_kwh=above_g_per_kwh, most_s=most_s)


def worth_pausing(
    trace: Trace, rest: RestOfRun, *, now_unix_s: float, above_g_per_kwh: float, most_s: float
) -> PausePlan | None:
    """Return the pause that begins now, or None where the grid is clean enough or waiting does not save.

    The rest of the run with pauses above the threshold is compared with the rest without any: energy of training at its
    hours, energy of idling at those of the pauses, and the manufacture of the longer reservation. A pause lasts at most
    `most_s` seconds.
    """
    present, known = trace.mean(now_unix_s, 1.0)
    if known <= 0 or present <= above_g_per_kwh:
        return None
    try:
        through = schedule(trace, now_unix_s, rest.remaining_s, pause_above=None)
        pausing = schedule(trace, now_unix_s, rest.remaining_s, pause_above=above_g_per_kwh)
    except FootprintError:  # the trace ends before the work is done, so that nobody knows whether waiting saves
        return None
    saved_kg = _emitted_kg(through, rest) - _emitted_kg(pausing, rest)
    until_unix_s = _clean_from(trace, now_unix_s, above_g_per_kwh)
    if saved_kg <= 0 or until_unix_s is None or until_unix_s - now_unix_s > most_s:
        return None
    return PausePlan(until_unix_s=until_unix_s, saved_kg=saved_kg)


class PauseAgreement:
    """One rank's part in the agreement on pauses. Only the training thread uses it, while it waits at a checkpoint.

    `boards` are the places where the ranks may agree, the same on all ranks.
    """

    def __init__(self, boards: Sequence[Noticeboard], *, rank: int, world_size: int) -> None:
        self.missing: tuple[int, ...] = ()
        """The ranks that had not acknowledged the last pause that rank 0 proposed."""
        self.unknown_was_told = False
        """Whether the user knows that no pause can be planned, because something is not known."""
        self._boards = boards
        self._rank, self._world_size = rank, world_size
        self._in_vain = 0

    def agree(self, step: int, plan: PausePlan | None, *, answer_s: float = ANSWER_S) -> float:
        """Return until when all ranks pause after the step, Unix s, or `NO_PAUSE`. `plan` is that of rank 0.

        Each rank waits at most `answer_s` seconds for the others. Boards that cannot be reached, a rank that does not
        answer and a decision that does not come in time are no pause.
        """
        if self._world_size == 1:
            return NO_PAUSE if plan is None else plan.until_unix_s
        self.missing = ()
        try:
            return self._propose(step, plan, answer_s) if self._rank == 0 else self._follow(step, answer_s)
        except (OSError, msgspec.MsgspecError):
            return NO_PAUSE

    def close(self) -> None:
        """End the use of the boards."""
        for board in self._boards:
            board.close(removes=self._rank == 0)

    def _propose(self, step: int, plan: PausePlan | None, answer_s: float) -> float:
        # A try that comes to nothing costs all ranks the wait, so that the store that they surely share comes first.
        board = next(board for board in reversed(self._boards) if board.is_there)
        until_unix_s = NO_PAUSE if plan is None else plan.until_unix_s
        number = board.publish(msgspec.json.encode(_Pause(step=step, until_unix_s=until_unix_s)))
        if plan is None:
            return NO_PAUSE
        board.acknowledge(number, self._rank)

        def all_answered() -> bool:
            self.missing = board.missing(number, range(self._world_size))
            return not self.missing

        wanted = STOP if _wait_for(all_answered, answer_s) else GO_ON
        return until_unix_s if board.decide(number, wanted, DECISION_S) == STOP else NO_PAUSE

    def _follow(self, step: int, answer_s: float) -> float:
        found: list[tuple[Noticeboard, int, _Pause]] = []

        def proposed() -> bool:
            for board in self._boards:
                with contextlib.suppress(OSError):  # a directory that only rank 0 has
                    posted = board.newest()
                    pause = None if posted is None else _decoder.decode(posted.content)
                    if posted is not None and pause is not None and pause.step == step:
                        found.append((board, posted.number, pause))
                        return True
            return False

        if not _wait_for(proposed, answer_s if self._in_vain < MOST_IN_VAIN else 0.0):
            self._in_vain += 1
            return NO_PAUSE
        self._in_vain = 0
        ((board, number, pause),) = found
        if pause.until_unix_s == NO_PAUSE:
            return NO_PAUSE
        board.acknowledge(number, self._rank)
        # Rank 0 may wait for its answers as long as this rank has waited for rank 0.
        _wait_for(lambda: board.decision(number) is not None, 2 * answer_s)
        return pause.until_unix_s if board.decide(number, GO_ON, DECISION_S) == STOP else NO_PAUSE


def _wait_for(happened: Callable[[], bool], within_s: float) -> bool:
    """Ask again and again for at most this many seconds, and return whether the condition has become true."""
    end_s = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > end_s:
            return False
        time.sleep(LOOK_S)
    return True


def sleep_for(within_s: float) -> None:
    """Sleep for this many seconds by the monotonic clock."""
    end_s = time.monotonic() + within_s
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, MOST_SLEEP_S))


def sentence_of(plan: PausePlan, above_g_per_kwh: float) -> str:
    """Return a sentence on a pause that begins."""
    return (
        f"paused until {iso_utc(plan.until_unix_s)}, because the grid is above {above_g_per_kwh:g} g/kWh: the rest of "
        f"the run emits {plan.saved_kg:.3g} kgCO2e less so, after what idling costs"
    )


def failure_of(missing: tuple[int, ...]) -> str:
    """Return a sentence on a pause that was not made. `missing` are ranks that had not answered."""
    who = f"rank {', '.join(map(str, missing))} had not answered" if missing else "the ranks could not agree on it"
    return f"no pause, although one would save, because {who}; call pause_where_it_saves on all ranks after a step"


def _emitted_kg(plan: PauseSchedule, rest: RestOfRun) -> float:
    grams_per_joule: float = 1 / JOULES_PER_KWH
    training_g = rest.running_w * plan.trained_s * plan.training_g_per_kwh * grams_per_joule
    pausing_g = rest.idle_w * plan.paused_s * plan.paused_g_per_kwh * grams_per_joule
    emitted_kg: float = rest.pue * (training_g + pausing_g) / GRAMS_PER_KG
    return emitted_kg + rest.embodied_kg_per_s * plan.elapsed_s


def _clean_from(trace: Trace, now_unix_s: float, above_g_per_kwh: float) -> float | None:
    """Return the first moment from now on at which the trace is at or below the threshold."""
    for start, value in zip(trace.start_unix_s.tolist(), trace.g_per_kwh.tolist(), strict=True):
        if start > now_unix_s and value <= above_g_per_kwh:
            return float(start)
    return None
