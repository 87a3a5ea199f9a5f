"""Do the work of the monitor thread of one process, in its order: for the node first, and then for the run.

Everything here runs on the monitor thread, except `submit` and `note`, which only put something into a queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from msgspec import Struct

from carbon_plugin.ledger.records import Record
from carbon_plugin.monitor.acting.host_ranks import TrainingThread
from carbon_plugin.monitor.acting.pausing import PauseAgreement, RestOfRun
from carbon_plugin.monitor.acting.stop_agreement import StopAgreement
from carbon_plugin.monitor.acting.work import ActingWork
from carbon_plugin.monitor.clock import TrainingClock, WallClock
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.job import WatchedJob
from carbon_plugin.monitor.ledgers.place import RunPlace
from carbon_plugin.monitor.node.baseline import Baseline
from carbon_plugin.monitor.node.recorder import NodeRecorder
from carbon_plugin.monitor.node.recording import NodeRecording
from carbon_plugin.monitor.node.work import NodeWork, Seen
from carbon_plugin.monitor.processes.reserved import RESERVED_TIME
from carbon_plugin.monitor.processes.sharing import SHARED_MACHINE
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.run.metrics import never_back
from carbon_plugin.monitor.run.rows import description_of, row_of
from carbon_plugin.monitor.run.work import RunWork
from carbon_plugin.monitor.running import Presence, RunningCall
from carbon_plugin.monitor.settings.settings import Settings
from carbon_plugin.sinks.row import Row, RunDescription, without_outlook

SETTLE_S = 1.5
"""The end of a training waits at most this many seconds in all for the other processes of its launch: for what they
have to tell, and for the ends of their ledgers."""


class Live(Struct, frozen=True):
    """Holds the latest figures for the training thread: the metrics, the head of the ledger, and a version that
    grows.
    """

    metrics: dict[str, float]
    head: str | None
    version: int


class MonitorWork:
    """Does the work of the monitor thread of one process, as a `thread.Body`. It meters, records, projects, and writes
    the lines for the user.
    """

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
        look_every_s: float,
        hindrance: Callable[[], str | None],
        call: RunningCall | None,
    ) -> None:
        self.live = Live({}, None, 0)
        self.last_row: Row | None = None
        self._described: tuple[Context, RunDescription] | None = None
        self._thread = TrainingThread()  # the training thread makes this object
        self._look_every_s = look_every_s
        self._acting: ActingWork | None = None
        self._presence = Presence(call, clock, settings.options.min_window_s)
        self.left = False
        """Whether the training was left, although nobody has ended it."""
        self._inbox: deque[Seen | tuple[str, str]] = deque(maxlen=1000)
        self._job = WatchedJob(
            settings=settings,
            ranks=ranks,
            run_dir=run_dir,
            versions=dict(versions),
            environ=dict(environ),
            clock=clock,
            wall=WallClock(),
            guard=guard,
            note=self.note,
            hear=self._hear,
            hindrance=hindrance,
        )
        self._reserved_since_unix_s: float | None = None
        self._baseline: Baseline | None = None
        self._place: RunPlace | None = None
        self._node: NodeWork | None = None
        self._run: RunWork | None = None
        self._of_budget: dict[str, float] = {}

    def submit(self, seen: Seen) -> None:
        """Queue what was read from live objects."""
        self._inbox.append(seen)

    def note(self, kind: str, message: str) -> None:
        """Queue an event, which is recorded at the next tick."""
        self._inbox.append((kind, message))

    @property
    def poll_interval_s(self) -> float | None:
        """Return how often `tick` must be called, s, or None if that does not matter."""
        asked = [part.poll_interval_s for part in (self._node, self._acting) if part is not None]
        return min((interval_s for interval_s in asked if interval_s is not None), default=None)

    @property
    def stop(self) -> StopAgreement | None:
        """Return the agreement of the ranks on a step to stop at, or None where nothing may stop the run."""
        return self._acting.stop if self._acting is not None else None

    @property
    def pause(self) -> PauseAgreement | None:
        """Return the agreement of the ranks on pauses, or None before this work has begun."""
        return self._acting.pause if self._acting is not None else None

    @property
    def rest(self) -> RestOfRun | None:
        """Return what the rest of the run takes, if rank 0 knows it."""
        return self._acting.rest if self._acting is not None else None

    def open(self) -> None:
        """Agree on the run, elect the leader of the host, and begin to record if this process has something to
        meter. Each part is made once, in however many calls."""
        job = self._job
        if self._reserved_since_unix_s is None:
            charged = RESERVED_TIME.begin(self, job.environ)
            self._reserved_since_unix_s = job.wall.now_unix_s() - charged.before_s
            SHARED_MACHINE.begin(self)
            if charged.note is not None:
                self.note("reserved_time", charged.note)
        if self._baseline is None:  # before anything that takes time: energy used from here on is recorded
            self._baseline = Baseline(job.clock)
        if self._place is None:
            self._place = RunPlace(job.run_dir, job.settings, job.environ)
        if self._node is None:
            self._node = NodeWork(job, self._place, self._baseline, self._reserved_since_unix_s)
            for kind, sentence in job.settings.notes:
                self.note(kind, sentence)
        if self._acting is None:
            self._acting = job.guard.run("acting", self._opened_acting, None, begins=True)
        node = self._node
        node.stand()
        self._run = RunWork(job, self._place, node.recording)
        self._say_opening(node, self._run)
        if node.recording is not None:
            # Asked now, so that the first window has a live value and counts like all others.
            job.guard.run("live intensity", node.recording.recorder.refresh_intensity, None)

    def tick(self, *, due: bool) -> None:
        """Read the meters. If a window is due, end it and project the run."""
        node, run = self._node, self._run
        assert node is not None  # all of them are made in `open`
        assert run is not None
        assert self._place is not None
        guard = self._job.guard
        self.left = due and guard.run("presence", self._presence.left, False)
        self._empty_inbox()
        if node.tick(due=due):
            run.follow(node.recording)
        self._say_opening(node, run)
        if due:
            # Who writes a ledger keeps the identity beside it, and makes nothing where the directory was moved away.
            if node.recording is not None and not node.recording.journal.has_moved:
                self._place.keep()
            self._report_and_project(node, run)
        if self._acting is not None:
            self._acting.tick(node, run.suspects() if due else (), due=due)
        if due:
            guard.run("rows", lambda: self._hand_over(node), None)
            recording = node.recording
            if recording is not None:
                if recording.witness.is_due:
                    guard.run("heads", partial(run.note_heads, recording), None)
                # This comes last, because it may wait for an answer and must not delay the rest of the tick.
                guard.run("live intensity", recording.recorder.refresh_intensity, None)

    def close(self, reason: str) -> None:
        """Write the last window, the last projection and the closing record."""
        try:
            self._close(reason)
        finally:
            RESERVED_TIME.end(self)
            SHARED_MACHINE.end(self)

    def _close(self, reason: str) -> None:
        node, run, guard = self._node, self._run, self._job.guard
        waited_s = 0.0
        if node is None:
            return
        if node.recording is None:
            begun = guard.run("metering", lambda: node.stand(now=True), False)
            if begun and run is not None:
                run.follow(node.recording)
        if node.recording is None:
            guard.run("what others have left", node.tell_end, None)
        self._empty_inbox()
        recording = node.recording
        if recording is not None:
            guard.run("last window", recording.recorder.cut, None)
            guard.run("what others have left", node.note_left, None)
            waited_s = guard.run("claims", partial(node.await_claims, SETTLE_S), 0.0)
            node.state_late_claims()
            node.compare_tokens(last=True)
            if run is not None:
                self._report_and_project(node, run)
                guard.run("heads", partial(run.note_heads, recording), None)
            guard.run("another job", partial(recording.look_for_another_job, last=True), None)
            if self._acting is not None:
                self._acting.close()
                reason = self._acting.reason(reason)
            self._empty_inbox()
            recording.recorder.close(reason)
            self._show({})
        others = node.end()
        if run is not None:
            left_s = max(0.0, SETTLE_S - waited_s)
            settle = partial(run.settle, node.context, others, stopped=self._stopped, within_s=left_s)
            settled = guard.run("closing line", settle, None)
            if settled is not None:
                self._show(without_outlook(settled.projected.metrics | self._of_budget))
                guard.run("closing line", lambda: run.say_closing(settled, node.recording), None)
            run.close()
        self.last_row = guard.run("rows", lambda: self._row(node, ended=True), None)

    def _hand_over(self, node: NodeWork) -> None:
        """Hand the figures of the window to the sinks of the user."""
        row = self._row(node)
        if row is not None:
            self._job.settings.loggers.put(row)

    def _row(self, node: NodeWork, *, ended: bool = False) -> Row | None:
        """Return the latest figures for the sinks, or None where there are no sinks or no figures."""
        job, live, recording = self._job, self.live, node.recording
        if not (job.settings.loggers.has_sinks and live.metrics and self._place is not None):
            return None
        if self._described is None or self._described[0] is not node.context:
            self._described = node.context, description_of(self._place.identity, node.context, job.run_dir, job.environ)
        return row_of(
            live.metrics,
            self._described[1],
            step=job.clock.base_step + job.clock.mark.steps,
            at_unix_s=job.wall.now_unix_s(),
            head=live.head,
            totals=recording.journal.totals if recording is not None else None,
            ended=ended,
        )

    def _say_opening(self, node: NodeWork, run: RunWork) -> None:
        """Print the opening line as soon as it is decided which process meters what."""
        if node.decided:
            self._job.guard.run("opening line", lambda: run.say_opening(node.context, node.recording), None)

    def _report_and_project(self, node: NodeWork, run: RunWork) -> None:
        guard, recording = self._job.guard, node.recording
        if recording is not None:
            guard.run("report to the collector", partial(run.report, recording.journal), None)
        guard.run("projection", lambda: self._show(self._projected(node, run)), None)

    def _projected(self, node: NodeWork, run: RunWork) -> dict[str, float]:
        """Project the run, compare it with its budget, and return the metrics. Ranks other than 0 have none."""
        acting = self._acting
        projected = run.project(node.context, _recorder(node.recording), stopped=self._stopped)
        if projected is None:
            return {}
        if acting is None:
            return projected.metrics
        self._of_budget = self._job.guard.run("budget", partial(acting.judge, projected, node), {})
        return projected.metrics | self._of_budget

    @property
    def _stopped(self) -> bool:
        return self._acting is not None and self._acting.stopped

    def _opened_acting(self) -> ActingWork:
        assert self._place is not None  # made in `open`
        return ActingWork(self._job, self._place.identity.run_id, self._thread, self._look_every_s)

    def _hear(self, record: Record) -> None:
        acting = self._acting
        if acting is not None:
            self._job.guard.run("alerts", partial(acting.hear, record), None)

    def _empty_inbox(self) -> None:
        node, later = self._node, None
        while self._inbox and node is not None:
            item = self._inbox.popleft()
            if isinstance(item, Seen):
                if not self._job.guard.run("effective spec", partial(_taken, node, item), False):
                    later = item
            elif node.recording is not None:
                node.recording.recorder.note(*item)
        if later is not None and "effective spec" not in self._job.guard.failures:
            self._inbox.append(later)  # it could open no file

    def _show(self, metrics: dict[str, float]) -> None:
        recording = self._node.recording if self._node else None
        head = recording.journal.head if recording else None
        shown = self.live.metrics
        self.live = Live(never_back(metrics, shown) if metrics else shown, head, self.live.version + 1)
        self._job.clock.attend = True


def _taken(node: NodeWork, seen: Seen) -> bool:
    node.take(seen)
    return True


def _recorder(recording: NodeRecording | None) -> NodeRecorder | None:
    return recording.recorder if recording else None
