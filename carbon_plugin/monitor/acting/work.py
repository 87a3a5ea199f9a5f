"""Do the part of a process's work that acts on what is measured: alerts, the budget, and the stop of all ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from carbon_plugin.detect.job_store import job_store
from carbon_plugin.ledger.records import Record
from carbon_plugin.monitor.acting.alerting import ALERT_EVENT, Alerting, News
from carbon_plugin.monitor.acting.budget import EXCEEDED_EVENT, BudgetVerdict, BudgetWatch
from carbon_plugin.monitor.acting.causes import Suspect
from carbon_plugin.monitor.acting.courier import Courier, Wait
from carbon_plugin.monitor.acting.host_ranks import SUFFIX, HostRanks, TrainingThread
from carbon_plugin.monitor.acting.noticeboards import FolderBoard, Noticeboard, StoreBoard
from carbon_plugin.monitor.acting.pausing import PauseAgreement, RestOfRun
from carbon_plugin.monitor.acting.samples import Samples
from carbon_plugin.monitor.acting.stop_agreement import LOOK_S, StopAgreement
from carbon_plugin.monitor.acting.stopping import Stopper, StopRequest
from carbon_plugin.monitor.acting.suspects import suspect_of
from carbon_plugin.monitor.job import WatchedJob
from carbon_plugin.monitor.node.work import NodeWork
from carbon_plugin.monitor.run.metrics import PREFIX
from carbon_plugin.monitor.run.projector import Projected
from carbon_plugin.plan.forecast import modelled_energies
from carbon_plugin.predict.power import idle_power_figure
from carbon_plugin.spec.alerts import Alert
from carbon_plugin.spec.budget import BudgetState
from carbon_plugin.threads.turns import give_way

if TYPE_CHECKING:
    from carbon_plugin.monitor.acting.webhook import Webhook

logger = logging.getLogger(__name__)
_TRAININGS = count()
"""All ranks begin the trainings of a script in the same order. Their keys must not meet in one store."""
Tell = Callable[[str, str, dict[str, Any]], None]
"""A function that records an event: its kind, a sentence and data."""


class Targets(Struct, frozen=True):
    """Says where an alert goes besides the log and the record, as functions that may wait."""

    webhook: Webhook | None
    functions: tuple[Callable[[Alert], object], ...]


class ActingWork:
    """Watches one training and acts on it. Only the monitor thread uses this object, but for `stop.reached`.

    `stop` is the agreement on a step to stop at, or None where nothing may stop the run.
    """

    def __init__(self, job: WatchedJob, run_id: str, thread: TrainingThread, look_every_s: float) -> None:
        settings, ranks = job.settings, job.ranks
        self.stop: StopAgreement | None = None
        self._job = job
        self._thread = thread
        self._samples = Samples()
        self._host_ranks = HostRanks()
        self._alerting: Alerting | None = None
        self._targets = Targets(None, ())
        if settings.alerts is not None:
            self._alerting = Alerting(settings.alerts, node=ranks.node, world_size=ranks.world_size)
            called = [settings.alerts.call] if settings.alerts.call is not None else []
            address = settings.alerts.webhook if ranks.rank == 0 else None
            run = {"run_id": run_id, "name": settings.name}
            functions = (*called, *settings.loggers.alert_functions)
            self._targets = Targets(None if address is None else _webhook(address, job, run), functions)
        number = next(_TRAININGS)
        self.pause = PauseAgreement(_boards_of(job, f"pause/{number}"), rank=ranks.rank, world_size=ranks.world_size)
        self.rest: RestOfRun | None = None
        """What the rest of the run takes, by the last projection of rank 0, or None where it is not known."""
        self._budget: BudgetWatch | None = None
        self._stopper: Stopper | None = None
        self._asked_to_stop: list[str] = []
        self._requests: list[StopRequest] = []
        self._courier = Courier(partial(job.note, "undelivered"))
        budget = settings.budget
        if budget is not None:
            if budget.may_stop:
                boards = _boards_of(job, f"stop/{number}")
                self.stop = StopAgreement(
                    boards, job.clock, rank=ranks.rank, world_size=ranks.world_size, hindrance=job.hindrance
                )
            if ranks.rank == 0:
                self._budget = BudgetWatch(budget, settings.price_usd_per_device_hour)
                if self.stop is not None:
                    self._stopper = Stopper(self.stop, look_every_s, self._requests.append, job.clock)

    @property
    def poll_interval_s(self) -> float | None:
        """Return how often `tick` must be called, s: often while the ranks agree on a step to stop at."""
        return LOOK_S if self.stop is not None and self.stop.is_open else None

    def hear(self, record: Record) -> None:
        """Add a record of this node's ledger."""
        if self._alerting is not None:
            self._samples.hear(record)

    def tick(self, node: NodeWork, suspects: Iterable[tuple[str, dict[str, Any]]], *, due: bool) -> None:
        """Look at what has been measured since the last call, and at what the ranks agree on.

        `suspects` are the events of other nodes about their suspects, as (sentence, data).
        """
        guard = self._job.guard
        if due and self._alerting is not None:
            guard.run("alerts", partial(self._watch, self._alerting, node, list(suspects)), None)
        if due:
            self._courier.deliver()
        if self.stop is not None and (due or self.stop.is_open):
            guard.run("stop", partial(self._agree, self.stop, self._tell(node)), None)

    def judge(self, projected: Projected, node: NodeWork) -> dict[str, float]:
        """Compare a projection with the budget, and return the metrics of the budget. Only rank 0 has any."""
        self.rest = _rest_of(projected, node)
        if self._budget is None:
            return {}
        verdict = self._budget.look(
            projected.record.step,
            projected.totals,
            projected.remaining,
            projected.view,
            node.context.factors,
            measured=projected.measured,
        )
        if verdict.news:
            self._exceeded(verdict, self._tell(node))
        if verdict.stop and self._budget.budget.on_exceed == "stop":
            self._ask_to_stop(verdict.state)
        share = verdict.state.share
        return {} if share is None else {f"{PREFIX}budget_share": share}

    def close(self) -> None:
        """Wait a little for alerts that are on their way."""
        self._courier.close()
        self.pause.close()
        if self.stop is not None:
            self.stop.close()

    @property
    def stopped(self) -> bool:
        """Return whether the ranks have agreed to stop and this one has done so."""
        return self.stop is not None and self.stop.obeyed

    def reason(self, reason: str) -> str:
        """Return the reason of a closing record: that of the agreed stop, if the training ended there."""
        decided = self.stop.decided if self.stop is not None else None
        if self.stop is None or decided is None or not self.stopped:
            return reason
        return f"stopped after step {self.stop.step:,}: {decided.reason}"

    def _watch(self, alerting: Alerting, node: NodeWork, told: list[tuple[str, dict[str, Any]]]) -> None:
        own = self._thread.state(self._job.ranks.rank, self._job.clock)
        if own is not None:
            node.tell_host(SUFFIX, own)
        recording = node.recording
        if recording is None:
            return
        tell = self._tell(node)
        for cycle in self._samples.take_cycles():
            self._raise(alerting.hear_cycle(cycle), tell)
        if not self._samples.has_span:
            return
        give_way()
        sample = self._samples.take(self._host_ranks.look(node.told_on_host(SUFFIX), self._samples.step_time_s))
        if sample is None:
            return
        give_way()
        suspects = alerting.look(sample, recording.recorder.gpu_contexts, recording.recorder.gpu_ranks)
        for found in alerting.news_of(suspects):
            tell(found.kind, found.message, found.data)
        if self._job.ranks.rank == 0:
            others = [suspect for message, data in told if (suspect := suspect_of(message, data)) is not None]
            elsewhere: list[Suspect] = [one for one in others if one.node != self._job.ranks.node]
            self._raise(alerting.judge([*suspects, *elsewhere], node.context.prediction), tell)

    def _raise(self, found: list[News], tell: Tell) -> None:
        """Record, log and deliver what was found. Ranks other than 0 leave the alerts of the run to rank 0."""
        if self._job.ranks.rank != 0:
            return
        for one in found:
            tell(one.kind, one.message, one.data)
            if one.kind == ALERT_EVENT:
                logger.warning("carbon_plugin: %s", one.message)
                self._deliver(Alert(kind=one.kind, message=one.message, at_unix_s=time.time(), data=one.data))
            else:
                logger.info("carbon_plugin: %s", one.message)

    def _exceeded(self, verdict: BudgetVerdict, tell: Tell) -> None:
        state = verdict.state
        budget = self._budget.budget if self._budget is not None else None
        data = {"step": state.step, "lines": {line.quantity: line.share for line in state.exceeded}}
        message = f"the budget is exceeded at step {state.step:,}: {state.phrase}"
        tell(EXCEEDED_EVENT, message, data)
        logger.warning("carbon_plugin: %s", message)
        self._deliver(Alert(kind=EXCEEDED_EVENT, message=message, at_unix_s=time.time(), data=data))
        if budget is not None and callable(budget.on_exceed):
            self._courier.send("the function of the budget", partial(self._call, budget.on_exceed, state))

    def _call(self, function: Callable[[BudgetState], object], state: BudgetState, wait: Wait) -> None:
        if function(state) == "stop":
            self._asked_to_stop.append(state.phrase)

    def _ask_to_stop(self, state: BudgetState) -> None:
        if self._stopper is not None:
            self._stopper.ask(f"the budget is exceeded: {state.phrase}")

    def _agree(self, stop: StopAgreement, tell: Tell) -> None:
        try:
            stop.look()
            if self._stopper is not None:
                for phrase in self._asked_to_stop:
                    self._stopper.ask(f"the function of the budget asked for it: {phrase}")
                self._stopper.tick()
        except OSError as error:  # a later look may succeed, so that the part stays on
            logger.debug("ranks cannot agree on a step to stop at", exc_info=error)
        while self._requests:
            request = self._requests.pop(0)
            data = {} if request.at_step is None else {"at_step": request.at_step}
            tell(request.kind, request.message, data)
            logger.warning("carbon_plugin: %s", request.message)

    def _deliver(self, alert: Alert) -> None:
        hook = self._targets.webhook
        if hook is not None:
            self._courier.send(f"alert to {hook.host}", partial(hook.send, alert))
        for function in self._targets.functions:
            self._courier.send("function for alerts", partial(_hand, function, alert))

    def _tell(self, node: NodeWork) -> Tell:
        """Return the function that records an event: in this node's ledger, or as soon as there is one."""
        recording = node.recording
        if recording is not None:
            return recording.recorder.note
        return lambda kind, message, data: self._job.note(kind, message)


