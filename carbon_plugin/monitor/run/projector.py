"""Read all ledgers of the run on rank 0, project the whole of it, and compute the metrics for the logger."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from carbon_plugin.errors import SpecError
from carbon_plugin.ledger.files import node_of, rank_of
from carbon_plugin.ledger.held.expected import expected_gpus
from carbon_plugin.ledger.held.unobserved import look_up_idle_power
from carbon_plugin.ledger.records import Projection
from carbon_plugin.monitor.clock import WallClock
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.intensity import expected_g_per_kwh
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.ledgers.journal import Journal
from carbon_plugin.monitor.ranks import Others
from carbon_plugin.monitor.run.collector import Collector
from carbon_plugin.monitor.run.follower import UNNAMED, LedgerFollower
from carbon_plugin.monitor.run.metrics import metrics_of
from carbon_plugin.monitor.run.projection import (
    Outlook,
    Remaining,
    has_rates,
    outlook,
    remaining_measured,
    remaining_predicted,
)
from carbon_plugin.monitor.run.skew import SkewWatch
from carbon_plugin.monitor.run.totals import RunTotals, run_totals, without_copies
from carbon_plugin.monitor.run.unchanged import Unchanged
from carbon_plugin.plan.forecast import run_time_figure
from carbon_plugin.plan.goodput import Goodput
from carbon_plugin.plan.real_run import best_case, planned_goodput
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.range import Range
from carbon_plugin.threads.turns import give_way

RESTARTED_EVENT = "restarted_at_0"
BEYOND_EVENT = "beyond_total_steps"
LOOK_S = 0.05
NOTHING = Remaining(time_s=0.0, energies=(), reserved=(), spread=(1.0, 1.0))
START_S = 10.0
"""A ledger without a window may be of this launch if it began at most this many seconds before this process."""


class Projected(Struct, frozen=True, kw_only=True):
    """Holds a projection as a record and as metrics.

    `skews_s` are new clock offsets by file name, s.
    `reached_before` is the last step of attempts that had ended when this one began. `totals`, `remaining` and `view`
    are what the record was made of, and `measured` says whether what remains follows from measured rates.
    """

    record: Projection
    metrics: dict[str, float]
    skews_s: dict[str, float]
    totals: RunTotals
    remaining: Remaining | None
    view: Outlook
    measured: bool
    reached_before: int = 0


class Projector:
    """Follows the ledgers of a run and projects it.

    `journal` is this process's own ledger, or None if it has none. `collector` receives the totals of nodes whose
    ledgers cannot be read.
    """

    def __init__(
        self,
        run_dir: Path,
        journal: Journal | None,
        *,
        nodes: int,
        wall: WallClock,
        collector: Collector | None = None,
    ) -> None:
        self._collector = collector
        self._follower = LedgerFollower(run_dir, journal)
        self._own = journal.totals if journal else None
        self._journal = journal
        if self._own is not None and self._own.manifest is not None:
            look_up_idle_power(self._own.manifest)
        self._wall = wall
        self._nodes = nodes
        self._clocks = SkewWatch()
        self._expected = Unchanged(expected_gpus)
        self._started_unix_s = wall.now_unix_s()

    def suspects(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the suspects that other nodes have reported since the last call, as (sentence, data)."""
        told = []
        for file in self._follower.files.values():
            if file is not self._own:
                told += [(event.message, event.data) for event in file.suspects]
                file.suspects.clear()
        return told

    def heads(self) -> dict[str, str]:
        """Return the chain heads of the other nodes' ledgers."""
        return self._follower.heads()

    def settle(self, others: Others, node: int, local_world_size: int, within_s: float) -> tuple[int, int, int]:
        """Wait, beside one look, at most `within_s` seconds until the other ledgers of this launch have ended.

        Return how many have not ended, how many ledgers the launch has, and how many ranks of this host were neither
        heard of nor have a ledger. Ranks end together, and the last window of each holds what it has used since the
        one before. A ledger that one of the `others` writes may be without any window, or not to be seen yet.
        """
        deadline_s = time.monotonic() + within_s
        while True:
            self._follower.poll()
            files = self._follower.files
            launch = others.writing | {name for name, file in files.items() if self._is_of_launch(file)}
            being_written = sum(name not in files or not files[name].closed for name in launch)
            writing = {rank for name in launch if node_of(name) == node and (rank := rank_of(name)) is not None}
            unheard = max(0, local_world_size - len(others.heard | writing))
            if not (being_written or unheard) or time.monotonic() > deadline_s:
                return being_written, len(launch), unheard
            time.sleep(LOOK_S)

    def _is_of_launch(self, file: FileTotals) -> bool:
        """Return whether a ledger is the own one, or one that was written since this process began."""
        if file is self._own:
            return True
        if file.manifest is None:
            return False
        began_s = self._own.times.started_s if self._own else self._started_unix_s
        end_s = file.times.end_s - self._clocks.offsets_s.get(file.place, 0.0)
        # Ranks of a launch begin at about the same time, and their first window comes later.
        return end_s >= began_s - (0.0 if file.windows else START_S)

    def project(self, context: Context, step: int, *, stopped: bool = False) -> Projected:
        """Read what is new and project the run. `step` is the last optimizer step of the run, 0 where this attempt
        knows of none. Nothing remains after it if the run was `stopped`."""
        own_name = (self._journal.file or UNNAMED) if self._journal else None
        files = self._files(own_name)
        skews_s = self._clocks.look(self._own, files) if self._own and self._follower.caught_up else {}
        totals = run_totals(
            files,
            attempt_started_s=self._started_unix_s,
            offsets_s=self._clocks.offsets_s,
            own=own_name,
            windows_until=self._follower.windows_until,
            expected_of=self._expected,
        )
        reached = self._reached_before(files, own_name)
        step = step or reached  # an evaluation, or an attempt before its first step, is where the run was left
        own = self._own or next(iter(self._follower.files.values()), FileTotals())
        total_steps = context.effective.total_steps
        steps = 0 if stopped else None if total_steps is None else max(0, total_steps - step)
        remaining = _remaining(context, totals, own, steps)
        view = outlook(totals, _at_hours_to_come(context, remaining), context.factors)
        give_way()
        record = Projection(
            at_unix_s=self._wall.now_unix_s(),
            step=step,
            total_steps=total_steps,
            nodes_seen=totals.nodes_seen,
            nodes=self._nodes,
            spent_energy_j=totals.energy_j,
            spent_carbon_kg=view.spent.total_kg if view.spent else None,
            energy_j=_as_tuple(view.energy_j),
            carbon_kg=_carbon(view),
            remaining_s=view.remaining_s,
            best_case_remaining_s=_best_case_s(context, totals, steps),
        )
        give_way()
        metrics = metrics_of(
            totals,
            view,
            step_time_s=measured_step_time_s(own),
            predicted_step_time_s=context.predicted_step_time_s,
            by_measured_rates=has_rates(totals) if steps else None,
        )
        give_way()
        return Projected(
            record=record,
            metrics=metrics,
            skews_s=skews_s,
            totals=totals,
            remaining=remaining,
            view=view,
            measured=has_rates(totals),
            reached_before=reached,
        )

    def _files(self, own_name: str | None) -> dict[str, FileTotals]:
        """Read what is new and return all ledgers of the run by name, without copies of others."""
        self._follower.poll()
        give_way()
        files = self._follower.files
        if self._collector is not None:
            # A ledger that can be read replaces its report, because it holds more.
            self._collector.poll()
            files = {**self._collector.files, **files}
        files = without_copies(files, own_name)
        give_way()
        return files

    def _reached_before(self, files: Mapping[str, FileTotals], own_name: str | None) -> int:
        """Return the last optimizer step of the earlier attempts, 0 without any."""
        before = [
            file.last_step
            for name, file in files.items()
            if name != own_name
            and file.times.end_s - self._clocks.offsets_s.get(file.place, 0.0) < self._started_unix_s
        ]
        return max(before, default=0)


