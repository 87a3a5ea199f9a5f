"""Do the part of a process's work that concerns its node: agree with the other processes of the host who meters what,
and record what this one meters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct

from carbon_plugin.detect.observed import Detected
from carbon_plugin.detect.stages import own_stages, with_all_stages
from carbon_plugin.ledger.held.expected import LEFT, UNMETERED_EVENT
from carbon_plugin.meters.host.machine import read_host_info
from carbon_plugin.monitor.context import Context, build_context
from carbon_plugin.monitor.job import WatchedJob
from carbon_plugin.monitor.ledgers.place import RunPlace
from carbon_plugin.monitor.node.baseline import Baseline
from carbon_plugin.monitor.node.declared_tokens import DeclaredTokens
from carbon_plugin.monitor.node.duty import LOOK_S, Duty, Task
from carbon_plugin.monitor.node.later_end import tell_end
from carbon_plugin.monitor.node.metering import look_at_hardware
from carbon_plugin.monitor.node.recording import NodeRecording
from carbon_plugin.monitor.processes.launch import launch_of, next_training
from carbon_plugin.monitor.processes.leader import HOST, Claim, Election
from carbon_plugin.monitor.processes.scratch import open_scratch
from carbon_plugin.monitor.ranks import Others
from carbon_plugin.spec.numbers.amounts import plural, verb

LEFT_EVENT = "left_unmetered"
LATE_GPUS_EVENT = "gpus_beside_late"
LOOK_AROUND_S = 60.0
"""The leader looks once in so many seconds whether a process of its host sees a GPU that nobody meters."""


class Seen(Struct, frozen=True):
    """Holds what the training thread read from live objects, and the UUIDs of the GPUs that this rank computes on."""

    detected: Detected
    uuids: tuple[str, ...]


class NodeWork:
    """Decides what this process meters of its host, records it, and keeps the context that the record states.

    `recording` is None as long as this process has nothing to meter. Only the monitor thread uses this object.
    """

    def __init__(self, job: WatchedJob, place: RunPlace, baseline: Baseline, reserved_since_unix_s: float) -> None:
        self.recording: NodeRecording | None = None
        self._job = job
        self._place = place
        self._reserved_since_unix_s = reserved_since_unix_s
        self._detected: Detected | None = None
        self._context: Context | None = None
        self._stated_claims: list[Claim] = []
        self._looked_around_s = time.monotonic()
        self._missed: set[str] = set()
        self._told_late = False
        self._undone: list[Task] = []
        self._until: NodeRecording | None = None
        self._declared_tokens = DeclaredTokens()
        self._told_alone: dict[str, bytes] = {}
        # What may find no file to open comes before the meeting: a process comes to it once.
        hardware, ranks = look_at_hardware(job.settings, baseline.shown, job.environ), job.ranks
        scratch = open_scratch()
        self._election = Election(_meeting(job, place.identity.run_id), scratch, ranks.rank, ranks.local_world_size)
        try:
            self._duty = Duty(job.settings, job.ranks, job.environ, self._election, baseline, hardware)
        except BaseException:
            self._election.end()
            raise

    @property
    def decided(self) -> bool:
        """Return whether it is decided what this process meters, and whether it does."""
        return self._duty.decided and not self._undone

    @property
    def context(self) -> Context:
        """Return the job as far as it is known."""
        if self._context is None:
            self._context = self._built()
        return self._context

    @property
    def poll_interval_s(self) -> float | None:
        """Return how often `tick` must be called, s: as often as the meters must be read, or more often while it is
        open which process meters what."""
        if self.recording is None:
            return None if self.decided else LOOK_S
        return self.recording.recorder.poll_interval_s

    def stand(self, *, now: bool = False) -> bool:
        """Record what no other process of the host meters, as soon as that is decided. Return whether a recording has
        begun. `now` asks for a decision at once, because the training ends.

        What cannot be recorded at this moment, because no file can be opened, is recorded at a later call.
        """
        if self._duty.baseline is not None:
            self._duty.baseline.poll()
        begun = False
        # The devices of a task are held from the decision on, so that no later decision names them.
        self._undone = self._undone or self._duty.decide(now=now)
        while self._undone:
            task = self._undone[0]
            if task.until_s is None:
                self.recording = self._record(task, self.recording)
                self._note_context()
                begun = True
            else:
                self._job.guard.run(
                    "what was before local rank 0",
                    partial(self._record_until, task, task.until_s),
                    None,
                    begins=not now,  # no later call follows the one at the end
                )
            del self._undone[0]
        if self._duty.decided:
            self._duty.release()
            self._tell_file()
        return begun

    def tick(self, *, due: bool) -> bool:
        """Read the meters, and end the window if it is due. Return whether a recording has begun."""
        if self.recording is None:
            return (due or not self.decided) and self.stand()
        if due and self._job.guard.run("what others have left", self.stand, False):
            return True
        if due:
            self.recording.recorder.cut()
            self._tell_file()
            self.state_late_claims()
            self._job.guard.run("claims", self._look_around, None)
            self.compare_tokens()
        else:
            self.recording.recorder.poll()
        return False

    def take(self, seen: Seen) -> None:
        """Resolve the effective spec again and write it into the manifest."""
        self._detected = seen.detected
        self._duty.tell(uuids=list(seen.uuids), stages=list(own_stages(seen.detected)), looked=True)
        self._stated_claims = self._election.claims()
        self._context = self._built()
        self._state()
        self._note_context()

    def compare_tokens(self, *, last: bool = False) -> None:
        """Warn once, on rank 0, where the script declares other tokens of a step than were counted."""
        if self._job.ranks.rank == 0:
            self._job.guard.run("tokens", partial(self._compare_tokens, last=last), None)

    def state_late_claims(self) -> None:
        """Write the manifest again if ranks have told more since the last one. Most ranks tell at their next window
        what they saw in their first step, and some begin later."""
        self._job.guard.run("claims", self._state_late_claims, None)

    def await_claims(self, within_s: float) -> float:
        """Wait at most `within_s` seconds until the other ranks of the host have told what they saw, and return how
        long that took, s. Only the leader waits, whose ledger speaks for ranks without one.

        Ranks end together, and a rank that ends before its first window tells only then.
        """
        began_s = time.monotonic()
        while self._awaits_claims() and time.monotonic() - began_s < within_s:
            time.sleep(LOOK_S)
        return time.monotonic() - began_s

    def tell_host(self, suffix: str, told: Struct) -> None:
        """Publish a message for the processes of this host. A process that is alone on its host writes no file for
        that.
        """
        content = msgspec.json.encode(told)
        if self._job.ranks.local_world_size > 1:
            self._election.publish(suffix, content)
        else:
            self._told_alone[suffix] = content

    def told_on_host(self, suffix: str) -> list[bytes]:
        """Return the messages of this host's living processes under a suffix."""
        alone = self._told_alone.get(suffix)
        return self._election.published(suffix) if alone is None else [alone]

    def note_left(self) -> None:
        """Say what another process of the host has metered until it ended, and nobody since."""
        recording, ends_s = self.recording, None if self.recording is None else self.recording.recorder.ends_s
        if recording is None or ends_s is None:
            return
        least_s = self._duty.least_left_s
        for key, since_s in self._duty.left_since().items():
            if ends_s - since_s >= least_s:
                what = "CPU, memory and network of this host" if key == HOST else key
                sentence = (
                    f"{what}: not metered in the last {ends_s - since_s:.1f} s, because the process that did has ended"
                )
                recording.warn(LEFT_EVENT, sentence, {"key": key, "duration_s": ends_s - since_s})

    def tell_end(self) -> None:
        """Say in a ledger without windows for how long this process has trained on after those that metered its devices
        have ended."""
        taken = self._duty.take_for_the_record()
        if taken:
            self._stated_claims = self._election.claims()
            file = tell_end(
                self._job,
                self._place,
                self.context,
                self._stated_claims,
                taken=taken,
                follows=self._election.followed,
                reserved_since_unix_s=self._reserved_since_unix_s,
            )
            self._election.tell_file(file)  # a process that ends later still goes on from there

    def end(self) -> Others:
        """Give up the devices of this process in an orderly way, and return what is known of the others of the host.

        A living rank that has no ledger yet, and may get one, was not heard of: what it has used is in none.
        """
        rank = self._job.ranks.rank
        heard = {claim.rank for claim in (*self._stated_claims, *self._election.claims())}
        living = [claim for claim in self._election.claims(living=True) if claim.rank != rank]
        heard -= {claim.rank for claim in living if claim.file is None}
        self._election.end(None if self.recording is None else self.recording.recorder.ends_s)
        return Others(heard | {rank}, {claim.file for claim in living if claim.file})

    def _record(self, task: Task, before: NodeRecording | None = None) -> NodeRecording:
        self._stated_claims = self._election.claims()
        self._context = self._built()
        return NodeRecording(
            self._job,
            self._place,
            self._duty,
            task,
            self._context,
            self._stated_claims,
            self._reserved_since_unix_s,
            before,
        )

    def _tell_file(self) -> None:
        """Tell the other processes the name of the ledger, or that this process writes none."""
        file = "" if self.recording is None else self.recording.journal.file
        self._election.tell_file(file or "")
        self._duty.tell_file(file)

    def _record_until(self, task: Task, moment_s: float) -> None:
        """Record what this process metered of GPUs up to the moment at which another process began to meter them."""
        self._until = self._until or self._record(task)  # a later call goes on with what one before has opened
        self._until.recorder.cut(moment_s)
        self._until.recorder.close(LEFT)
        self._until = None

    def _look_around(self) -> None:
        """Warn of other users of this node's devices and files, and once of GPUs that nobody meters."""
        recording = self.recording
        if recording is None:
            return
        recording.look_around()
        now_s = time.monotonic()
        if now_s - self._looked_around_s < LOOK_AROUND_S:
            return
        self._looked_around_s = now_s
        missed = [key for key in self._duty.unmetered() if key not in self._missed]
        if missed:
            self._missed.update(missed)
            sentence = f"{', '.join(missed)}: seen by the job on this host and metered by none of its processes"
            recording.warn(UNMETERED_EVENT, sentence, {"gpus": missed})

    def _compare_tokens(self, *, last: bool) -> None:
        said = self._declared_tokens.look(self._job.clock.mark, self.context.effective, last=last)
        if said is not None and self.recording is not None:
            self.recording.warn("difference", said)

    def _state(self) -> None:
        """Write the manifest again, with the ranks on each GPU as far as they have claimed them."""
        if self.recording is not None:
            self.recording.recorder.state(self.context, self._stated_claims)

    def _state_late_claims(self) -> None:
        ranks = self._job.ranks.local_world_size
        if ranks == 1 or _said(self._stated_claims) >= ranks:  # a rank that is alone states its own claim at once
            return
        claims = self._election.claims()
        if _said(claims) > _said(self._stated_claims) or _seen_by(claims) > _seen_by(self._stated_claims):
            self._stated_claims = claims
            if any(claim.stages for claim in claims):
                self._context = self._built()  # more stages of the model are known than before
            self._state()
        self._note_late_gpus()

    def _awaits_claims(self) -> bool:
        """Return whether a living rank of this leader's host is yet to tell what it saw in its first step.

        Where this rank has looked at nothing, as in a training without a model to look at, no other is expected to.
        """
        if self._detected is None or HOST not in self._election.held:
            return False
        if _said(self._stated_claims) >= self._job.ranks.local_world_size:
            return False
        return not all(claim.looked for claim in self._election.claims(living=True))

    def _note_late_gpus(self) -> None:
        """Say once that GPUs were heard of after the host's share was decided."""
        late, recording = len(self._duty.seen_beside()) - self._duty.beside, self.recording
        if late > 0 and recording is not None and HOST in self._election.held and not self._told_late:
            self._told_late = True
            sentence = (
                f"{plural(late, 'GPU')} of this job on this host {verb(late, 'was', 'were')} heard of too late: CPU, "
                "memory and network of the host are charged without what they draw for them"
            )
            recording.warn(LATE_GPUS_EVENT, sentence)

    def _note_context(self) -> None:
        if self.recording is not None:
            for kind, sentence in self.context.notes:
                self.recording.recorder.note(kind, sentence)

    def _built(self) -> Context:
        detected = self._detected
        if detected is not None:
            detected = with_all_stages(detected, [part for claim in self._stated_claims for part in claim.stages])
        return build_context(self._job.settings, self._job.ranks, detected, self._duty.hardware.accelerator)


def _meeting(job: WatchedJob, run_id: str) -> str:
    """Return the name of the place where the processes of this launch meet on this host."""
    launch = launch_of(job.environ, alone=job.ranks.world_size == 1)
    number = next_training(run_id)
    return f"{read_host_info(environ=job.environ).key}/{run_id}/{launch}/{job.ranks.node}/{number}"


def _said(claims: Sequence[Claim]) -> int:
    """Return how many ranks have reported what they saw in their first step."""
    return sum(claim.looked for claim in claims)


def _seen_by(claims: Sequence[Claim]) -> set[str]:
    return {key for claim in claims for key in claim.sees}
