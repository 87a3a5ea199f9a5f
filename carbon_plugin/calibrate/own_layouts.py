"""Keep what constants and offsets leave of the deviations of the layouts that ran, for plans of like ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from carbon_plugin.calibrate.fit import Fit, fitted_step_time_s
from carbon_plugin.calibrate.rows.table import RowArrays, places_of
from carbon_plugin.calibrate.transfer import LAYOUT_SPREAD, CarriedOver, layouts_of
from carbon_plugin.predict.own_runs import REPEATED_SPREAD, SMOOTH_SHARE, OwnRuns
from carbon_plugin.spec.hardware.cluster import OwnLayout, OwnLayouts

Floats = NDArray[np.float64]


def own_layouts(table: RowArrays, fitted: Fit, carried: Sequence[CarriedOver]) -> dict[str, OwnLayouts]:
    """Return what constants and offsets leave of the deviations of the rows' layouts, by framework.

    Like layouts have in common no more than what those of a usual cluster of the class differ by: where layouts are
    farther apart, what is odd about them is their own.
    """
    left = np.log(table.measured_s / fitted_step_time_s(table, fitted))
    numbers, places = layouts_of(table), places_of(table)
    found = {}
    for one in carried:
        members = np.flatnonzero(table.framework == one.framework)
        _, first, same = np.unique(numbers[members], return_index=True, return_inverse=True)
        runs = np.bincount(same)
        means = np.bincount(same, left[members]) / runs
        apart = np.sum((left[members] - means[same]) ** 2) / max(members.size - runs.size, 1)
        layouts = [
            OwnLayout(place=places[members[index]], deviation=float(mean), runs=int(count))
            for index, mean, count in zip(first.tolist(), means.tolist(), runs.tolist(), strict=True)
        ]
        smooth = math.sqrt(SMOOTH_SHARE) * min(one.spread, LAYOUT_SPREAD * one.usual)
        found[one.framework] = OwnLayouts(
            spread=one.spread,
            smooth=smooth,
            usual=one.usual,
            repeated=max(math.sqrt(float(apart)), REPEATED_SPREAD),
            layouts=tuple(layouts),
        )
    return found


def shifts(table: RowArrays, own: Mapping[str, OwnLayouts]) -> Floats:
    """Return what the runs of its software say of each row's layout, as a logarithm."""
    runs = {framework: OwnRuns(layouts) for framework, layouts in own.items()}
    rows = zip(table.framework.tolist(), places_of(table), strict=True)
    return np.array([float(runs[framework].shift(place)) for framework, place in rows])
