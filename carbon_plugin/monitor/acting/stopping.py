"""Follow a request to stop, on rank 0, until all ranks have agreed on a step (`stop_agreement`)."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from carbon_plugin.monitor.acting.stop_agreement import Proposal, StopAgreement
from carbon_plugin.monitor.clock import TrainingClock

FEWEST_AHEAD = 3
"""A proposed step is at least this many steps ahead: a host may run ahead of its GPU by some steps."""
SLACK_S = 2.0
MOST_NAMED = 8
"""A sentence names at most this many ranks."""


class StopRequest(Struct, frozen=True, kw_only=True):
    """Holds a message of rank 0 about a request to stop: an event kind and a sentence."""

    kind: str
    message: str
    at_step: int | None = None


class Stopper:
    """Follows, on rank 0, a request to stop until all ranks have agreed. Only the monitor thread uses it.

    `look_every_s` is the longest time between two looks of a rank. `say` takes each `StopRequest` for the record.
    """

    MOST_TRIES = 5

    def __init__(
        self, agreement: StopAgreement, look_every_s: float, say: Callable[[StopRequest], None], clock: TrainingClock
    ) -> None:
        self._agreement = agreement
        self._look_every_s = look_every_s
        self._say = say
        self._clock = clock
        self._reason: str | None = None
        self._seen = clock.mark
        self._step_time_s: float | None = None
        self._said = 0
        self._announced = self._complained = self._hindered = False

    def ask(self, reason: str) -> None:
        """Ask for a stop, for a reason. A second call changes nothing."""
        if self._reason is None:
            self._reason = reason

    def tick(self) -> None:
        """Propose a step, or decide about the proposal that is open. Raises `OSError`."""
        agreement = self._agreement
        self._measure()
        if self._reason is None:
            return
        if agreement.is_open:
            agreement.gather()
        decided = agreement.decided
        if decided is not None:
            if not self._announced:
                self._announced = True
                self._say(
                    StopRequest(
                        kind="budget_stop",
                        message=f"all ranks stop after step {decided.at_step:,}: {decided.reason}",
                        at_step=decided.at_step,
                    )
                )
            if agreement.ignored and not self._complained:
                self._complained = True
                self._say(StopRequest(kind="budget_stop_ignored", message=_ignored(decided)))
            return
        if agreement.is_open:
            return
        why = agreement.hindrance()
        if why is not None:
            if not self._hindered:
                self._hindered = True
                self._say(StopRequest(kind="budget_stop_failed", message=f"training goes on, because rank 0 {why}"))
            return
        if agreement.tries > self._said:
            self._said = agreement.tries
            self._say(StopRequest(kind="budget_stop_failed", message=self._failure()))
        if agreement.tries < self.MOST_TRIES and self._step_time_s is not None:
            agreement.propose(self._reason, steps_ahead(self._step_time_s, self._look_every_s, agreement.tries))

    def _measure(self) -> None:
        """Keep the shortest mean step time between two calls, s. A step that is too far ahead costs only energy."""
        before, now = self._seen, self._clock.mark
        if now.steps > before.steps:
            took_s = (now.monotonic_s - before.monotonic_s) / (now.steps - before.steps)
            self._step_time_s = min(took_s, self._step_time_s or took_s)
            self._seen = now

    def _failure(self) -> str:
        missing, refusal = self._agreement.missing, self._agreement.refusal
        few, more = missing[:MOST_NAMED], " and others" if len(missing) > MOST_NAMED else ""
        who = refusal or "a rank was at the step before all answers were counted"
        if missing and refusal is None:
            who = f"rank {', '.join(map(str, few))}{more} had not answered"
        again = "a later step is proposed" if self._agreement.tries < self.MOST_TRIES else "no further step is proposed"
        return f"the ranks could not agree on a step to stop at, because {who}; training goes on, and {again}"


def steps_ahead(step_time_s: float, look_every_s: float, tries: int) -> int:
    """Return how many steps ahead a proposal must lie, so that all ranks have time to see it and its decision.

    Each rank looks at least once in `look_every_s` seconds. The time doubles with each try that came to nothing.
    """
    horizon_s = (2 * look_every_s + SLACK_S) * 2**tries
    return max(FEWEST_AHEAD, int(horizon_s / max(step_time_s, 1e-6)) + 1)


def _ignored(decided: Proposal) -> str:
    return (
        f"the training goes on although all ranks have agreed to stop after step {decided.at_step:,}: its loop must "
        "ask for should_stop after each step and end, or end at SIGTERM under carbon-plugin run (docs/budgets.md)"
    )
