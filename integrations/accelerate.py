"""Accelerate loops: `with watch(accelerator, model, optimizer, site="FRA") as carbon:` after `accelerator.prepare`.

It counts the steps of the optimizer inside, which accumulation skips, marks `save_state`, and adds `carbon/*` to the
rows that the script logs with `accelerator.log`; where it logs none, it logs rows of its own. Where Accelerate drives
DeepSpeed, watch the prepared model with `carbon_plugin.integrations.deepspeed`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.settings import MonitorArguments
from carbon_plugin.monitor.wrapped import WrappedLoop

if TYPE_CHECKING:
    from torch import nn

MOST_WAITING = 2000
"""Rows that are kept for a script that logs none until the end; every second one goes when there are more."""

__all__ = ["AccelerateCarbon", "watch"]


def watch(
    accelerator: Any, /, model: nn.Module, optimizer: Any, **arguments: Unpack[MonitorArguments]
) -> AccelerateCarbon:
    """Measure the training of a prepared model and optimizer, from now until the block ends or the program does.

    `accelerator` is the `accelerate.Accelerator` that prepared them; the argument of that name among the others, which
    are those of `MonitorArguments`, is a device by name. Raises `CarbonPluginError` for arguments that
    cannot be used; nothing afterwards.
    """
    return AccelerateCarbon(accelerator, model, optimizer, **arguments)


class AccelerateCarbon(WrappedLoop):
    """A prepared model under measurement.

    Trackers such as W&B have one axis of steps and drop a row that is behind the one before, and scripts count batches,
    samples or epochs on it. So figures go into rows of the script, on its axis. Where it logs none until the end, rows
    of our own are logged then, by optimizer steps.
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
        """End in an orderly way, with the last rows; also done when the script says `end_training`."""
        super().close(reason)
        waiting, self._waiting = self._waiting, []
        for step, metrics in waiting if self._axis is None else waiting[-1:]:
            self._safely(partial(self._log_rows, metrics, *(self._axis or (step,))))

    def _attach(self) -> None:
        super()._attach()
        self._around(self._accelerator, "save_state", "checkpoint")
        self._methods.instead(self._accelerator, "log", self._with_figures)
        self._methods.instead(self._accelerator, "end_training", self._closed_first)

    def _log(self, metrics: dict[str, float]) -> None:
        self._waiting.append((self.monitor.step, metrics))
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
    """How `accelerator.log` is called."""


_ROW = inspect.signature(_row)
