"""Search the clusters, places and layouts of one run. This answers `plan --search`.

Every number is that of the forecast which `plan` would make of the same spec. Alternatives that another one beats in
time, energy and carbon are dropped (`pareto`). The others are the answer; the user decides which of them to take. A
layout that nearly fills the memory is compared by the time and energy that such runs are expected to take (`fullness`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from carbon_plugin.errors import InfeasibleLayoutError, SpecError
from carbon_plugin.plan.forecast import Forecast, layout_phrase, make_forecast
from carbon_plugin.plan.real_run import BestCase, Planned, overrun_of
from carbon_plugin.plan.search.feasibility import MORE_NODES, nodes_phrase, with_held, with_nodes
from carbon_plugin.plan.search.fullness import expected_slowdown
from carbon_plugin.plan.search.layouts import FoundLayouts, ProgressCallback, search, search_layout
from carbon_plugin.plan.search.pareto import not_dominated, steps_of
from carbon_plugin.plan.search.slow_network import network_slowdown
from carbon_plugin.plan.search.space import EVERYTHING
from carbon_plugin.plan.whatif.planned_run import as_many_devices, relocated
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, usual_node
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.numbers.amounts import days_phrase, plural
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY
from carbon_plugin.spec.on_cluster import on_cluster
from carbon_plugin.spec.run import RunSpec, with_layout

SEARCH_VERSION = 1
OBJECTIVES = ("time", "energy", "carbon")
Directories = Sequence[str | Path]


class Question(Struct, frozen=True, kw_only=True):
    """One question says what is searched beside the layout. Where it names nothing, the value of the spec is kept.

    Other accelerators come in their usual nodes and at their own power limit, with as many devices as the spec has
    where `nodes` is empty.
    """

    nodes: tuple[int, ...] = ()
    accelerators: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        for count in self.nodes:
            if not isinstance(count, int) or count < 1:
                raise SpecError(f"search: nodes is {count!r}, expected a positive integer")
        if self.deadline_s is not None and not self.deadline_s > 0:
            stated = self.deadline_s / SECONDS_PER_DAY
            raise SpecError(f"search: the deadline (--deadline-days) is {stated:g}, expected a positive number of days")


class RunOption(Struct, frozen=True, kw_only=True):
    """One option is a way to run that no other beats in expected time, energy and carbon.

    Where `best_case` is set, all numbers are those of a real run, and `best_case` is the same run without what that
    takes beyond the modelled losses. `best` names the objectives in which the option is the best of all. `energy_j` is
    that of the facility over the run; `spec_file` is where the option was written as a spec. `notes` say what does not
    move along to another zone or device.
    """

    accelerator: str
    node: str
    nodes: int
    devices: int
    zone: str
    layout: ParallelLayout
    layout_phrase: str
    step_time_s: Figure
    mfu: float
    memory_bytes: float
    memory_capacity_bytes: float
    fit_probability: float | None
    run_time_s: Figure
    device_hours: Figure
    energy_j: Figure
    operational_kg: Figure
    embodied_kg: Figure
    total_kg: Figure
    cost_usd: Figure | None = None
    best_case: BestCase | None = None
    best: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spec_file: str | None = None


class Skipped(Struct, frozen=True, kw_only=True):
    """One instance names a cluster without an option, and says why it has none."""

    cluster: str
    reason: str


class SearchReport(Struct, frozen=True, kw_only=True):
    """One report holds the front of time, energy and carbon by rising time.

    `considered` is the number of layouts of all clusters, `fitting` the number of those that fit in memory and were
    timed.
    """

    version: int
    name: str
    model: str
    considered: int
    fitting: int
    clusters: int
    deadline_s: float | None
    options: tuple[RunOption, ...]
    skipped: tuple[Skipped, ...]


class SearchAnswer(NamedTuple):
    """One answer holds the report, and the spec of each of its options."""

    report: SearchReport
    specs: tuple[RunSpec, ...]


class _Obstacle(NamedTuple):
    """One instance says why a cluster has no option. `least_time_s` is set where only the deadline was too short."""

    variant: RunSpec
    reason: str
    least_time_s: float | None = None


def search_alternatives(
    spec: RunSpec,
    question: Question,
    *,
    profile_dirs: Directories = (),
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
) -> SearchAnswer:
    """Search every layout on every cluster and in every zone that is asked for.

    A cluster on which nothing runs is left out with the reason. Raises `InfeasibleLayoutError` in one line where
    nothing is left, naming the constraint that removed the last ones and what would help; `SpecError` or
    `FootprintError` for unknown accelerators and zones.
    """
    variants = list(_on_clusters(spec, question, profile_dirs))
    overrun = overrun_of(spec)  # every option is planned with the overrun of the run, so that only the option differs
    found: list[_Candidate] = []
    obstacles: list[_Obstacle] = []
    considered = fitting = 0
    for number, (variant, notes) in enumerate(variants):
        try:
            result = search(variant, EVERYTHING, _part_of(on_progress, number, len(variants)))
            considered, fitting = considered + result.considered, fitting + result.fitting
            forecasts = [
                make_forecast(with_layout(variant, result.front.layout(index)), seed=seed, overrun=overrun)
                for index in range(result.front.step_time_s.size)
            ]
        except SpecError as error:
            obstacles.append(_Obstacle(variant, str(error)))
            continue
        in_time = [one for one in forecasts if one.run_time_s.value <= (question.deadline_s or math.inf)]
        found += [
            candidate for forecast in in_time for candidate in _in_zones(forecast, question, notes, seed, overrun)
        ]
        if not in_time:
            obstacles.append(_too_late(variant, result, forecasts[0], question))
    if not found:
        raise _nothing(question, obstacles, seed, overrun)
    front = _front(found)
    report = SearchReport(
        version=SEARCH_VERSION,
        name=spec.name,
        model=spec.model.name,
        considered=considered,
        fitting=fitting,
        clusters=len(variants),
        deadline_s=question.deadline_s,
        options=tuple(_option(candidate, best) for candidate, best in front),
        skipped=tuple(Skipped(cluster=_name_of(one.variant.cluster), reason=one.reason) for one in obstacles),
    )
    return SearchAnswer(report, tuple(candidate.forecast.spec for candidate, _ in front))


class _Variant(NamedTuple):
    spec: RunSpec
    notes: tuple[str, ...]


class _Candidate(NamedTuple):
    forecast: Forecast
    notes: tuple[str, ...]

    @property
    def objectives(self) -> tuple[float, ...]:
        """Return the expected values of `OBJECTIVES`: those of the forecast times what filling the memory and a slow
        network may cost.
        """
        forecast = self.forecast
        memory, energy = forecast.prediction.memory, forecast.footprint.energy_j["facility"]
        slower = float(expected_slowdown(memory.total_bytes / memory.capacity_bytes, forecast.spec.stack.population))
        slower *= network_slowdown(forecast.spec, forecast.prediction.step_time_s.value)
        return tuple(slower * figure.value for figure in (forecast.run_time_s, energy, forecast.footprint.counted_kg))


def _on_clusters(spec: RunSpec, question: Question, profile_dirs: Directories) -> Iterator[_Variant]:
    """Return the run on every cluster that is asked for, without a layout, and what changes with the cluster."""
    kinds = [spec.cluster]
    if question.accelerators:
        kinds = [_cluster_of(name, spec.cluster, question, profile_dirs) for name in question.accelerators]
    for kind in kinds:
        for nodes in question.nodes or (kind.nodes,):
            cluster = msgspec.structs.replace(kind, nodes=nodes)
            moved, notes = on_cluster(msgspec.structs.replace(spec, layout=None), cluster)
            yield _Variant(moved, notes)


def _cluster_of(name: str, ours: Cluster, question: Question, profile_dirs: Directories) -> Cluster:
    """Return the cluster of another kind of device in its usual nodes.

    It has whole nodes where their number is asked for. Else it has as many devices as the run's own, and the most
    devices a node that leaves none over.
    """
    accelerator = load_accelerator(name, profile_dirs=profile_dirs)
    if accelerator.name == ours.accelerator.name:
        return ours  # the cluster of the spec may have a node that is not the usual one
    if not question.nodes:
        return as_many_devices(accelerator, ours.devices, profile_dirs)
    node = usual_node(accelerator, None, nodes=max(question.nodes), profile_dirs=profile_dirs)
    return Cluster(accelerator=accelerator, node=node, nodes=1, devices_per_node=node.accelerators)


def _in_zones(
    forecast: Forecast, question: Question, notes: tuple[str, ...], seed: int, overrun: Planned
) -> Iterator[_Candidate]:
    """Return a forecast in every zone that is asked for, with `notes` and what does not move to that zone."""
    spec = forecast.spec
    for zone in question.zones or (spec.site.zone,):
        if zone == spec.site.zone or zone is None:
            yield _Candidate(forecast, notes)
            continue
        site, left = relocated(spec.site, zone)
        moved = make_forecast(msgspec.structs.replace(spec, site=site), seed=seed, overrun=overrun)
        yield _Candidate(moved, (*notes, *left))


def _front(found: list[_Candidate]) -> list[tuple[_Candidate, tuple[str, ...]]]:
    """Return the candidates that no other beats, to 0.1 %, by rising expected time, each with its best objectives.

    These are the objectives in which it is the best of all.
    """
    found = sorted(found, key=lambda candidate: candidate.objectives)
    values = np.array([candidate.objectives for candidate in found])
    steps = steps_of(np.maximum(values, np.finfo(float).tiny))  # carbon can be 0, which is in no step
    kept = not_dominated(steps)
    least = values[kept].argmin(axis=0)
    return [
        (found[index], tuple(name for name, best in zip(OBJECTIVES, least, strict=True) if best == rank))
        for rank, index in enumerate(kept)
    ]


def _option(candidate: _Candidate, best: tuple[str, ...]) -> RunOption:
    forecast = candidate.forecast
    prediction, footprint, cluster = forecast.prediction, forecast.footprint, forecast.spec.cluster
    assert forecast.spec.layout is not None  # a forecast always has one
    assert footprint.embodied_kg is not None  # every profile states the manufacture of its hardware
    return RunOption(
        accelerator=cluster.accelerator.name,
        node=cluster.node.name,
        nodes=cluster.nodes,
        devices=cluster.devices,
        zone=forecast.spec.site.zone or forecast.factors.intensity.zone,
        layout=forecast.spec.layout,
        layout_phrase=layout_phrase(forecast),
        step_time_s=prediction.step_time_s,
        mfu=prediction.mfu,
        memory_bytes=prediction.memory.total_bytes,
        memory_capacity_bytes=prediction.memory.capacity_bytes,
        fit_probability=prediction.memory.fit_probability,
        run_time_s=forecast.run_time_s,
        device_hours=forecast.device_hours,
        energy_j=footprint.energy_j["facility"],
        operational_kg=footprint.operational_kg,
        embodied_kg=footprint.embodied_kg,
        total_kg=footprint.counted_kg,
        cost_usd=forecast.cost_usd,
        best_case=forecast.best_case,
        best=best,
        notes=candidate.notes,
    )


def _name_of(cluster: Cluster) -> str:
    return f"{cluster.nodes:,} x {cluster.node.name} with {cluster.devices_per_node} {cluster.accelerator.name}"


def _part_of(on_progress: ProgressCallback | None, number: int, total: int) -> ProgressCallback | None:
    """Return a function that reports the progress of one of several searches as progress of all of them."""
    if on_progress is None:
        return None
    return lambda share: on_progress((number + share) / total)


def _too_late(variant: RunSpec, found: FoundLayouts, fastest: Forecast, question: Question) -> _Obstacle:
    least, limit = fastest.run_time_s.value, question.deadline_s or math.inf
    return _Obstacle(
        variant,
        f"deadline: the fastest of {plural(found.fitting, 'layout')} of {variant.model.name}{with_held(variant)} "
        "that fit on "
        f"{nodes_phrase(variant)} takes {days_phrase(least / SECONDS_PER_DAY)} ({layout_phrase(fastest)}), "
        f"more than the deadline of {days_phrase(limit / SECONDS_PER_DAY)}",
        least,
    )


def _nothing(question: Question, obstacles: list[_Obstacle], seed: int, overrun: Planned) -> InfeasibleLayoutError:
    """Return the error where no cluster is left. It names the obstacle on the cluster that comes nearest."""
    late = [(one.least_time_s, one) for one in obstacles if one.least_time_s is not None]
    if late:
        least, nearest = min(late, key=lambda pair: pair[0])
        message = f"{nearest.reason}; {_sooner(nearest.variant, question, least, seed, overrun)}"
    else:
        clusters = [one.variant.cluster for one in obstacles]
        room = [cluster.devices * cluster.accelerator.memory_bytes.value for cluster in clusters]
        message = obstacles[room.index(max(room))].reason
    several = f"none of {len(obstacles)} clusters can run it; nearest is: " if len(obstacles) > 1 else ""
    return InfeasibleLayoutError(f"{several}{message}")


def _sooner(variant: RunSpec, question: Question, least_s: float, seed: int, overrun: Planned) -> str:
    """Return in words what would help to meet the deadline."""
    limit, later = (
        question.deadline_s or math.inf,
        f"a deadline of {days_phrase(math.ceil(least_s / SECONDS_PER_DAY * 100) / 100, 8)}",
    )
    for more in (with_nodes(variant, factor) for factor in MORE_NODES):
        try:
            forecast = make_forecast(with_layout(more, search_layout(more).layout), seed=seed, overrun=overrun)
        except SpecError:
            continue  # the batch cannot be split over so many devices
        if forecast.run_time_s.value <= limit:
            days = forecast.run_time_s.value / SECONDS_PER_DAY
            return f"{nodes_phrase(more)} would take {days:.3g} days, {later} would do too"
    return f"{later} would do"
