"""Loops of frameworks without callbacks: methods of their live objects tell of steps and phases, until `close`.

The adapters of Accelerate, DeepSpeed, Megatron and torchtitan are this class with the names of those methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from carbon_plugin.detect.compiling import opaque
from carbon_plugin.monitor.loop import TrainingLoop


class WrappedLoop(TrainingLoop):
    """A loop under measurement whose framework logs `carbon/*` on rank 0: at the step after a window ended, and once
    more at the end, with the totals."""

    _logs = True

    def step(self, tokens: int | None = None) -> None:
        """An optimizer step ended; the adapter calls it. What is new goes to the framework's own logger."""
        super().step(tokens)
        self._log_fresh()

    def close(self, reason: str = "closed") -> None:
        """End in an orderly way, with a last row for the framework's logger."""
        super().close(reason)
        self._log_fresh()

    def _log_fresh(self) -> None:
        metrics = self.monitor.fresh_metrics() if self._logs else {}
        if not metrics:
            return
        try:
            self._log(metrics)
        except Exception as error:  # a tracker that is full or gone is no reason not to train
            self._logs = False
            self.monitor.fail("logging", error)

    def _log(self, metrics: dict[str, float]) -> None:
        """Hand figures to the framework's logger."""
        raise NotImplementedError

    def _after(self, owner: Any, name: str, then: Callable[[], None]) -> None:
        """Call `then` after each call of a method that returned."""

        def after(_: Any) -> None:
            self._safely(then)

        opaque(after)
        self._methods.after(owner, name, after)

    def _around(self, owner: Any, name: str, phase: str) -> None:
        """Count the calls of a method as a phase; the phase before goes on after them."""
        self._methods.within(owner, name, lambda: self.monitor.phase(phase))
