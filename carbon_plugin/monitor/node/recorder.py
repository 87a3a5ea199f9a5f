"""Cut what the meters count into windows and spans, and write them to this node's ledger."""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec.structs import replace

from carbon_plugin.ledger.held.clocks import CLOCK_STEP_EVENT, CLOCK_STEP_S, clock_step_message
from carbon_plugin.ledger.records import Close, Event, Phase, Record, RunIdentity, Window
from carbon_plugin.meters.gpu.context import GpuContext
from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.monitor.clock import Mark, Transition, last_mark
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.intensity import IntensityWatch
from carbon_plugin.monitor.job import WatchedJob
from carbon_plugin.monitor.ledgers.journal import Journal
from carbon_plugin.monitor.node.baseline import Baseline
from carbon_plugin.monitor.node.lead import Stretch, stretches
from carbon_plugin.monitor.node.manifest import Beginning, OnRecord, manifest_of
from carbon_plugin.monitor.node.meter_reader import MeterReader
from carbon_plugin.monitor.node.metering import with_ranks
from carbon_plugin.monitor.node.records import RecordMaker
from carbon_plugin.monitor.node.spans import Measured, SpanTracker
from carbon_plugin.monitor.node.windows import Snapshot, aligned, at_its_moment, cut, merged
from carbon_plugin.monitor.processes.leader import Claim
from carbon_plugin.monitor.processes.neighbours import Neighbours
from carbon_plugin.monitor.processes.sharing import OwnShare
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.threads.turns import give_way


