"""Let all ranks of a run stop after the same step, without a collective and without messages on the step path.

Rank 0 proposes a step some way ahead, in a file of the run directory. The thread of each rank reads it beside the
training. A rank that has not done the step yet writes its acknowledgement. When all ranks have written theirs, rank 0
decides "stop" in a file that is written only once. The training thread of a rank compares its step with the proposed
one, which is an integer in memory.

The rule for a rank that is late: a rank that reaches the proposed step without knowing the decision writes "go on" into
that same file. Whoever writes first wins, and everybody obeys what is in the file. So either all ranks stop after that
step or none does, however slow a file system or a rank is, and no rank waits for another one. After "go on" rank 0
proposes a step that is further ahead. This is the one case in which a training thread touches a file, once a proposal.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from carbon_plugin.ledger.once import publish_once
from carbon_plugin.monitor.clock import TrainingClock

FOLDER = "stop"
"""The folder of the run directory in which ranks agree."""
NEVER = sys.maxsize
LOOK_S = 0.25
"""While a proposal is open, a rank looks this often, s."""
FEWEST_AHEAD = 3
"""A proposed step is at least this many steps ahead: a host may run ahead of its GPU by some steps."""
SLACK_S = 2.0
MOST_HALF_READ_S = 1.0
_STOP, _GO_ON = b"stop\n", b"go on\n"


class Proposal(Struct, frozen=True, kw_only=True):
    """A step after which the run is to stop, and why. Numbers rise over all attempts of a run."""

    number: int
    at_step: int
    reason: str


def steps_ahead(step_time_s: float, look_every_s: float, tries: int) -> int:
    """Return how many steps ahead a proposal is to be, so that all ranks have time to see it and its decision.

    Each rank looks at least once in `look_every_s` seconds. The time doubles with each try that came to nothing.
    """
    horizon_s = (2 * look_every_s + SLACK_S) * 2**tries
    return max(FEWEST_AHEAD, int(horizon_s / max(step_time_s, 1e-6)) + 1)


class StopAgreement:
    """One rank's part in the agreement. `at_step` is the step that the training thread compares with its own.

    `reached` belongs to the training thread, and `look`, `propose` and `gather` to the monitor thread. Proposals that
    were there before this process began are of earlier attempts and count for nothing.
    """

    def __init__(self, run_dir: Path, clock: TrainingClock, *, rank: int, world_size: int) -> None:
        self.at_step = NEVER
        self._folder = run_dir / FOLDER
        self._clock = clock
        self._rank, self._world_size = rank, world_size
        self._open: Proposal | None = None
        self._decided: Proposal | None = None
        self._acknowledged = False
        self.missing: tuple[int, ...] = ()
        """The ranks that had not acknowledged the last proposal of this process."""
        self.tries = 0
        """How many proposals of this process came to nothing."""
        self._done = max(self._numbers(self._names()), default=0)

    @property
    def decided(self) -> Proposal | None:
        """Return the proposal on which all ranks have agreed, or None."""
        return self._decided

    @property
    def is_open(self) -> bool:
        """Return whether a proposal waits for its decision."""
        return self._open is not None

    @property
    def step(self) -> int:
        """Return how many steps the run has done, as this rank counts them."""
        return self._clock.base_step + self._clock.mark.steps

    def reached(self, step: int) -> bool:
        """Return whether this rank must stop now, after the step. It compares two integers unless the step is that of
        a proposal."""
        if step < self.at_step:
            return False
        proposal = self._open
        if proposal is not None:
            # A rank that has acknowledged and cannot reach the folder stops, because the others decided so long before.
            self._settle(proposal, self._agreed(proposal, _GO_ON, unreachable=self._acknowledged))
        return self._decided is not None

    def look(self) -> None:
        """Read what has been proposed and decided. Raises `OSError` for a folder that cannot be read."""
        if self._decided is not None:
            return
        names = self._names()
        number = max(self._numbers(names), default=0)
        if number > self._done and (self._open is None or number > self._open.number):
            self._join(number)
        proposal = self._open
        if proposal is not None and f"{proposal.number}.decision" in names:
            self._settle(proposal, self._read_decision(proposal))

    def propose(self, reason: str, ahead: int) -> Proposal:
        """Publish a step that is `ahead` steps from now. Only rank 0 calls this. Raises `OSError`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        number = max(self._numbers(self._names()), default=0) + 1
        proposal = Proposal(number=number, at_step=self.step + ahead, reason=reason)
        publish_once(self._folder / f"{number}.json", msgspec.json.encode(proposal))
        self.missing = tuple(rank for rank in range(self._world_size) if rank != self._rank)
        self._join(number)
        return proposal

    def gather(self) -> None:
        """Decide "stop" once all ranks have acknowledged the open proposal. Only rank 0 calls this. Raises
        `OSError`."""
        proposal = self._open
        if proposal is None:
            return
        parts = [name.split(".") for name in self._names() if name.startswith(f"{proposal.number}.ack.")]
        bases = {int(part[2]): part[3] for part in parts}
        self.missing = tuple(rank for rank in range(self._world_size) if rank not in bases)
        if len(set(bases.values())) > 1:  # the same step number would be another step on some of them
            self._settle(proposal, self._agreed(proposal, _GO_ON, unreachable=None))
        elif not self.missing:
            self._settle(proposal, self._agreed(proposal, _STOP, unreachable=None))

    def _join(self, number: int) -> None:
        """Take a proposal, and acknowledge it unless this rank has done its step already."""
        try:
            proposal = msgspec.json.decode((self._folder / f"{number}.json").read_bytes(), type=Proposal)
        except msgspec.MsgspecError:  # half of it is there, on a file system without hard links
            return
        # The training thread sees the step before the count is read. So it cannot pass the step unseen after the
        # acknowledgement.
        self._acknowledged = False
        self._open = proposal
        self.at_step = proposal.at_step
        if self.step >= proposal.at_step:
            # Without this rank's acknowledgement nobody can have decided to stop.
            self._settle(proposal, self._agreed(proposal, _GO_ON, unreachable=False))
        else:
            self._acknowledged = True
            (self._folder / f"{number}.ack.{self._rank}.{self._clock.base_step}").touch()

    def _settle(self, proposal: Proposal, stops: bool | None) -> None:
        if stops is None or self._open is not proposal:
            return
        self._done = proposal.number
        if stops:
            self._decided, self._open = proposal, None
        else:
            self.at_step, self._open = NEVER, None
            self.tries += 1

    def _agreed(self, proposal: Proposal, wanted: bytes, *, unreachable: bool | None) -> bool | None:
        """Write a decision unless there is one, and return what is decided: whether all stop, or `unreachable` where
        the folder cannot be reached."""
        try:
            publish_once(self._folder / f"{proposal.number}.decision", wanted)
            return self._read_decision(proposal)
        except OSError:
            return unreachable

    def _read_decision(self, proposal: Proposal) -> bool | None:
        end_s = time.monotonic() + MOST_HALF_READ_S
        path = self._folder / f"{proposal.number}.decision"
        while time.monotonic() < end_s:
            content = path.read_bytes()
            if content in (_STOP, _GO_ON):
                return content == _STOP
            time.sleep(0.01)
        return None

    def withdraw(self) -> bool:
        """Take the acknowledgement back, because this rank cannot look any more, and return whether that is too late:
        whether all have agreed to stop."""
        proposal = self._open
        if proposal is not None:
            self._settle(proposal, self._agreed(proposal, _GO_ON, unreachable=self._acknowledged))
        return self._decided is not None

    def forget(self) -> None:
        """Remove the acknowledgements of this launch. Rank 0 calls this at the end."""
        with contextlib.suppress(OSError):
            for name in self._names():
                if ".ack." in name:
                    (self._folder / name).unlink(missing_ok=True)

    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    @staticmethod
    def _numbers(names: set[str]) -> list[int]:
        found = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return [int(number) for number in found if number.isdecimal()]


class StopRequest(Struct, frozen=True, kw_only=True):
    """What rank 0 says about a wish to stop: an event kind and a sentence."""

    kind: str
    message: str
    at_step: int | None = None


class Stopper:
    """On rank 0, follows a wish to stop until all ranks have agreed. Only the monitor thread uses it.

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
        self._announced = False

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
            return
        if agreement.is_open:
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
        missing = self._agreement.missing
        who = f"rank {', '.join(map(str, missing[:8]))} had not answered" if missing else "the ranks count other steps"
        again = "a later step is proposed" if self._agreement.tries < self.MOST_TRIES else "no further step is proposed"
        return f"the ranks could not agree on a step to stop at, because {who}; training goes on, and {again}"
