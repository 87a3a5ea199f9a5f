"""Find the time and energy of a training that brought no new step: repeated steps, new starts, and stalls.

A stall is time that counts as training and in which no step ended. Its cause is a hang, a pause, or an exception that
ended the training in a process that went on, such as a notebook's.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from carbon_plugin.ledger.columns import WindowColumns, sum_onto
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


def rework_of(windows: WindowColumns, *, reached_step: int, restarted: bool) -> Rework:
    """Return the rework in windows of a launch, in their order.

    `reached_step` is the last step that the run had reached before them. `restarted` says whether there was an earlier
    launch. A checkpoint that is loaded while training takes the run back within a launch. Steps of its window that came
    before the loading count as redone then, and as many fewer count later, so that the sum over the windows is right.
    """
    starting = windows.of_phases("startup")
    restart = starting.astype(float) if restarted and starting.any() else None
    starts = windows.last_steps - windows.steps
    reached = np.maximum.accumulate(np.concatenate(([reached_step], windows.last_steps[:-1])))
    if (reached <= starts).all():
        return Rework(steps=0, redone=None, restart=restart)
    steps = np.maximum(0, np.minimum(windows.last_steps, reached) - starts)
    behind = (windows.last_steps < reached).astype(float)
    shares = np.where(windows.steps > 0, steps / np.maximum(1, windows.steps), behind)
    shares[starting] = 0.0
    return Rework(steps=int(steps.sum()), redone=shares if shares.any() else None, restart=restart)


class Stalls(Struct):
    """Finds stalls in the windows of one file, which are added in their order. `total_s` is the length of all stalls so
    far, s.
    """

    total_s: float = 0.0
    _waiting_s: float = 0.0
    _train_s: float = 0.0
    _steps: int = 0

    def add(self, windows: WindowColumns) -> None:
        """Add the next windows."""
        trains = windows.of_phases("train")
        if (windows.steps[trains] > 0).all():  # nothing waits
            self._waiting_s = 0.0
            self._train_s = sum_onto(self._train_s, windows.duration_s[trains])
            self._steps += int(windows.steps[trains].sum())
            return
        columns = (trains.tolist(), windows.steps.tolist(), windows.duration_s.tolist())
        for is_train, steps, duration_s in zip(*columns, strict=True):
            if not is_train:
                self._waiting_s = 0.0
            elif steps:
                self._waiting_s = 0.0
                self._train_s += duration_s
                self._steps += steps
            elif self._steps:
                before, self._waiting_s = self._waiting_s, self._waiting_s + duration_s
                least_s = max(LEAST_S, LEAST_STEPS * self._train_s / self._steps)
                if self._waiting_s >= least_s:
                    self.total_s += self._waiting_s if before < least_s else duration_s
