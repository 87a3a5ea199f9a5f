"""The search over the layouts of one cluster: which fit, and which of those no other beats in time and energy.

Grids come from `space`, all equations from `predict`. Memory is cheap and comes first; steps are timed only where a
layout fits. What is kept between grids is the front, so that memory does not grow with the number of layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbon_plugin.plan.feasibility import Inputs, inputs_of, no_memory, no_split
from carbon_plugin.plan.pareto import Floats, Indices, front_with_room
from carbon_plugin.plan.space import USUAL, Grid, Space, complexity, describe, layout_at
from carbon_plugin.predict.case import Flags, Layout, take
from carbon_plugin.predict.power import step_power_w
from carbon_plugin.predict.schedule import step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.run import RunSpec

__all__ = ["Found", "Front", "Progress", "SearchResult", "describe", "search", "search_layout"]

Progress = Callable[[float], None]
"""Told the share of the search that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Front:
    """Layouts that no other beats in both step time and energy, by rising step time: arrays of shape (k,).

    One that fills the memory nearly up (`feasibility.NEARLY_FULL`) does not beat one that leaves room. `power_w` is
    the mean power of a device; `complexity` that of `space.complexity`.
    """

    layouts: Layout
    step_time_s: Floats
    power_w: Floats
    memory_bytes: Floats
    complexity: Floats

    def layout(self, index: int) -> ParallelLayout:
        """A member as the spec type."""
        return layout_at(self.layouts, index)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: its front, how many layouts were considered, and how many of them fit."""

    front: Front
    considered: int
    fitting: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The fastest layout that fits, and how many were looked at."""

    layout: ParallelLayout
    step_time_s: float
    memory_bytes: float
    evaluated: int
    fitting: int


def search_layout(spec: RunSpec) -> SearchResult:
    """The fastest usual layout of `spec` that fits in device memory; of those within 0.1 % of it the simplest, with
    room in memory if there is one.

    Raises as `search`.
    """
    found = search(spec, USUAL)
    best = found.front
    return SearchResult(
        best.layout(0), float(best.step_time_s[0]), float(best.memory_bytes[0]), found.considered, found.fitting
    )


def search(spec: RunSpec, space: Space, on_progress: Progress | None = None) -> Found:
    """The layouts of `space` that fit and that no other beats in both step time and energy (`pareto.front`).

    Raises `InfeasibleLayoutError` when no layout exists or none fits, saying what would help, and `SpecError` as
    `feasibility.inputs_of`.
    """
    inputs = inputs_of(spec)
    best: Front | None = None
    considered = fitting = 0
    smallest, tightest = np.inf, None
    for grid, done in inputs.grids(space):
        need = inputs.need_bytes(grid)
        fits = need <= inputs.capacity_bytes
        considered += int(np.count_nonzero(grid.valid))
        fitting += int(np.count_nonzero(fits))
        if fits.any():
            here = _front_of(inputs, *grid.cropped(fits))
            best = here if best is None else _merged(inputs, best, here)
        elif need.min() < smallest:
            smallest, tightest = float(need.min()), layout_at(grid.at([int(np.argmin(need))]), 0)
        if on_progress is not None:
            on_progress(done)
    if best is not None:
        return Found(best, considered, fitting)
    raise no_split(inputs, space) if tightest is None else no_memory(inputs, space, considered, smallest, tightest)


def _front_of(inputs: Inputs, grid: Grid, fits: Flags) -> Front:
    """The front of the layouts of a grid that fit."""
    step = step_time(inputs.shape, grid.layout, inputs.work, inputs.rates)
    power = step_power_w(step.terms, inputs.spec.cluster)
    flat = np.flatnonzero(fits)

    def fitting(values: Any) -> Floats:
        return np.asarray(np.broadcast_to(values, fits.shape).ravel()[flat])

    time_s, power_w, effort = fitting(step.total), fitting(power), fitting(complexity(grid.layout))
    need = fitting(inputs.need_bytes(grid))
    kept = _kept(inputs, time_s, power_w, need, effort)
    return Front(grid.at(flat[kept]), time_s[kept], power_w[kept], need[kept], effort[kept])


def _kept(inputs: Inputs, time_s: Floats, power_w: Floats, need: Floats, effort: Floats) -> Indices:
    return front_with_room(time_s, time_s * power_w, effort, need > inputs.roomy_bytes)


def _merged(inputs: Inputs, first: Front, second: Front) -> Front:
    layouts = Layout(
        **{name: np.append(getattr(first.layouts, name), getattr(second.layouts, name)) for name in Layout.__slots__}
    )
    columns = ("step_time_s", "power_w", "memory_bytes", "complexity")
    joined = {name: np.append(getattr(first, name), getattr(second, name)) for name in columns}
    kept = _kept(inputs, *joined.values())
    return Front(take(layouts, kept), **{name: column[kept] for name, column in joined.items()})