def doubts(projection: Projection, *, steps: int, reached_before: int) -> list[tuple[str, str]]:
    """Return the doubts about the numbers of steps as (kind, sentence). `steps` are those that this process has
    counted."""
    found = []
    if steps and projection.step == steps and reached_before > 0:
        sentence = (
            f"this attempt counts its steps from 0 although its run has reached step {reached_before:,}: they count as "
            "done again; load the states of the optimizer, pass step=, or name another run_dir (docs/resume.md)"
        )
        found.append((RESTARTED_EVENT, sentence))
    if projection.total_steps is not None and projection.step > projection.total_steps:
        sentence = (
            f"step {projection.step:,} is past the {plural(projection.total_steps, 'step')} that the run was to "
            "have, so that "
            "nothing is projected beyond what is spent; total_steps= is the length of the whole run"
        )
        found.append((BEYOND_EVENT, sentence))
    return found


def _remaining(context: Context, totals: RunTotals, own: FileTotals, steps: int | None) -> Remaining | None:
    """Return what remains: by measured rates as soon as there are any, else as predicted, or None if neither is known.

    Measured rates hold the time that this run really takes a step. Of what is planned beyond the steps, only the
    failures to come remain. Without rates, what remains is that of a real run, as it was planned.
    """
    if steps is None:
        return None
    if steps == 0:
        return NOTHING
    goodput = _planned(context)
    if has_rates(totals):
        failing = goodput.failing_overhead if goodput is not None else 0.0
        return remaining_measured(totals, steps, own.spans.log_sigma, failing)
    spec, prediction = context.effective.spec, context.prediction
    if goodput is None or spec is None or prediction is None:
        return None
    run_time = run_time_figure(prediction, goodput)
    spread = run_time.low / run_time.value, run_time.high / run_time.value
    return remaining_predicted(prediction, spec.cluster, steps, goodput.running_overhead, spread)


