"""Search the layouts of one cluster: which fit, and which of those no other beats in time and energy.

Grids come from `space`, all equations from `predict`. Memory is cheap to compute and comes first; steps are timed only
where a layout fits. Only what may be on the front is kept between grids, so that memory hardly grows with the number of
layouts. Layouts are compared by the time that they are expected to take: a layout that nearly fills the memory runs
slower than the equations say, or not at all (`fullness`), and one that hides much traffic is slower on a slow network
(`slow_network`), which is asked of those near the front alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbon_plugin.plan.search.data_parallel import data_parallel_layouts
from carbon_plugin.plan.search.feasibility import SearchInputs, inputs_of, no_layout, no_memory
from carbon_plugin.plan.search.fullness import expected_slowdown
from carbon_plugin.plan.search.pareto import STEP, Floats, Indices, front, not_hopeless
from carbon_plugin.plan.search.slow_network import MOST, expected_on_networks, slow
from carbon_plugin.plan.search.space import USUAL, Grid, Space, complexity, layout_at
from carbon_plugin.predict.arrays import Flags
from carbon_plugin.predict.case.inputs import Layout, take
from carbon_plugin.predict.power import step_power_w
from carbon_plugin.predict.uncertainty.fit import fits
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.run import RunSpec

COLUMNS = ("step_time_s", "expected_time_s", "power_w", "memory_bytes", "complexity")
FURTHEST = MOST * (1 + 2 * STEP)
"""How far a layout may lie behind others and still be the best for the network of some cluster."""

ProgressCallback = Callable[[float], None]
"""A function that is told the share of the search that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Front:
    """One front holds layouts that no other beats in both expected step time and energy, by rising expected time.

    Its arrays have shape (k,). `step_time_s` is the predicted time, `expected_time_s` that times
    `fullness.expected_slowdown` and what a slow network may cost (`slow_network`). `power_w` is the mean power of a
    device; `complexity` is that of `space.complexity`.
    """

    layouts: Layout
    step_time_s: Floats
    expected_time_s: Floats
    power_w: Floats
    memory_bytes: Floats
    complexity: Floats

    def layout(self, index: int) -> ParallelLayout:
        """Return a member as the spec type."""
        return layout_at(self.layouts, index)


@dataclass(frozen=True, slots=True)
class FoundLayouts:
    """One instance holds what a search found: its front, how many layouts were considered, and how many of them fit."""

    front: Front
    considered: int
    fitting: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One instance holds the layout of the least expected time, and how many layouts were looked at."""

    layout: ParallelLayout
    step_time_s: float
    expected_time_s: float
    memory_bytes: float
    evaluated: int
    fitting: int


def search_layout(spec: RunSpec) -> SearchResult:
    """Return the usual layout of `spec` that fits in device memory and is expected to be the fastest.

    Of layouts within 0.1 % of it the simplest is taken. A model that is known only by what was counted in it is
    data-parallel. Raises the errors of `search`.
    """
    if isinstance(spec.model, CountedModel):
        candidates = data_parallel_layouts(spec)
        first, fitting = candidates[0], sum(one.fits for one in candidates)
        return SearchResult(
            layout=first.layout,
            step_time_s=first.step_time_s,
            expected_time_s=first.expected_time_s,
            memory_bytes=first.memory_bytes,
            evaluated=len(candidates),
            fitting=fitting,
        )
    found = search(spec, USUAL)
    best = found.front
    return SearchResult(
        layout=best.layout(0),
        step_time_s=float(best.step_time_s[0]),
        expected_time_s=float(best.expected_time_s[0]),
        memory_bytes=float(best.memory_bytes[0]),
        evaluated=found.considered,
        fitting=found.fitting,
    )


def search(spec: RunSpec, space: Space, on_progress: ProgressCallback | None = None) -> FoundLayouts:
    """Return the layouts of `space` that fit, keep to what the spec holds, and that no other beats (`pareto.front`).

    A layout beats another if it is better in both expected step time and energy. Raises `InfeasibleLayoutError` when no
    layout exists or none fits, saying what would help, and the errors of `feasibility.inputs_of`.
    """
    inputs = inputs_of(spec)
    best: Front | None = None
    considered = fitting = 0
    smallest, tightest = np.inf, None
    for grid, done in inputs.grids(space):
        need = inputs.need_bytes(grid)
        feasible = fits(need, inputs.capacity_bytes)
        considered += int(np.count_nonzero(grid.valid))
        fitting += int(np.count_nonzero(feasible))
        if feasible.any():
            here = _near(_fitting(inputs, *grid.cropped(feasible, need)))
            best = here if best is None else _near(_joined(best, here))
        elif need.min() < smallest:
            smallest, tightest = float(need.min()), layout_at(grid.at([int(np.argmin(need))]), 0)
        if on_progress is not None:
            on_progress(done)
    if best is not None:
        return FoundLayouts(_ranked(inputs, best), considered, fitting)
    raise no_layout(inputs, space) if tightest is None else no_memory(inputs, space, considered, smallest, tightest)


def _fitting(inputs: SearchInputs, grid: Grid, feasible: Flags, need_bytes: Floats) -> Front:
    """Return the layouts of a grid that fit and lie near its front, timed on a network that is as fast as its ports."""
    step = inputs.step_time(grid.layout)
    power = step_power_w(step.terms, inputs.spec.cluster)
    flat = np.flatnonzero(feasible)

    def fitting(values: Any) -> Floats:
        return np.asarray(np.broadcast_to(values, feasible.shape).ravel()[flat])

    time_s, power_w, effort = fitting(step.total), fitting(power), fitting(complexity(grid.layout))
    need = fitting(need_bytes)
    expected_s = time_s * expected_slowdown(need / inputs.capacity_bytes, inputs.spec.stack.population)
    near = not_hopeless(expected_s, expected_s * power_w, FURTHEST)
    return Front(grid.at(flat[near]), *(column[near] for column in (time_s, expected_s, power_w, need, effort)))


def _near(found: Front) -> Front:
    """Return the layouts that no extreme beats by more than a slow network may cost at most."""
    return _at(found, not_hopeless(found.expected_time_s, found.expected_time_s * found.power_w, FURTHEST))


def _ranked(inputs: SearchInputs, found: Front) -> Front:
    """Return the front of the layouts by the time that they are expected to take on the network of some cluster."""
    expected_s = found.expected_time_s
    if inputs.spec.cluster.nodes > 1:
        slow_s = np.asarray(replace(inputs, rates=slow(inputs.rates)).step_time(found.layouts).total)
        expected_s = expected_s * expected_on_networks(found.step_time_s, slow_s) / found.step_time_s
    ranked = replace(found, expected_time_s=expected_s)
    return _at(ranked, front(expected_s, expected_s * found.power_w, found.complexity))


def _joined(first: Front, second: Front) -> Front:
    layouts = Layout(
        **{name: np.append(getattr(first.layouts, name), getattr(second.layouts, name)) for name in Layout.__slots__}
    )
    return Front(layouts, **{name: np.append(getattr(first, name), getattr(second, name)) for name in COLUMNS})


def _at(found: Front, indices: Indices) -> Front:
    return Front(take(found.layouts, indices), **{name: getattr(found, name)[indices] for name in COLUMNS})