def _boards_of(job: WatchedJob, what: str) -> list[Noticeboard]:
    """Return where the ranks of this job may agree: in the run directory, or in the store of a job of torch.

    `what` is the same on all ranks, and begins with the name of a folder of the run directory.
    """
    world_size, folder = job.ranks.world_size, FolderBoard(job.run_dir / what.partition("/")[0])
    if world_size == 1:
        return [folder]
    return [folder, StoreBoard(partial(job_store, world_size), f"{what}/{job.settings.name}")]


def _webhook(address: str, job: WatchedJob, run: dict[str, str]) -> Webhook:
    from carbon_plugin.monitor.acting.webhook import Webhook  # it loads an HTTP client

    return Webhook(address, job.environ, run)


def _rest_of(projected: Projected, node: NodeWork) -> RestOfRun | None:
    """Return what the rest of the run takes, or None where its length, its carbon or its idle power is unknown."""
    remaining, view, spec = projected.remaining, projected.view, node.context.effective.spec
    if remaining is None or remaining.time_s <= 0 or not projected.measured or spec is None:
        return None
    if view.whole is None or view.spent is None or node.context.factors is None:
        return None
    running_w = sum(item.energy.value for item in remaining.energies) / remaining.time_s
    idle = modelled_energies(spec.cluster, idle_power_figure(spec.cluster), 1.0)
    whole_kg, spent_kg = view.whole.embodied_kg, view.spent.embodied_kg
    to_come_kg = 0.0 if whole_kg is None else whole_kg.value - (spent_kg or 0.0)
    return RestOfRun(
        remaining_s=remaining.time_s,
        running_w=running_w,
        idle_w=sum(item.energy.value for item in idle),
        pue=node.context.factors.pue.value,
        embodied_kg_per_s=max(0.0, to_come_kg) / remaining.time_s,
    )


def _hand(function: Callable[[Alert], object], alert: Alert, wait: Wait) -> None:
    function(alert)
