"""Define the methods by which a script asks about the training that it measures, whatever counts the steps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self

from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.trainings import reason_of


class MeasuredTraining:
    """Represents a training under measurement; the loops of all adapters derive from it. It ends with its block."""

    monitor: CarbonMonitor | None
    """The monitor. It is None as long as nothing is measured, because the first step has not come."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count a block that does not train as a phase, so that its time is not taken for step time.

        Args:
            name: "evaluation", "checkpoint", "data_wait", or a name of your own such as "rollout" (16 at most).

        Returns:
            A context manager. The phase before it goes on after it.
        """
        return nullcontext() if self.monitor is None else self.monitor.phase(name)

    @property
    def should_stop(self) -> bool:
        """Return whether the loop is to save and end now, because a budget with `on_exceed="stop"` is exceeded.

        Ask for it after a step. It becomes true on all ranks after the same step, and costs one comparison.
        """
        return self.monitor is not None and self.monitor.should_stop

    def metrics(self) -> dict[str, float]:
        """Return the latest `carbon/*` figures. They are empty on ranks other than 0 and before the first window."""
        return {} if self.monitor is None else self.monitor.metrics()

    def close(self, reason: str = "closed") -> None:
        """Write the last window and the closing record. The end of the block and of the program do this too.

        Args:
            reason: What the closing record says. Default: "closed".
        """
        if self.monitor is not None:
            self.monitor.close(reason)

    def __enter__(self) -> Self:
        if self.monitor is not None:
            self.monitor.hold_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(reason_of(error))
