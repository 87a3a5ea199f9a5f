"""Let all ranks of a run stop after the same step, without a collective and without messages on the step path.

Rank 0 proposes a step some way ahead, on a board that all ranks can reach (`noticeboards`). The thread of each rank
reads it beside the training. A rank that has not done the step yet writes its acknowledgement. When all ranks have
written theirs, rank 0 decides "stop", which is written only once. The training thread of a rank compares its step with
the proposed one, which is an integer in memory.

The rule for a rank that is late: a rank that reaches the proposed step without knowing the decision writes "go on" in
that same place. Whoever writes first wins, and everybody obeys what is there. So either all ranks stop after that step
or none does, however slow the board or a rank is, and no rank waits for another one. After "go on" rank 0 proposes a
step that is further ahead, on the next board if some ranks had not answered. This is the one case in which a training
thread touches a board, once a proposal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from carbon_plugin.monitor.acting.noticeboards import ANSWER_S, DECISION_S, END, GO_ON, STOP, Noticeboard, Posted
from carbon_plugin.monitor.clock import TrainingClock

NEVER = sys.maxsize
LOOK_S = 0.25
"""While a proposal is open, a rank looks this often, s."""
MOST_AFTER = 10
"""A loop that asks whether to stop at every few steps may do so many more."""


class Proposal(Struct, frozen=True, kw_only=True):
    """Names a step after which the run is to stop, and why.

    `turn` counts the proposals of this launch over all boards, so that an older one never takes the place of a newer
    one. `base_step` is the step at which the counting of rank 0 began: the same number would be another step on a rank
    that began to count elsewhere.
    """

    turn: int
    at_step: int
    base_step: int
    reason: str


_decoder = msgspec.json.Decoder(Proposal)


class _Open(NamedTuple):
    """Holds a proposal that waits for its decision, its number, and the board that it is on."""

    proposal: Proposal
    number: int
    board: Noticeboard


class StopAgreement:
    """One rank's part in the agreement. `at_step` is the step that the training thread compares with its own.

    `reached` belongs to the training thread, and `look`, `propose` and `gather` to the monitor thread. `boards` are the
    places where the ranks may agree, the same on all ranks, the first choice first. `hindrance` says why this rank
    cannot end its training, in words that follow its name, or None where it can.
    """

    def __init__(
        self,
        boards: Sequence[Noticeboard],
        clock: TrainingClock,
        *,
        rank: int,
        world_size: int,
        hindrance: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.at_step = NEVER
        self.hindrance = hindrance
        self._boards = boards
        self._clock = clock
        self._rank, self._world_size = rank, world_size
        self._open: _Open | None = None
        self._decided: Proposal | None = None
        self._acknowledged = False
        self._told = False
        self._turn = 0
        self._moved = 0
        self.missing: tuple[int, ...] = ()
        """The ranks that had not acknowledged the last proposal of this process."""
        self.refusal: str | None = None
        """The reason why the last proposal of this process came to nothing, where a rank has said so."""
        self.tries = 0
        """The number of proposals of this process that came to nothing."""

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
        opened = self._open
        if opened is not None:
            self._decide(opened, GO_ON, unreachable=self._acknowledged, within_s=DECISION_S)
        self._told = self._decided is not None
        return self._told

    @property
    def obeyed(self) -> bool:
        """Return whether the training thread was told to stop and has done few steps since."""
        return self._told and not self.ignored

    @property
    def ignored(self) -> bool:
        """Return whether the training went on long after the step on which all ranks have agreed."""
        return self._decided is not None and self.step > self._decided.at_step + MOST_AFTER

    def look(self) -> None:
        """Read what has been proposed and decided. Raises `OSError` for a board that cannot be read."""
        if self._decided is not None:
            return
        failure: OSError | None = None
        if self._open is None:
            for board in self._boards:
                try:
                    found = board.newest()
                    if found is not None:
                        self._see(_proposal_of(found), found.number, board)
                except OSError as error:
                    failure = error
        opened = self._open
        if opened is not None:
            self._settle(opened, opened.board.decision(opened.number))
        if failure is not None:
            raise failure

    def propose(self, reason: str, ahead: int) -> Proposal:
        """Publish a step that is `ahead` steps from now. Only rank 0 calls this. Raises `OSError`."""
        there = [board for board in self._boards if board.is_there]
        if not there:
            raise OSError("there is no place where the ranks can agree")
        board = there[self._moved % len(there)]
        base, turn = self._clock.base_step, self._turn + 1
        proposal = Proposal(turn=turn, at_step=self.step + ahead, base_step=base, reason=reason)
        number = board.publish(msgspec.json.encode(proposal))
        self.missing = tuple(rank for rank in range(self._world_size) if rank != self._rank)
        self.refusal = None
        self._see(proposal, number, board)
        return proposal

    def gather(self) -> None:
        """Decide "stop" once all ranks have acknowledged the open proposal. Only rank 0 calls this. Raises
        `OSError`."""
        opened = self._open
        if opened is None:
            return
        self.missing = opened.board.missing(opened.number, range(self._world_size))
        if not self.missing:
            self._decide(opened, STOP, unreachable=None)

    def withdraw(self) -> bool:
        """Take the acknowledgement back, because this rank cannot look any more. Return whether that is too late,
        because all ranks have agreed to stop.
        """
        opened = self._open
        if opened is not None:
            self._decide(opened, GO_ON, unreachable=self._acknowledged)
        return self._decided is not None

    def close(self) -> None:
        """End the use of the boards."""
        for board in self._boards:
            board.close(removes=self._rank == 0)

    def _see(self, proposal: Proposal, number: int, board: Noticeboard) -> None:
        """Take a new proposal, and acknowledge it unless this rank cannot stop there. An old proposal is ignored."""
        if proposal.turn <= self._turn:
            return
        self._turn = proposal.turn
        opened = _Open(proposal, number, board)
        # The training thread sees the step before the count is read. So it cannot pass the step unseen after the
        # acknowledgement.
        self._acknowledged = False
        self._open = opened
        self.at_step = proposal.at_step
        refusal = None
        if self.step >= proposal.at_step:
            refusal = f"rank {self._rank} had done step {proposal.at_step:,} when it read of it"
        elif self._clock.base_step != proposal.base_step:  # the same number would be another step
            refusal = f"rank {self._rank} began to count at step {self._clock.base_step:,}, and rank 0 at step "
            refusal += f"{proposal.base_step:,}"
        elif (why := self.hindrance()) is not None:
            refusal = f"rank {self._rank} {why}"
        if refusal is not None:
            # Without this rank's acknowledgement nobody can have decided to stop.
            self._decide(opened, GO_ON.removesuffix(END) + f": {refusal}\n".encode(), unreachable=False)
        else:
            self._acknowledged = True
            board.acknowledge(number, self._rank)

    def _decide(
        self, opened: _Open, wanted: bytes, *, unreachable: bool | None, within_s: float = ANSWER_S
    ) -> None:  # fmt: skip
        """Write a decision unless there is one, and obey the one that is there.

        Where the board cannot be reached, `unreachable` says whether this rank stops. A rank that has acknowledged
        does, because the others decided so long before. None leaves it open.
        """
        try:
            self._settle(opened, opened.board.decide(opened.number, wanted, within_s))
        except OSError:
            if unreachable is not None:
                self._settle(opened, STOP if unreachable else GO_ON)

    def _settle(self, opened: _Open, decision: bytes | None) -> None:
        if decision is None or self._open is not opened:
            return
        if decision == STOP:
            self._decided, self._open = opened.proposal, None
            return
        self.at_step, self._open = NEVER, None
        self.tries += 1
        self.refusal = decision.decode(errors="replace").strip().partition(": ")[2] or None
        if self.missing and self.refusal is None:
            self._moved += 1


def _proposal_of(posted: Posted) -> Proposal:
    """Return what is posted. Raises `OSError` for what another version has written."""
    try:
        return _decoder.decode(posted.content)
    except msgspec.MsgspecError as error:
        raise OSError(f"a proposal to stop cannot be read: {error}") from error
