"""Which part of a window's energy was spent on what had been done before: steps that are redone, and restarting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import le

import numpy as np
from msgspec import Struct

from carbon_plugin.audit.tally.blocks import Floats
from carbon_plugin.ledger.records import Window


class Rework(Struct, frozen=True, kw_only=True):
    """Shares of each window, 0 to 1, for steps that had been done before and for starting up again; None where no
    window has any. `steps` were redone."""

    steps: int
    redone: Floats | None
    restart: Floats | None


def rework_of(windows: Sequence[Window], *, reached_step: int, restarted: bool) -> Rework:
    """Rework in windows of a launch, in their order; before them, in earlier launches if it was `restarted` and in
    this one, the run had got to `reached_step`.

    A checkpoint that is loaded while training takes the run back within a launch. Steps of its window that came before
    the loading count as redone then, and as many fewer do later: the sum over the windows is right.
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
