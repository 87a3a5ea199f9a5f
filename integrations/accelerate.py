"""Accelerate loops: `with watch(accelerator, model, optimizer, site="FRA") as carbon:` after `accelerator.prepare`.

It counts the steps of the optimizer inside, which accumulation skips, marks `save_state`, and logs `carbon/*` with
`accelerator.log`. `accelerator.register_for_checkpointing(carbon)` puts its step into the checkpoints. Where Accelerate
drives DeepSpeed, watch the prepared model with `carbon_plugin.integrations.deepspeed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.settings import MonitorArguments
from carbon_plugin.monitor.wrapped import WrappedLoop

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AccelerateCarbon", "watch"]


def watch(
    accelerator: Any, /, model: nn.Module, optimizer: Any, **arguments: Unpack[MonitorArguments]
) -> AccelerateCarbon:
    """Measure the training of a prepared model and optimizer, from now until the block ends or the program does.

    `accelerator` is the `accelerate.Accelerator` that prepared them; the argument of that name among the others, which
    are those of `MonitorArguments`, is a device by name. Raises `SpecError` or `FootprintError` for arguments that
    cannot be used; nothing afterwards.
    """
    return AccelerateCarbon(accelerator, model, optimizer, **arguments)


class AccelerateCarbon(WrappedLoop):
    """A prepared model under measurement."""

    def __init__(
        self, accelerator: Any, /, model: nn.Module, optimizer: Any, **arguments: Unpack[MonitorArguments]
    ) -> None:
        self._accelerator = accelerator
        super().__init__(model, optimizer, framework=accelerator, package="accelerate", **arguments)

    def _attach(self) -> None:
        inner: Any = getattr(self._optimizer, "optimizer", self._optimizer)
        self._handle = inner.register_step_post_hook(lambda *_: self.step())
        self._around(self._accelerator, "save_state", "checkpoint")

    def _log(self, metrics: dict[str, float]) -> None:
        self._accelerator.log(metrics, step=self.monitor.step)
