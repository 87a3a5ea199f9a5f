"""Which part of a window's energy was spent on what had been done before: steps that are redone, and restarting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from carbon_plugin.audit.blocks import Floats
from carbon_plugin.ledger.records import Window


class Rework(Struct, frozen=True, kw_only=True):
    """Shares of each window, 0 to 1, for steps that an earlier launch had done and for starting up again; None where
    no window has any. `steps` were redone."""

    steps: int
    redone: Floats | None
    restart: Floats | None


def rework_of(windows: Sequence[Window], *, resumed_at_step: int, restarted: bool) -> Rework:
    """Rework in windows of a launch; earlier ones, if it was `restarted`, had got to `resumed_at_step`."""
    restart = _shares([float(window.phase == "startup") for window in windows]) if restarted else None
    if resumed_at_step <= min(window.last_step - window.steps for window in windows):
        return Rework(steps=0, redone=None, restart=restart)
    steps = [_redone_steps(window, resumed_at_step) for window in windows]
    shares = [_redone_share(*pair, resumed_at_step) for pair in zip(windows, steps, strict=True)]
    return Rework(steps=sum(steps), redone=_shares(shares), restart=restart)


def _redone_steps(window: Window, resumed_at_step: int) -> int:
    return max(0, min(window.last_step, resumed_at_step) - (window.last_step - window.steps))


def _redone_share(window: Window, redone_steps: int, resumed_at_step: int) -> float:
    if window.phase == "startup":
        return 0.0
    if window.steps:
        return redone_steps / window.steps
    return float(window.last_step < resumed_at_step)


def _shares(values: list[float]) -> Floats | None:
    return np.array(values) if any(values) else None