class NodeRecorder:
    """Owns the meters of one node, and writes its ledger. Only the monitor thread calls its methods.

    The first manifest is written at once, so that the energy of start-up is on record before anything is known of the
    model. With `takes_over`, other recorders have recorded the steps so far: `follows` are the files from which this
    one goes on, and `phase` is that of before, unless the training has changed it since. With a `baseline`, the record
    begins with the training; where the driver took its time, the energy up to the first reading is an estimate.
    """

    def __init__(
        self,
        job: WatchedJob,
        *,
        identity: RunIdentity,
        context: Context,
        claims: list[Claim],
        meters: MeterSet,
        intensity: IntensityWatch,
        journal: Journal,
        reserved_since_unix_s: float,
        takes_over: bool,
        follows: tuple[str, ...] = (),
        phase: Phase = "startup",
        baseline: Baseline | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        clock = job.clock
        self._job = job
        self._identity = identity
        self._context, self._claims = context, claims
        self._meters = meters
        self._intensity = intensity
        self._journal = journal
        self._neighbours = neighbours
        self._reader = MeterReader(meters, clock, self.note, lambda: self.state(self._context, self._claims))
        self._maker = RecordMaker(clock, job.wall, intensity, OwnShare(neighbours))
        self._spans = SpanTracker(job.settings.options.span_rule, self._reader.gpus)
        self._closed = False
        self._said_ahead_s = 0.0
        self._phase = phase
        read = meters.read if baseline is None else lambda: baseline.from_start(meters.read())
        first = self._reader.snapshot(read)
        if baseline is not None:
            first = replace(first, monotonic_s=baseline.start_s)
        self._lead: Snapshot | None = None
        transitions = clock.until(first.monotonic_s)
        # The readings of a baseline are of an earlier moment than the steps of now.
        marks = [first.mark if baseline is None else baseline.mark, *(change.mark for change in transitions)]
        self._before = replace(first, mark=last_mark(first.monotonic_s, marks))
        if takes_over:
            # The ledger of the leader that was lost holds what happened before.
            self._phase = transitions[-1].phase if transitions else phase
        elif baseline is not None:
            # Opening a driver takes time, in which steps may end and the machine draws power.
            self._lead = Snapshot(monotonic_s=clock.start.monotonic_s, readings={}, mark=clock.start)
        started_s = self._until_its_end((self._lead or self._before).monotonic_s)
        self._beginning = Beginning(
            started_unix_s=job.wall.unix_s(started_s),
            started_boot_s=job.wall.boot_s(started_s),
            reserved_since_unix_s=reserved_since_unix_s,
            follows=follows,
        )
        self.state(context, claims)
        self._reader.note_beginning(list(self._before.readings.values()))

    @property
    def poll_interval_s(self) -> float | None:
        """Return how often `poll` must be called between windows, s, or None if the meters count by themselves."""
        return self._meters.poll_interval_s

    @property
    def phase(self) -> Phase:
        """Return the phase in which the last window has ended."""
        return self._phase

    @property
    def mark(self) -> Mark:
        """Return the last step boundary before `ends_s`."""
        return self._before.mark

    @property
    def ends_s(self) -> float:
        """Return the monotonic moment up to which the devices are recorded, s, which is the first one at the start."""
        return self._until_its_end(self._before.monotonic_s)

    @property
    def devices(self) -> list[DeviceIdentity]:
        """Return the devices that are metered."""
        return list(self._meters.devices)

    @property
    def gpu_ranks(self) -> dict[str, list[int]]:
        """Return the ranks that compute on each GPU, by its key."""
        return {device.key: list(device.ranks) for device in with_ranks(self._meters.devices, self._claims)}

    def gpu_contexts(self) -> dict[str, GpuContext]:
        """Return what limits each GPU now, by its key, with a few driver calls a GPU."""
        return self._meters.contexts()

    def state(self, context: Context, claims: list[Claim]) -> None:
        """Write the manifest with what is known now. It replaces the manifest before it."""
        self._context, self._claims = context, claims
        self.record(manifest_of(self._job, self._identity, context, self._metered, claims, self._beginning))

    def record(self, record: Record) -> None:
        """Append a record."""
        self._journal.write(record)
        give_way()
        self._job.hear(record)

    def note(self, kind: str, message: str, data: dict[str, object] | None = None) -> None:
        """Record an event."""
        self.record(Event(at_unix_s=self._job.wall.now_unix_s(), kind=kind, message=message, data=data or {}))

    def poll(self) -> None:
        """Read the meters that integrate power. Only faults are recorded."""
        self._reader.read()

    def cut(self, until_s: float | None = None, last: Mark | None = None) -> None:
        """End the window that began at the last call: read all meters, and write windows and spans.

        The window ends now, or at the monotonic moment `until_s`. What the meters had counted by then follows from the
        mean power. `last` is the last step boundary before that moment, if the caller knows it.
        """
        clock, guard = self._job.clock, self._job.guard
        if self._neighbours is not None:
            guard.run("neighbours", self._neighbours.look, None)
        now = self._reader.snapshot(self._reader.read)
        give_way()
        # A window ends with the training, however long the driver takes over its last readings.
        ends_s = [moment_s for moment_s in (until_s, clock.ended_s) if moment_s is not None]
        end_s = min([now.monotonic_s, *ends_s])
        before, lead = at_its_moment(self._before, now), self._lead
        if end_s <= (lead or before).monotonic_s:
            return
        # With `until_s` the changes of phase are kept, because another recorder goes on from there.
        transitions = clock.drain(end_s) if until_s is None else clock.until(end_s)
        # Steps that ended after the window belong to the next one.
        marks = [(lead or before).mark, before.mark, *(change.mark for change in transitions), last or now.mark]
        after = aligned(before, replace(now, monotonic_s=end_s, mark=last_mark(end_s, marks)))
        self._before, self._lead = after, None
        windows: list[Window] = []
        give_way()
        for stretch in stretches(lead, before, after, self._meters.estimate):
            own = [change for change in transitions if change.monotonic_s <= stretch.after.monotonic_s]
            transitions = transitions[len(own) :]
            windows += self._windows(stretch, own)
        self._note_intensity()  # before its windows, so that a kill between them loses no source
        for window in windows:
            give_way()
            self.record(window)
        give_way()
        guard.run("GPU context", self._reader.note_gpu_context, None)
        self._note_clock(self._job.wall.adjust())
        if self._meters.retire_stand_ins():
            self.state(self._context, self._claims)
        if until_s is None:
            clock.cut_s = after.monotonic_s

    def refresh_intensity(self) -> None:
        """Ask the live services for the present intensity if it is time. The call may block for some seconds."""
        self._intensity.refresh(time.time())
        self._note_intensity()

    def close(self, reason: str) -> None:
        """Write the closing record, and release meters and file. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._job.guard.run("spans", lambda: self._record_spans(self._spans.finish()), None)
        totals = self._journal.totals
        self.record(
            Close(
                at_unix_s=self._job.wall.unix_s(self.ends_s),
                reason=reason,
                steps=totals.steps,
                windows=totals.windows,
                energy_j=totals.energy_j,
            )
        )
        self._journal.close()
        self._meters.close()
        if self._neighbours is not None:
            self._neighbours.end(self.ends_s)

    @property
    def _metered(self) -> OnRecord:
        host = self._meters.host
        return OnRecord(
            host_key=host.key,
            hostname=host.hostname,
            devices=self._meters.devices,
            host_share=self._meters.host_share,
        )

    def _until_its_end(self, moment_s: float) -> float:
        """Return a moment, or the end of the training where that was before it."""
        ended_s = self._job.clock.ended_s
        return moment_s if ended_s is None else min(moment_s, ended_s)

    def _windows(self, stretch: Stretch, transitions: Sequence[Transition]) -> list[Window]:
        before, after = stretch.before, stretch.after
        pieces = cut(before, after, self._phase, transitions)
        if transitions:
            self._phase = transitions[-1].phase
        self._job.guard.run("spans", lambda: self._record_spans(self._spans.observe(before, after, pieces)), None)
        whole_s = after.monotonic_s - before.monotonic_s
        windows = []
        for piece in merged(pieces):
            give_way()
            used = stretch.used(piece.duration_s / whole_s)
            windows.append(self._maker.window(piece, used, self._context, self._reader.gpus))
        return windows

    def _record_spans(self, spans: Sequence[Measured]) -> None:
        for span in spans:
            self.record(self._maker.span(span, self._context, self._reader.gpus))

    def _note_clock(self, slept_s: float) -> None:
        if slept_s > CLOCK_STEP_S:
            self.note("suspended", f"the machine slept for {slept_s:.1f} s", {"duration_s": slept_s})
        ahead_s = self._job.wall.ahead_s
        if abs(ahead_s - self._said_ahead_s) > CLOCK_STEP_S:
            self._said_ahead_s = ahead_s
            self.note(CLOCK_STEP_EVENT, clock_step_message(ahead_s), {"ahead_s": ahead_s})

    def _note_intensity(self) -> None:
        for kind, message, data in self._intensity.drain():
            self.note(kind, message, data)
