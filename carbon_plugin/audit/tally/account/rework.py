"""Find the time and energy of a training that brought no new step: repeated steps, new starts, and stalls.

A stall is time that counts as training and in which no step ended. Its cause is a hang, a pause, or an exception that
ended the training in a process that went on, such as a notebook's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import le

import numpy as np
from msgspec import Struct

from carbon_plugin.ledger.records import Window
from carbon_plugin.spec.numbers.range_array import Floats

LEAST_S = 60.0
LEAST_STEPS = 20.0
"""A stall takes at least `LEAST_S` seconds and at least this many steps of the usual length."""


class Rework(Struct, frozen=True, kw_only=True):
    """The shares of each window, 0 to 1, that were spent on repeated steps and on starting up again. Each is None where
    no window has any.

    `steps` is the number of repeated steps.
    """

    steps: int
    redone: Floats | None
    restart: Floats | None


def rework_of(windows: Sequence[Window], *, reached_step: int, restarted: bool) -> Rework:
    """Return the rework in windows of a launch, in their order.

    `reached_step` is the last step that the run had reached before them. `restarted` says whether there was an earlier
    launch. A checkpoint that is loaded while training takes the run back within a launch. Steps of its window that came
    before the loading count as redone then, and as many fewer count later, so that the sum over the windows is right.
    """
    restart = _shares([float(window.phase == "startup") for window in windows]) if restarted else None
    starts = [window.last_step - window.steps for window in windows]
    reached = list(accumulate((window.last_step for window in windows[:-1]), max, initial=reached_step))
    if all(map(le, reached, starts)):
        return Rework(steps=0, redone=None, restart=restart)
    steps = [
        max(0, min(window.last_step, before) - start)
        for window, before, start in zip(windows, reached, starts, strict=True)
    ]
    shares = [_redone_share(*three) for three in zip(windows, steps, reached, strict=True)]
    return Rework(steps=sum(steps), redone=_shares(shares), restart=restart)


def _redone_share(window: Window, redone_steps: int, reached_step: int) -> float:
    if window.phase == "startup":
        return 0.0
    if window.steps:
        return redone_steps / window.steps
    return float(window.last_step < reached_step)


def _shares(values: list[float]) -> Floats | None:
    return np.array(values) if any(values) else None


class Stalls(Struct):
    """Finds stalls in the windows of one file, which are added in their order. `total_s` is the length of all stalls so
    far, s.
    """

    total_s: float = 0.0
    _waiting_s: float = 0.0
    _train_s: float = 0.0
    _steps: int = 0

    def add(self, windows: Sequence[Window]) -> None:
        """Add the next windows."""
        for window in windows:
            if window.phase != "train":
                self._waiting_s = 0.0
            elif window.steps:
                self._waiting_s = 0.0
                self._train_s += window.duration_s
                self._steps += window.steps
            elif self._steps:
                before, self._waiting_s = self._waiting_s, self._waiting_s + window.duration_s
                least_s = max(LEAST_S, LEAST_STEPS * self._train_s / self._steps)
                if self._waiting_s >= least_s:
                    self.total_s += self._waiting_s if before < least_s else window.duration_s
