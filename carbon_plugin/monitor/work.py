"""Do the work of one process for its host and its run: meter the host or stand by, and on rank 0 project the run.

Everything here runs on the monitor thread, except `submit` and `note`, which only put something into a queue.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from carbon_plugin.detect.observed import Detected
from carbon_plugin.detect.stages import own_stages, with_all_stages
from carbon_plugin.ledger.held.expected import LEFT, UNMETERED_EVENT
from carbon_plugin.ledger.held.launches import ANOTHER_JOB_EVENT, SKEW_EVENT
from carbon_plugin.ledger.records import RunIdentity
from carbon_plugin.meters.host.machine import read_host_info
from carbon_plugin.monitor.clock import TrainingClock, WallClock
from carbon_plugin.monitor.context import Context, build_context
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.intensity import IntensityWatch
from carbon_plugin.monitor.launch import launch_of, next_training
from carbon_plugin.monitor.node.baseline import Baseline
from carbon_plugin.monitor.node.duty import LOOK_S, Duty, Task
from carbon_plugin.monitor.node.journal import Journal
from carbon_plugin.monitor.node.leader import Claim, Election
from carbon_plugin.monitor.node.metering import JobHardware, open_host_meters
from carbon_plugin.monitor.node.missing_gpus import warning_of
from carbon_plugin.monitor.node.neighbours import EVENT as SHARED_EVENT
from carbon_plugin.monitor.node.neighbours import Neighbours
from carbon_plugin.monitor.node.recorder import NodeRecorder
from carbon_plugin.monitor.node.reserved import RESERVED_TIME
from carbon_plugin.monitor.node.same_writer import SameWriter
from carbon_plugin.monitor.node.scratch import open_scratch
from carbon_plugin.monitor.node.sharing import SHARED_MACHINE
from carbon_plugin.monitor.node.witness import Witness
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.run.collector import RUN_ID_VARIABLE
from carbon_plugin.monitor.run.exchange import Exchange
from carbon_plugin.monitor.run.place import RunPlace
from carbon_plugin.monitor.run.projector import Projected, Projector, doubts
from carbon_plugin.monitor.run.skew import skew_message
from carbon_plugin.monitor.settings import Settings
from carbon_plugin.monitor.voice import closing, opening, say

logger = logging.getLogger(__name__)
LOOK_AROUND_S = 60.0
"""The leader looks once in so many seconds whether a process of its host sees a GPU that nobody meters."""


class Seen(Struct, frozen=True):
    """What the training thread read from live objects, and the UUIDs of the GPUs that this rank computes on."""

    detected: Detected
    uuids: tuple[str, ...]


class Live(Struct, frozen=True):
    """The latest figures for the training thread: the metrics, the head of the ledger, and a version that grows."""

    metrics: dict[str, float]
    head: str | None
    version: int


class MonitorWork:
    """The work of the monitor thread of one process, a `thread.Body`. It meters, records, projects, and writes the
    lines for the user."""

    def __init__(
        self,
        *,
        settings: Settings,
        ranks: Ranks,
        run_dir: Path,
        clock: TrainingClock,
        guard: Guard,
        versions: Mapping[str, str],
        environ: Mapping[str, str],
    ) -> None:
        self.live = Live({}, None, 0)
        self._settings = settings
        self._ranks = ranks
        self._run_dir = run_dir
        self._clock = clock
        self._wall = WallClock()
        self._guard = guard
        self._versions = dict(versions)
        self._environ = dict(environ)
        self._inbox: deque[Seen | tuple[str, str]] = deque(maxlen=1000)
        self._detected: Detected | None = None
        self._hardware = JobHardware(reserved=None, keys=(), accelerator=None)
        self._context: Context | None = None
        self._place: RunPlace | None = None
        self._identity: RunIdentity | None = None
        self._duty: Duty | None = None
        self._election: Election | None = None
        self._journal: Journal | None = None
        self._recorder: NodeRecorder | None = None
        self._projector: Projector | None = None
        self._exchange: Exchange | None = None
        self._reserved_since_unix_s = 0.0
        self._looked_around_s = 0.0
        self._witness = Witness(run_dir, ranks.node, ranks.nodes)
        self._stated_claims: list[Claim] = []
        self._missed: set[str] = set()
        self._said_opening = False
        self._doubted: set[str] = set()
        self._same: SameWriter | None = None
        self._neighbours: Neighbours | None = None

    def submit(self, seen: Seen) -> None:
        """Queue what was read from live objects."""
        self._inbox.append(seen)

    def note(self, kind: str, message: str) -> None:
        """Queue an event, which is recorded at the next tick."""
        self._inbox.append((kind, message))

    def forget(self) -> None:
        """Close files in a forked child, and leave to the parent what belongs to it."""
        for held in (self._election, self._neighbours):
            if held is not None:
                held.forget()

    @property
    def poll_interval_s(self) -> float | None:
        """Return how often `tick` must be called, s: as often as the meters must be read, or more often while it is
        open which process meters what."""
        if self._duty is not None and not self._duty.decided:
            return LOOK_S
        return self._recorder.poll_interval_s if self._recorder else None

    def open(self) -> None:
        """Agree on the run, elect the leader of the host, and begin to record if this process has something to
        meter."""
        settings, ranks = self._settings, self._ranks
        charged = RESERVED_TIME.begin(self, self._environ)
        SHARED_MACHINE.begin(self)
        self._reserved_since_unix_s = self._wall.now_unix_s() - charged.before_s
        baseline = Baseline(self._clock)  # before anything that takes time: energy used from here on is recorded
        if charged.note is not None:
            self.note("reserved_time", charged.note)
        self._place = RunPlace(self._run_dir, settings, self._environ)
        self._identity = self._place.identity
        self._looked_around_s = time.monotonic()
        self._election = Election(self._meeting(self._identity.run_id), open_scratch(), ranks.rank)
        self._duty = Duty(settings, ranks, self._environ, self._election, baseline)
        self._hardware = self._duty.hardware
        self._stand()
        self._exchange = self._guard.run("collector", self._connected, None)
        if self._recorder is None:
            self._context = self._built()
        if ranks.rank == 0:
            self._projector = self._opened_projector()
        self._guard.run("opening line", self._say_opening, None)
        if self._recorder is not None:
            # Asked now, so that the first window has a live value and counts like all others.
            self._guard.run("live intensity", self._recorder.refresh_intensity, None)

    def tick(self, *, due: bool) -> None:
        """Read the meters. If a window is due, end it and project the run."""
        self._empty_inbox()
        if self._recorder is None:
            if due or (self._duty is not None and not self._duty.decided):
                self._stand()
        elif due:
            self._recorder.cut()
            self._guard.run("claims", self._state_late_claims, None)
            self._guard.run("claims", self._look_around, None)
        else:
            self._recorder.poll()
        self._guard.run("opening line", self._say_opening, None)
        if due:
            if self._place is not None:
                self._place.keep()
            self._guard.run("report to the collector", self._report, None)
            self._guard.run("projection", self._project, None)
            if self._recorder is not None and self._witness.is_due:
                self._guard.run("heads", self._note_heads, None)
            # This comes last, because it may wait for an answer and must not delay the rest of the tick.
            if self._recorder is not None:
                self._guard.run("live intensity", self._recorder.refresh_intensity, None)

    def close(self, reason: str) -> None:
        """Write the last window, the last projection and the closing record."""
        try:
            self._close(reason)
        finally:
            RESERVED_TIME.end(self)
            SHARED_MACHINE.end(self)

    def _close(self, reason: str) -> None:
        if self._duty is not None and not self._duty.decided:
            self._guard.run("metering", lambda: self._stand(now=True), None)
        self._empty_inbox()
        if self._recorder is not None:
            self._guard.run("last window", self._recorder.cut, None)
            self._guard.run("claims", self._state_late_claims, None)
            self._guard.run("report to the collector", self._report, None)
            self._guard.run("projection", self._project, None)
            self._guard.run("heads", self._note_heads, None)
            self._guard.run("another job", partial(self._look_for_another_job, last=True), None)
            self._empty_inbox()
            self._recorder.close(reason)
            self._show({})
        heard = {self._ranks.rank, *(claim.rank for claim in self._stated_claims)}
        if self._election is not None:
            heard |= {claim.rank for claim in self._election.claims()}
            self._election.end()
        self._guard.run("closing line", lambda: self._say_closing(heard), None)
        if self._exchange is not None:
            self._exchange.close()

    def _opened_projector(self) -> Projector:
        collector = self._exchange.collector if self._exchange else None
        return Projector(self._run_dir, self._journal, nodes=self._ranks.nodes, wall=self._wall, collector=collector)

    def _connected(self) -> Exchange:
        """Return the exchange for nodes that share no directory: rank 0 listens, and the others know where to
        report."""
        assert self._identity is not None  # agreed in `open`
        return Exchange(
            self._run_dir,
            self._identity.run_id,
            self._ranks,
            self._environ,
            stated=bool(self._settings.options.run_id or self._environ.get(RUN_ID_VARIABLE)),
            note=partial(self.note, "collector"),
        )

    def _report(self) -> None:
        if self._exchange is not None and self._journal is not None:
            self._exchange.report(self._journal)
            self._exchange.look()

    def _meeting(self, run_id: str) -> str:
        """Return the name of the place where the processes of this launch meet on this host."""
        launch = launch_of(self._environ, alone=self._ranks.world_size == 1)
        number = next_training(run_id)
        return f"{read_host_info(environ=self._environ).key}/{run_id}/{launch}/{self._ranks.node}/{number}"

    def _stand(self, *, now: bool = False) -> None:
        """Record what no other process of the host meters, as soon as that is clear."""
        assert self._duty is not None  # made in `open`
        if self._duty.baseline is not None:
            self._duty.baseline.poll()
        for task in self._duty.decide(now=now):
            if task.until_s is None:
                self._recorder = self._record(task)
                if self._context is not None:
                    self._note_context(self._context)
                if self._projector is not None:
                    self._projector = self._opened_projector()
            else:
                self._guard.run("what was before local rank 0", partial(self._record_until, task, task.until_s), None)
        if self._duty.decided:
            self._duty.release()

    def _record(self, task: Task) -> NodeRecorder:
        """Open the meters and the ledger, and return the recorder."""
        place = self._place
        assert place is not None  # made in `open`, before anything is recorded
        assert self._duty is not None
        meters = open_host_meters(
            self._settings,
            self._hardware,
            self._environ,
            gpus=task.gpus,
            host=task.host,
            nodes=self._ranks.nodes,
        )
        warning = warning_of(meters, self._settings, self._hardware.cut_off) if task.host else None
        if warning is not None:
            kind, sentence = warning
            logger.warning("carbon_plugin: %s", sentence)
            if kind is not None:
                self.note(kind, sentence)
        # Local rank 0, or the rank that follows it, writes the node's ledger. Other ranks write ledgers of their own.
        of_node = task.until_s is None and (self._ranks.local_rank == 0 or task.follows)
        rank = None if of_node else self._ranks.rank
        gpus = [device.key for device in meters.devices if device.rung == "gpu"]
        neighbours = None
        if task.until_s is None:
            since_s = self._duty.baseline.since_s if self._duty.baseline is not None else time.monotonic()
            neighbours = Neighbours(open_scratch(), place.identity.run_id, self._settings.name, gpus, since_s)
            self._neighbours = neighbours
        journal = Journal(
            lambda: place.open_writer(self._ranks.node, rank),
            lambda sentence: self.note("ledger_trouble", sentence),
        )
        if task.until_s is None:
            self._journal = journal
            if journal.file is not None:
                self._same = SameWriter(self._run_dir, journal.file)
        self._stated_claims = self._election.claims() if self._election is not None else []
        self._context = self._built()
        site = self._context.effective.site
        recorder = NodeRecorder(
            settings=self._settings,
            ranks=self._ranks,
            identity=place.identity,
            context=self._context,
            meters=meters,
            intensity=self._guard.run(
                "live intensity",
                lambda: IntensityWatch(site, self._environ),
                IntensityWatch(None, self._environ),
            ),
            journal=journal,
            clock=self._clock,
            wall=self._wall,
            guard=self._guard,
            versions=self._versions,
            reserved_since_unix_s=self._reserved_since_unix_s,
            takes_over=task.follows,
            claims=self._stated_claims,
            baseline=self._duty.baseline,
            neighbours=neighbours,
        )
        self._guard.run("heads", lambda: self._witness.look(recorder, journal.file, complete=True), None)
        return recorder

    def _record_until(self, task: Task, moment_s: float) -> None:
        """Record what this process metered of GPUs up to the moment at which another process began to meter them."""
        recorder = self._record(task)
        recorder.cut(moment_s)
        recorder.close(LEFT)

    def _look_around(self) -> None:
        """Say once that another job writes in this directory, or that a process of this host sees a GPU that nobody
        meters."""
        file = self._journal.file if self._journal is not None else None
        if self._same is None and file is not None:
            self._same = SameWriter(self._run_dir, file)
        self._look_for_another_job()
        if self._neighbours is not None and (news := self._neighbours.news()) is not None:
            self._warn(SHARED_EVENT, news)
        now_s = time.monotonic()
        if self._duty is None or now_s - self._looked_around_s < LOOK_AROUND_S:
            return
        self._looked_around_s = now_s
        missed = [key for key in self._duty.unmetered() if key not in self._missed]
        if missed:
            self._missed.update(missed)
            sentence = f"{', '.join(missed)}: seen by the job on this host and metered by none of its processes"
            self._warn(UNMETERED_EVENT, sentence, {"gpus": missed})

    def _look_for_another_job(self, *, last: bool = False) -> None:
        if self._same is not None and (said := self._same.look(last=last)) is not None:
            self._warn(ANOTHER_JOB_EVENT, said)

    def _warn(self, kind: str, sentence: str, data: dict[str, object] | None = None) -> None:
        """Record an event and tell the user at once."""
        if self._recorder is not None:
            self._recorder.note(kind, sentence, data)
        logger.warning("carbon_plugin: %s", sentence)

    def _empty_inbox(self) -> None:
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, Seen):
                self._guard.run("effective spec", lambda seen=item: self._take(seen), None)  # type: ignore[misc]
            elif self._recorder is not None:
                self._recorder.note(*item)

    def _take(self, seen: Seen) -> None:
        """Resolve the effective spec again and write it into the manifest."""
        self._detected = seen.detected
        if self._election is not None and self._duty is not None:
            self._duty.tell(uuids=list(seen.uuids), stages=list(own_stages(seen.detected)), looked=True)
            self._stated_claims = self._election.claims()
        self._context = self._built()
        self._state()
        self._note_context(self._context)

    def _state(self) -> None:
        """Write the manifest again, with the ranks on each GPU as far as they have claimed them."""
        if self._recorder is not None and self._context is not None:
            self._recorder.state(self._context, self._stated_claims)

    def _state_late_claims(self) -> None:
        """Write the manifest again if ranks have told more since the last one. Most ranks tell at their next window
        what they saw in their first step, and some begin later."""
        if self._election is None or _said(self._stated_claims) >= self._ranks.local_world_size:
            return
        claims = self._election.claims()
        if _said(claims) > _said(self._stated_claims) or _seen_by(claims) > _seen_by(self._stated_claims):
            self._stated_claims = claims
            if any(claim.stages for claim in claims):
                self._context = self._built()  # more stages of the model are known than before
            self._state()

    def _note_context(self, context: Context) -> None:
        for kind, sentence in context.notes:
            if self._recorder is not None:
                self._recorder.note(kind, sentence)

    def _built(self) -> Context:
        detected = self._detected
        if detected is not None:
            detected = with_all_stages(detected, [part for claim in self._stated_claims for part in claim.stages])
        return build_context(self._settings, self._ranks, detected, self._hardware.accelerator)

    def _project(self) -> None:
        if self._projector is None or self._context is None:
            self._show({})
            return
        steps = self._clock.mark.steps
        projected = self._projector.project(self._context, self._clock.base_step + steps)
        self._warn_once(projected, steps)
        if self._recorder is not None:
            self._recorder.record(projected.record)
            if projected.skews_s:
                self._recorder.note(SKEW_EVENT, skew_message(projected.skews_s), {"offsets_s": projected.skews_s})
        self._show(projected.metrics)

    def _say_opening(self) -> None:
        """Say the opening line on rank 0, as soon as it is clear which process meters what."""
        if self._ranks.rank != 0 or self._said_opening or self._context is None:
            return
        if self._recorder is None and (self._duty is None or not self._duty.decided):
            return
        self._said_opening = True
        if not self._settings.quiet:
            devices = self._recorder.devices if self._recorder is not None else None
            has_site = self._context.effective.site is not None
            say(opening(devices, self._run_dir, nodes=self._ranks.nodes, has_site=has_site))

    def _say_closing(self, heard: set[int]) -> None:
        """Say the closing line on rank 0, when the other ledgers of its launch have ended or have had a short time to
        end."""
        projector, context = self._projector, self._context
        if projector is None or context is None:
            return
        being_written, ledgers, unheard = projector.settle(heard, self._ranks.node, self._ranks.local_world_size)
        projected = projector.project(context, self._clock.base_step + self._clock.mark.steps)
        self._show(projected.metrics)
        if self._settings.quiet:
            return
        record = projected.record
        say(
            closing(
                step=record.step,
                energy_j=record.spent_energy_j,
                spent=projected.spent,
                nodes_seen=record.nodes_seen,
                nodes=record.nodes,
                run_dir=self._run_dir,
                being_written=being_written,
                ledgers=ledgers,
                unheard=unheard,
            )
        )

    def _warn_once(self, projected: Projected, steps: int) -> None:
        """Warn once of each doubt about the numbers of steps, when it shows."""
        stated = self._settings.step is not None
        for kind, sentence in doubts(
            projected.record, steps=steps, reached_before=0 if stated else projected.reached_before
        ):
            if kind not in self._doubted:
                self._doubted.add(kind)
                self.note(kind, sentence)
                logger.warning("carbon_plugin: %s", sentence)

    def _note_heads(self) -> None:
        """Write down the heads of other ledgers. Rank 0 notes those of all ledgers, as far as it has read them."""
        if self._recorder is None or self._journal is None:
            return
        if self._projector is None:
            self._witness.look(self._recorder, self._journal.file)
        else:
            self._witness.note(self._recorder, self._projector.heads())

    def _show(self, metrics: dict[str, float]) -> None:
        head = self._journal.head if self._journal else None
        self.live = Live(metrics or self.live.metrics, head, self.live.version + 1)


def _said(claims: Sequence[Claim]) -> int:
    """Return how many ranks have told what they saw in their first step."""
    return sum(claim.looked for claim in claims)


def _seen_by(claims: Sequence[Claim]) -> set[str]:
    return {key for claim in claims for key in claim.sees}
