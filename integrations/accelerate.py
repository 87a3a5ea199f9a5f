"""Measure Accelerate loops: `with watch(accelerator, model, optimizer, site="FRA") as carbon:` after
`accelerator.prepare`.

It counts real optimizer steps, not the calls that gradient accumulation skips, and marks `save_state` as a checkpoint.
It adds `carbon/*` to the rows that the script logs with `accelerator.log`. Where the script logs none, it logs rows of
its own. Where Accelerate drives DeepSpeed, watch the prepared model with `carbon_plugin.integrations.deepspeed`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.loops.loop import TrainingLoop
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

if TYPE_CHECKING:
    from torch import nn

MOST_WAITING = 2000
"""Largest number of rows kept for a script that logs nothing until the end. Beyond it, every second one is dropped."""

__all__ = ["AccelerateCarbon", "watch"]


@with_arguments
def watch(
    accelerator: Any, /, model: nn.Module, optimizer: Any, **arguments: Unpack[MonitorArguments]
) -> AccelerateCarbon:
    """Measure the training of a prepared model and optimizer, from now until the block ends or the program does.

    Args:
        accelerator (accelerate.Accelerator): The one that prepared them; by position only, because the device has an
            argument of that name too.
        model (nn.Module): The prepared model.
        optimizer (AcceleratedOptimizer): The prepared optimizer.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The loop under measurement: a context manager with `phase(name)`, `metrics()` and `close()`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """
    return AccelerateCarbon(accelerator, model, optimizer, **arguments)


class AccelerateCarbon(TrainingLoop):
    """The loop of a prepared model under measurement.

    A tracker such as W&B has one axis of steps and drops a row that lies before the last one, and a script may count
    batches, samples or epochs on that axis. The figures are therefore added to the rows of the script. If the script
    has logged nothing by the end, rows of our own are logged then, by optimizer step.
    """

    def __init__(
        self, accelerator: Any, /, model: nn.Module, optimizer: Any, **arguments: Unpack[MonitorArguments]
    ) -> None:
        self._accelerator = accelerator
        self._log_rows: Callable[..., Any] = accelerator.log
        self._axis: tuple[Any, ...] | None = None
        self._waiting: list[tuple[int, dict[str, float]]] = []
        super().__init__(model, optimizer, framework=accelerator, package="accelerate", **arguments)

    def close(self, reason: str = "closed") -> None:
        """Write the closing record and the last rows. A call of `accelerator.end_training` does this too."""
        super().close(reason)
        waiting, self._waiting = self._waiting, []
        for step, metrics in waiting if self._axis is None else waiting[-1:]:
            self._safely(partial(self._log_rows, metrics, *(self._axis or (step,))))

    def _attach(self) -> None:
        super()._attach()
        self.monitor.log_to(self._log)
        self._around(self._accelerator, "save_state", "checkpoint")
        self._methods.instead(self._accelerator, "log", self._with_figures)
        self._methods.instead(self._accelerator, "end_training", self._closed_first)

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._waiting.append((step, metrics))
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[1::2]

    def _with_figures(self, log: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _ROW.bind(*args, **kwargs).arguments
        self._axis = (call.get("step"),)
        if self._waiting and isinstance(call["values"], dict):
            call["values"] = {**call["values"], **self._waiting[-1][1]}
            self._waiting.clear()
        return log(**call)

    def _closed_first(self, end: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._safely(self.close)
        return end(*args, **kwargs)


def _row(values: dict[str, Any], step: int | None = None, log_kwargs: dict[str, Any] | None = None) -> None:
    """Define the signature of `accelerator.log`. Nobody calls this function."""


_ROW = inspect.signature(_row)
