"""Do the part of a process's work that concerns its run: exchange totals with the other nodes, and on rank 0 project
the run and tell the user of it."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, NamedTuple

from carbon_plugin.footprint.values import CarbonTotals
from carbon_plugin.ledger.held.launches import SKEW_EVENT
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.job import WatchedJob
from carbon_plugin.monitor.ledgers.journal import Journal
from carbon_plugin.monitor.ledgers.place import RunPlace
from carbon_plugin.monitor.node.recorder import NodeRecorder
from carbon_plugin.monitor.node.recording import NodeRecording
from carbon_plugin.monitor.ranks import Others
from carbon_plugin.monitor.run.exchange import Exchange
from carbon_plugin.monitor.run.projection import spent_carbon
from carbon_plugin.monitor.run.projector import Projected, Projector, doubts
from carbon_plugin.monitor.run.skew import skew_message
from carbon_plugin.monitor.run.voice import closing, opening
from carbon_plugin.show.saying import say

logger = logging.getLogger(__name__)


class Settled(NamedTuple):
    """Holds the last projection and the carbon so far, with the numbers of ledgers of the launch that have not ended,
    of all of its ledgers, and of the ranks of this host that were not heard of.
    """

    projected: Projected
    spent: CarbonTotals | None
    being_written: int
    ledgers: int
    unheard: int


class RunWork:
    """Reports to rank 0, or is rank 0, which projects the run and writes the lines for the user. Only the monitor
    thread uses this object."""

    def __init__(self, job: WatchedJob, place: RunPlace, recording: NodeRecording | None) -> None:
        self._job = job
        self._exchange: Exchange | None = job.guard.run("collector", lambda: _connected(job, place), None, begins=True)
        self._projector: Projector | None = None
        self._said_opening = False
        self._doubted: set[str] = set()
        if job.ranks.rank == 0:
            self._projector = self._opened_projector(recording)

    def follow(self, recording: NodeRecording | None) -> None:
        """Take the ledger of a recording that has begun as this process's own."""
        if self._projector is not None:
            self._projector = self._opened_projector(recording)

    def report(self, journal: Journal) -> None:
        """Send the totals of this node's ledger to rank 0, if rank 0 asks for them."""
        if self._exchange is not None:
            self._exchange.report(journal)
            self._exchange.look()

    def suspects(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the suspects that other nodes have reported since the last call. Only rank 0 learns of them."""
        return self._projector.suspects() if self._projector is not None else []

    def project(self, context: Context, recorder: NodeRecorder | None, *, stopped: bool) -> Projected | None:
        """Project the run, record the projection, and return it. Ranks other than 0 have none. Of a run that was
        `stopped` nothing remains."""
        if self._projector is None:
            return None
        clock = self._job.clock
        steps = clock.mark.steps
        projected = self._projector.project(context, clock.base_step + steps, stopped=stopped)
        self._warn_once(projected, steps)
        if recorder is not None:
            recorder.record(projected.record)
            if projected.skews_s:
                recorder.note(SKEW_EVENT, skew_message(projected.skews_s), {"offsets_s": projected.skews_s})
        return projected

    def note_heads(self, recording: NodeRecording) -> None:
        """Write down the heads of other ledgers. Rank 0 notes those of all ledgers, as far as it has read them."""
        if self._projector is None:
            recording.witness.look(recording.journal.file)
        else:
            recording.witness.note(self._projector.heads())

    def say_opening(self, context: Context, recording: NodeRecording | None) -> None:
        """Print the opening line on rank 0, once. The recording is None if another process of the node meters it."""
        if self._job.ranks.rank != 0 or self._said_opening:
            return
        self._said_opening = True
        if not self._job.settings.quiet:
            devices = recording.recorder.devices if recording is not None else None
            written = _is_written(recording)
            has_site = context.effective.site is not None
            budget = self._job.settings.budget
            phrase = None if budget is None else budget.phrase
            nodes, run_dir = self._job.ranks.nodes, self._job.run_dir
            say(opening(devices, run_dir, nodes=nodes, has_site=has_site, budget=phrase, written=written))

    def settle(self, context: Context, others: Others, *, stopped: bool, within_s: float) -> Settled | None:
        """Project the run for the last time, when the other ledgers of its launch have ended or have had `within_s`
        seconds to end. `others` are the ranks of this host. The result is None on ranks other than 0."""
        if self._projector is None:
            return None
        ranks, clock = self._job.ranks, self._job.clock
        being_written, ledgers, unheard = self._projector.settle(others, ranks.node, ranks.local_world_size, within_s)
        projected = self._projector.project(context, clock.base_step + clock.mark.steps, stopped=stopped)
        spent = spent_carbon(projected.totals, context.factors)
        return Settled(projected, spent, being_written, ledgers, unheard)

    def say_closing(self, settled: Settled, recording: NodeRecording | None) -> None:
        """Print the closing line. The recording is None if another process of the node meters it."""
        record = settled.projected.record
        if self._job.settings.quiet:
            return
        say(
            closing(
                step=record.step,
                energy_j=record.spent_energy_j,
                spent=settled.spent,
                nodes_seen=record.nodes_seen,
                nodes=record.nodes,
                run_dir=self._job.run_dir,
                being_written=settled.being_written,
                ledgers=settled.ledgers,
                unheard=settled.unheard,
                written=_is_written(recording),
            )
        )

    def close(self) -> None:
        """Close the sockets of the exchange."""
        if self._exchange is not None:
            self._exchange.close()

    def _opened_projector(self, recording: NodeRecording | None) -> Projector:
        return Projector(
            self._job.run_dir,
            recording.journal if recording else None,
            nodes=self._job.ranks.nodes,
            wall=self._job.wall,
            collector=self._exchange.collector if self._exchange else None,
        )

    def _warn_once(self, projected: Projected, steps: int) -> None:
        """Warn once of each doubt about the numbers of steps, when it shows."""
        stated = self._job.settings.step is not None
        for kind, sentence in doubts(
            projected.record, steps=steps, reached_before=0 if stated else projected.reached_before
        ):
            if kind not in self._doubted:
                self._doubted.add(kind)
                self._job.note(kind, sentence)
                logger.warning("carbon_plugin: %s", sentence)


def _connected(job: WatchedJob, place: RunPlace) -> Exchange:
    """Return the exchange for nodes that share no directory: rank 0 listens, and the others know where to report."""
    return Exchange(
        job.run_dir,
        place.identity.run_id,
        job.ranks,
        job.environ,
        stated=place.id_is_stated,
        note=partial(job.note, "collector"),
    )


def _is_written(recording: NodeRecording | None) -> bool:
    """Return whether a record is written, if this process is to write one."""
    return recording is None or recording.journal.holds_records
