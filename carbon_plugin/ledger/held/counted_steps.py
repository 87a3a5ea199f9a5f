"""Compute the step time from windows, for runs without a comparison span.

Windows do not end at step boundaries, so that each stretch of training may be a step too long or too short.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from carbon_plugin.ledger.columns import WindowColumns, sum_onto
from carbon_plugin.ledger.records import Window
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.figure import Figure

IN_TRAINING = ("train", "data_wait")
"""The phases whose time is part of a step."""


class CountedSteps(Struct):
    """Counts the steps that ended in training windows, and the time of these windows. Feed the windows of a file in
    their order. `stretches` counts the stretches of training between start-up, evaluations and checkpoints.
    """

    steps: int = 0
    time_s: float = 0.0
    stretches: int = 0
    _training: bool = False

    def add(self, window: Window) -> None:
        """Add the next window."""
        if window.phase not in IN_TRAINING:
            self._training = False
            return
        if not self._training:
            self._training = True
            self.stretches += 1
        self.steps += window.steps
        self.time_s += window.duration_s

    def add_all(self, windows: WindowColumns) -> None:
        """Add the next windows. The counts are the same as if `add` had added them one by one."""
        trains = windows.of_phases(*IN_TRAINING)
        self.stretches += int((trains & ~np.concatenate(([self._training], trains[:-1]))).sum())
        self.steps += int(windows.steps[trains].sum())
        self.time_s = sum_onto(self.time_s, windows.duration_s[trains])
        self._training = bool(trains[-1])

    def merge(self, other: CountedSteps) -> None:
        """Add the steps of another file."""
        self.steps += other.steps
        self.time_s += other.time_s
        self.stretches += other.stretches

    @property
    def step_time_s(self) -> Figure | None:
        """Return the mean step time, s, with an error of one step for each stretch, or None without a step."""
        if not self.steps or self.time_s <= 0:
            return None
        mean_s = self.time_s / self.steps
        off = self.stretches / self.steps
        source = (
            f"{plural(self.steps, 'step')} in {self.time_s:.3g} s of training windows, which do not end at "
            "step boundaries"
        )
        return Figure(mean_s, mean_s / (1 + off), mean_s * (1 + off), "s", "measured", source)
