"""Time that counts as training and in which no step ended: a hang, a pause, or a training that an exception ended in a
process that went on, such as a notebook's."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from carbon_plugin.ledger.records import Window

LEAST_S = 60.0
LEAST_STEPS = 20.0
"""A stall is at least this long, in seconds and in steps of the usual length."""


class Stalls(Struct):
    """Stalls in the windows of one file, fed in their order: `total_s` seconds so far."""

    total_s: float = 0.0
    _waiting_s: float = 0.0
    _train_s: float = 0.0
    _steps: int = 0

    def add(self, windows: Sequence[Window]) -> None:
        """Take in the next windows."""
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
