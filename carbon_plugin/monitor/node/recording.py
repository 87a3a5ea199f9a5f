"""Record the devices that this process meters: open their meters and a ledger, and watch for others that use them."""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial

from carbon_plugin.ledger.held.expected import HANDED_ON
from carbon_plugin.ledger.held.launches import ANOTHER_JOB_EVENT
from carbon_plugin.meters.meter_set import MeterSet
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.intensity import IntensityWatch
from carbon_plugin.monitor.job import WatchedJob
from carbon_plugin.monitor.ledgers.journal import Journal
from carbon_plugin.monitor.ledgers.place import RunPlace
from carbon_plugin.monitor.ledgers.same_writer import SameWriter
from carbon_plugin.monitor.ledgers.witness import Witness
from carbon_plugin.monitor.node.duty import Duty, Task
from carbon_plugin.monitor.node.metering import open_host_meters
from carbon_plugin.monitor.node.missing_gpus import warning_of
from carbon_plugin.monitor.node.recorder import NodeRecorder
from carbon_plugin.monitor.processes.leader import Claim
from carbon_plugin.monitor.processes.neighbours import EVENT as SHARED_EVENT
from carbon_plugin.monitor.processes.neighbours import Neighbours
from carbon_plugin.monitor.processes.scratch import open_scratch

logger = logging.getLogger(__name__)


class NodeRecording:
    """One instance holds the ledger of one task of this process: its journal, its recorder, and what it watches.

    It watches for other runs on the same GPUs, for another job that writes ledgers under the same name, and for the
    heads of other ledgers. A task that ends at `until_s` is over when this object is made, and is watched for nothing.
    A recording of more devices goes on from the one `before`, which ends where this one begins.
    """

    def __init__(
        self,
        job: WatchedJob,
        place: RunPlace,
        duty: Duty,
        task: Task,
        context: Context,
        claims: list[Claim],
        reserved_since_unix_s: float,
        before: NodeRecording | None = None,
    ) -> None:
        ranks, settings = job.ranks, job.settings
        self._job = job
        with contextlib.ExitStack() as undo:  # what is open is released if the rest cannot be opened
            meters = _open_meters(job, duty, task)
            undo.callback(meters.close)
            # Local rank 0, or the rank that follows it, writes the node's ledger. Other ranks write ledgers of their
            # own. A writer goes on under its name, by which the audit adds up its steps.
            of_node = task.until_s is None and (ranks.local_rank == 0 or task.follows)
            self._rank: int | None = (None if of_node else ranks.rank) if before is None else before._rank
            gpus = [device.key for device in meters.devices if device.rung == "gpu"]
            self._neighbours: Neighbours | None = None
            if task.until_s is None:
                since_s = duty.baseline.since_s if duty.baseline is not None else time.monotonic()
                self._neighbours = Neighbours(open_scratch(), place.identity.run_id, settings.name, gpus, since_s)
                undo.callback(self._neighbours.end, since_s)
            self.journal = Journal(
                lambda: place.open_writer(ranks.node, self._rank),
                lambda sentence: job.note("ledger_trouble", sentence),
            )
            self._same: SameWriter | None = None
            self.recorder: NodeRecorder = NodeRecorder(
                job,
                identity=place.identity,
                context=context,
                claims=claims,
                meters=meters,
                intensity=_watch_intensity(job, context),
                journal=self.journal,
                reserved_since_unix_s=reserved_since_unix_s,
                takes_over=task.follows,
                follows=(*task.after, *([before.journal.file] if before is not None and before.journal.file else [])),
                phase="startup" if before is None else before.recorder.phase,
                baseline=duty.baseline,
                neighbours=self._neighbours,
            )
            undo.pop_all()
        if before is not None:
            end = partial(before.recorder.cut, self.recorder.ends_s, self.recorder.mark)
            job.guard.run("last window before a takeover", end, None)
            before.recorder.close(HANDED_ON)
        self._find_same_writer()  # now that the own ledger before this one grows no longer
        self.witness = Witness(job.run_dir, ranks.node, ranks.nodes, self.recorder.note)
        job.guard.run("heads", lambda: self.witness.look(self.journal.file, complete=True), None)

    def warn(self, kind: str, sentence: str, data: dict[str, object] | None = None) -> None:
        """Record an event and tell the user at once."""
        self.recorder.note(kind, sentence, data)
        logger.warning("carbon_plugin: %s", sentence)

    def look_around(self) -> None:
        """Say once that another job writes in this directory, or that other runs use these GPUs."""
        self._find_same_writer()
        self.look_for_another_job()
        if self._neighbours is not None and (news := self._neighbours.news()) is not None:
            self.warn(SHARED_EVENT, news)

    def look_for_another_job(self, *, last: bool = False) -> None:
        """Say once that another process writes ledgers under this one's name. The `last` look also finds a later
        one."""
        if self._same is not None and (said := self._same.look(last=last)) is not None:
            self.warn(ANOTHER_JOB_EVENT, said)

    def _find_same_writer(self) -> None:
        if self._same is None and (file := self.journal.file) is not None:
            self._same = SameWriter(self._job.run_dir, file)


def _open_meters(job: WatchedJob, duty: Duty, task: Task) -> MeterSet:
    """Open the meters of a task, and say what the meters of the host lack."""
    meters = open_host_meters(
        job.settings,
        duty.hardware,
        job.environ,
        gpus=task.gpus,
        host=task.host,
        ranks=job.ranks,
        beside=task.beside,
    )
    warning = warning_of(meters, job.settings, duty.hardware.cut_off) if task.host else None
    if warning is not None:
        kind, sentence = warning
        logger.warning("carbon_plugin: %s", sentence)
        if kind is not None:
            job.note(kind, sentence)
    return meters


def _watch_intensity(job: WatchedJob, context: Context) -> IntensityWatch:
    """Return the watch of the site's live intensity, or one of nothing where it fails."""
    site, nothing = context.effective.site, IntensityWatch(None, job.environ)
    return job.guard.run("live intensity", lambda: IntensityWatch(site, job.environ), nothing, begins=True)
