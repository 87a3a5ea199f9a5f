"""Read the meters, cut windows and spans, and write them to this node's ledger. This is the work of the node leader."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

import carbon_plugin
from carbon_plugin.ledger.held.clocks import CLOCK_STEP_EVENT, CLOCK_STEP_S, clock_step_message
from carbon_plugin.ledger.records import (
    LEDGER_VERSION,
    MACHINE,
    Close,
    DeviceEnergy,
    Event,
    Manifest,
    Phase,
    Record,
    RunIdentity,
    Span,
    Window,
)
from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.meters.protocol import UNREAD_EVENT, Reading
from carbon_plugin.monitor.clock import Mark, TrainingClock, Transition, WallClock, last_mark
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.guard import Guard
from carbon_plugin.monitor.intensity import IntensityWatch
from carbon_plugin.monitor.node.baseline import Baseline
from carbon_plugin.monitor.node.journal import Journal
from carbon_plugin.monitor.node.lead import Stretch, stretches
from carbon_plugin.monitor.node.leader import Claim
from carbon_plugin.monitor.node.metering import with_ranks
from carbon_plugin.monitor.node.neighbours import Neighbours
from carbon_plugin.monitor.node.sharing import SHARED_MACHINE, shared
from carbon_plugin.monitor.node.spans import Measured, SpanTracker
from carbon_plugin.monitor.node.windows import Piece, Snapshot, aligned, cut, merged, moment_of
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings import Settings
from carbon_plugin.spec.metered import DeviceIdentity

CONTEXT_EVERY_S = 60.0
"""Power limits, clocks and throttling are read once in this many seconds, at the end of a window, with a few driver
calls a GPU."""


class NodeRecorder:
    """Owns the meters and the ledger of one node. Only the monitor thread calls its methods.

    The first manifest is written at once, so that the energy of start-up is on record before anything is known of the
    model. With `takes_over`, another leader has recorded the steps so far. With a `baseline`, the record begins with
    the training; where the driver took its time, the energy up to the first reading is an estimate.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        ranks: Ranks,
        identity: RunIdentity,
        context: Context,
        meters: MeterSet,
        intensity: IntensityWatch,
        journal: Journal,
        clock: TrainingClock,
        wall: WallClock,
        guard: Guard,
        versions: Mapping[str, str],
        reserved_since_unix_s: float,
        takes_over: bool,
        claims: list[Claim],
        baseline: Baseline | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._neighbours = neighbours
        self._settings = settings
        self._ranks = ranks
        self._identity = identity
        self._context = context
        self._meters = meters
        self._intensity = intensity
        self._journal = journal
        self._clock = clock
        self._guard = guard
        self._wall = wall
        self._versions = {"carbon-plugin": carbon_plugin.__version__, **versions}
        self._reserved_since_unix_s = reserved_since_unix_s
        self._faults: dict[str, str] = {}
        self._gpus = [device.key for device in meters.devices if device.rung == "gpu"]
        self._spans = SpanTracker(settings.options.span_rule, self._gpus)
        self._context_due_s = 0.0
        self._index = 0
        self._closed = False
        self._said_ahead_s = 0.0
        self._phase: Phase = "startup"
        self._before = self._snapshot(meters.read if baseline is None else lambda: baseline.from_start(meters.read()))
        self._lead: Snapshot | None = None
        if takes_over:
            # The ledger of the leader that was lost holds what happened before.
            transitions = clock.drain(self._before.monotonic_s)
            self._phase = transitions[-1].phase if transitions else "startup"
        elif baseline is not None:
            # Opening a driver takes time, in which steps may end and the machine draws power.
            self._before = replace(self._before, mark=baseline.mark)
            self._lead = Snapshot(monotonic_s=clock.start.monotonic_s, readings={}, mark=clock.start)
        started_s = (self._lead or self._before).monotonic_s
        self._started_unix_s, self._started_boot_s = self._wall.unix_s(started_s), self._wall.boot_s(started_s)
        self.state(context, claims)
        for note in meters.notes:
            self.note(note.kind, note.message)
        if meters.unread is not None:
            self.note(UNREAD_EVENT, meters.unread.sentence, meters.unread.data)
        self._note_faults(list(self._before.readings.values()))  # after the manifest, because a ledger begins with one

    @property
    def poll_interval_s(self) -> float | None:
        """Return how often `poll` must be called between windows, s, or None if the meters count by themselves."""
        return self._meters.poll_interval_s

    @property
    def devices(self) -> list[DeviceIdentity]:
        """Return the devices that are metered."""
        return list(self._meters.devices)

    def state(self, context: Context, claims: list[Claim]) -> None:
        """Write the manifest with what is known now. It replaces the manifest before it."""
        self._context, self._claims = context, claims
        forecast = self._settings.forecast
        self.record(
            Manifest(
                version=LEDGER_VERSION,
                run_id=self._identity.run_id,
                attempt=0,  # the journal sets it once it has a file
                node=self._ranks.node,
                nodes=self._ranks.nodes,
                host_key=self._meters.host.key,
                hostname=self._meters.host.hostname,
                world_size=self._ranks.world_size,
                started_unix_s=self._started_unix_s,
                started_boot_s=self._started_boot_s,
                reserved_since_unix_s=min(self._reserved_since_unix_s, self._started_unix_s),
                devices=with_ranks(self._meters.devices, claims),
                effective=context.effective.fields,
                factors=context.document(context.factors) or {},
                versions=self._versions,
                total_steps=context.effective.total_steps,
                tokens_per_step=context.effective.tokens_per_step,
                forecast=context.document(forecast),
                prediction=context.document(context.prediction),
                assumptions=[context.document(assumption) or {} for assumption in context.assumptions],
                host_share=self._meters.host_share,
                spec=context.document(context.effective.spec),
                seen_gpus=sorted({key for claim in claims for key in claim.sees}),
                ranks_without_gpu=[claim.rank for claim in claims if claim.looked and not claim.uuids],
            )
        )

    def record(self, record: Record) -> None:
        """Append a record."""
        self._journal.write(record)

    def note(self, kind: str, message: str, data: dict[str, object] | None = None) -> None:
        """Record an event."""
        self.record(Event(at_unix_s=self._wall.now_unix_s(), kind=kind, message=message, data=data or {}))

    def poll(self) -> None:
        """Read the meters that integrate. Nothing is recorded but faults."""
        self._read()

    def cut(self, until_s: float | None = None) -> None:
        """End the window that began at the last call: read all meters, and write windows and spans.

        The window ends now, or at the monotonic moment `until_s`. What the meters had counted by then follows from the
        mean power.
        """
        if self._neighbours is not None:
            self._guard.run("neighbours", self._neighbours.look, None)
        now = self._snapshot(self._read)
        # A window ends with the training, however long the driver takes over its last readings.
        ends_s = [moment_s for moment_s in (until_s, self._clock.ended_s) if moment_s is not None]
        end_s = min([now.monotonic_s, *ends_s])
        before, lead = self._before, self._lead
        if end_s <= (lead or before).monotonic_s:
            return
        # With `until_s` the changes of phase are kept, because another recorder goes on from there.
        transitions = self._clock.drain(end_s) if until_s is None else self._clock.until(end_s)
        # Steps that ended after the window belong to the next one.
        marks = [(lead or before).mark, before.mark, *(change.mark for change in transitions), now.mark]
        after = aligned(before, replace(now, monotonic_s=end_s, mark=last_mark(end_s, marks)))
        self._before, self._lead = after, None
        windows: list[Window] = []
        for stretch in stretches(lead, before, after, self._meters.estimate):
            own = [change for change in transitions if change.monotonic_s <= stretch.after.monotonic_s]
            transitions = transitions[len(own) :]
            windows += self._windows(stretch, own)
        self._note_intensity()  # before its windows, so that a kill between them loses no source
        for window in windows:
            self.record(window)
        self._guard.run("GPU context", self._note_context, None)
        self._note_clock(self._wall.adjust())
        if self._meters.retire_stand_ins():
            self.state(self._context, self._claims)
        if until_s is None:
            self._clock.cut_s = after.monotonic_s

    def _windows(self, stretch: Stretch, transitions: Sequence[Transition]) -> list[Window]:
        before, after = stretch.before, stretch.after
        pieces = cut(before, after, self._phase, transitions)
        if transitions:
            self._phase = transitions[-1].phase
        self._guard.run("spans", lambda: self._compare(before, after, pieces), None)
        whole_s = after.monotonic_s - before.monotonic_s
        return [self._window(piece, stretch.used(piece.duration_s / whole_s)) for piece in merged(pieces)]

    def refresh_intensity(self) -> None:
        """Ask the live services for the present intensity if they are due. The call may block for some seconds."""
        self._intensity.refresh(time.time())
        self._note_intensity()

    def _note_clock(self, slept_s: float) -> None:
        if slept_s > CLOCK_STEP_S:
            self.note("suspended", f"the machine slept for {slept_s:.1f} s", {"duration_s": slept_s})
        ahead_s = self._wall.ahead_s
        if abs(ahead_s - self._said_ahead_s) > CLOCK_STEP_S:
            self._said_ahead_s = ahead_s
            self.note(CLOCK_STEP_EVENT, clock_step_message(ahead_s), {"ahead_s": ahead_s})

    def _note_context(self) -> None:
        now_s = time.monotonic()
        if now_s < self._context_due_s:
            return
        self._context_due_s = now_s + CONTEXT_EVERY_S
        for change in self._meters.context_changes():
            self.note("gpu_context", change.message, change.data)

    def _note_intensity(self) -> None:
        for kind, message, data in self._intensity.drain():
            self.note(kind, message, data)

    def close(self, reason: str) -> None:
        """Write the closing record, and release meters and file. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._guard.run("spans", self._close_spans, None)
        totals = self._journal.totals
        self.record(
            Close(
                at_unix_s=self._wall.unix_s(self._before.monotonic_s),
                reason=reason,
                steps=totals.steps,
                windows=totals.windows,
                energy_j=totals.energy_j,
            )
        )
        self._journal.close()
        self._meters.close()
        if self._neighbours is not None:
            self._neighbours.end(self._before.monotonic_s)

    def _snapshot(self, read: Callable[[], list[Reading]]) -> Snapshot:
        marks = [self._clock.mark]
        readings = read()
        marks.append(self._clock.mark)
        moment_s = moment_of(readings, self._gpus)
        moment_s = time.monotonic() if moment_s is None else moment_s
        # Steps that ended while a GPU kept the others waiting belong to what follows.
        mark = last_mark(moment_s, marks)
        return Snapshot(monotonic_s=moment_s, readings={reading.key: reading for reading in readings}, mark=mark)

    def _read(self) -> list[Reading]:
        known = len(self._meters.devices)
        readings = self._meters.read()
        if len(self._meters.devices) != known:  # a driver that hung has answered
            self._gpus = [device.key for device in self._meters.devices if device.rung == "gpu"]
            self.state(self._context, self._claims)
            for note in self._meters.notes:
                self.note(note.kind, note.message)
        self._note_faults(readings)
        return readings

    def _note_faults(self, readings: Sequence[Reading]) -> None:
        for reading in readings:
            known = self._faults.get(reading.key)
            if reading.fault is not None and reading.fault != known:
                message = reading.message or f"{reading.key}: {reading.fault}"
                self.note(f"meter_{reading.fault}", message, {"key": reading.key})
            elif reading.fault is None and known is not None:
                self.note("meter_recovered", f"{reading.key} answers again after: {known}", {"key": reading.key})
            if reading.fault is None:
                self._faults.pop(reading.key, None)
            else:
                self._faults[reading.key] = reading.fault

    def _window(self, piece: Piece, used: list[DeviceEnergy]) -> Window:
        factors = self._context.factors
        index, self._index = self._index, self._index + 1
        start_unix_s = self._wall.unix_s(piece.start_s)
        # Services and series are asked by the present wall clock, because somebody may have corrected it.
        at_s = start_unix_s + self._wall.ahead_s
        intensity = self._intensity.of_window(
            at_s, at_s + piece.duration_s, factors.intensity.figure.value if factors else None
        )
        return Window(
            index=index,
            phase=piece.phase,
            start_unix_s=start_unix_s,
            duration_s=piece.duration_s,
            energies=self._charged(used, piece),
            parts=self._parts(piece.start_s, piece.end_s),
            steps=piece.end.steps - piece.start.steps,
            last_step=self._clock.base_step + piece.end.steps,
            tokens=self._tokens(piece.start, piece.end),
            intensity_g_per_kwh=intensity.g_per_kwh,
            pue=factors.pue.value if factors else None,
            marginal_g_per_kwh=intensity.marginal_g_per_kwh,
            intensity_origin=intensity.origin,
        )

    def _tokens(self, start: Mark, end: Mark) -> int:
        each = self._context.effective.tokens_per_step or 0
        return end.tokens - start.tokens + each * (end.uncounted - start.uncounted)

    def _compare(self, before: Snapshot, after: Snapshot, pieces: Sequence[Piece]) -> None:
        for span in self._spans.observe(before, after, pieces):
            self.record(self._span(span))

    def _close_spans(self) -> None:
        for span in self._spans.finish():
            self.record(self._span(span))

    def _charged(self, used: list[DeviceEnergy], piece: Piece) -> list[DeviceEnergy]:
        """Return the part of a window's energies that this training is charged for."""
        own = shared(used, SHARED_MACHINE.part_of(piece.start_s, piece.end_s))
        return self._neighbours.charged(own, piece.start_s, piece.end_s) if self._neighbours else own

    def _parts(self, start_s: float, end_s: float) -> dict[str, float] | None:
        """Return the parts of the machine and of its GPUs that belong to this training, or None where all of them
        do."""
        machine = SHARED_MACHINE.part_of(start_s, end_s)
        near = self._neighbours
        parts = {key: machine * (near.part_of(key, start_s, end_s) if near else 1.0) for key in self._gpus}
        return {key: part for key, part in {MACHINE: machine, **parts}.items() if part < 1.0 - 1e-9} or None

    def _span(self, span: Measured) -> Span:
        prediction, spec = self._context.prediction, self._context.effective.spec
        end_s = span.start_s + span.duration_s
        part = SHARED_MACHINE.part_of(span.start_s, end_s)
        if self._neighbours and self._gpus:
            parts = [self._neighbours.part_of(key, span.start_s, end_s) for key in self._gpus]
            part *= sum(parts) / len(parts)
        predicted_j = None
        if prediction is not None and spec is not None and spec.cluster.accelerator.kind == "gpu":
            predicted_j = prediction.gpu_energy_per_step_j.value * len(self._gpus) / spec.cluster.devices
        return Span(
            first_step=self._clock.base_step + span.first_step,
            last_step=self._clock.base_step + span.last_step,
            start_unix_s=self._wall.unix_s(span.start_s),
            duration_s=span.duration_s,
            step_time_s=span.duration_s / span.steps,
            predicted_step_time_s=self._context.predicted_step_time_s,
            gpu_energy_per_step_j=None if span.gpu_energy_j is None else part * span.gpu_energy_j / span.steps,
            predicted_gpu_energy_per_step_j=predicted_j if self._gpus else None,
            boundary_error_s=span.boundary_error_s,
            short=span.short,
        )