def _best_case_s(context: Context, totals: RunTotals, steps: int | None) -> float | None:
    """Return the time of what remains in the best case of the layout, s, as long as what remains is predicted."""
    goodput = None if steps is None or has_rates(totals) else _planned(context)
    best = None if goodput is None else best_case(goodput)
    if best is None or steps is None or context.prediction is None:
        return None
    return steps * context.prediction.step_time_s.value * (1 + best.running_overhead)


def _planned(context: Context) -> Goodput | None:
    """Return how the time of the run is divided, or None without a spec and a prediction."""
    if context.effective.spec is None or context.prediction is None:
        return None
    try:
        return planned_goodput(context.effective.spec, context.prediction)
    except SpecError:  # the stated failures would leave no progress
        return None


def _at_hours_to_come(context: Context, remaining: Remaining | None) -> Remaining | None:
    """Return what remains, at the intensity of the hours to come where the site has a series for them."""
    if remaining is None:
        return None
    expected = expected_g_per_kwh(context.effective.site, time.time(), remaining.time_s)
    if expected is None:
        return remaining
    energies = (replace(item, intensity_g_per_kwh=expected) for item in remaining.energies)
    return replace(remaining, energies=tuple(energies))


def measured_step_time_s(own: FileTotals) -> float | None:
    """Return the measured seconds a step: those of the last span, else the mean of the training windows so far."""
    if own.spans.last is not None:
        return own.spans.last.step_time_s
    counted = own.counted.step_time_s
    return None if counted is None else counted.value


def _carbon(view: Outlook) -> tuple[float, float, float] | None:
    return _as_tuple(view.whole.total_kg if view.whole is not None else None)


def _as_tuple(numbers: Range | None) -> tuple[float, float, float] | None:
    """Return a range as a ledger records it: low, value, high."""
    return None if numbers is None else (numbers.low, numbers.value, numbers.high)
