"""Plain PyTorch loops: a context manager with `step()`, or hands-free by the optimizer's own post-step hook.

    with watch(model, optimizer, site="FRA", total_steps=1000) as carbon:
        for batch in loader:
            ...
            optimizer.step()
            with carbon.phase("evaluation"): ...

Without an optimizer, call `carbon.step()` after each optimizer step. Metrics: `carbon.metrics()` on rank 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.loop import TrainingLoop
from carbon_plugin.monitor.settings import MonitorArguments

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TorchCarbon", "watch"]


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    pipeline: Any = None,
    **arguments: Unpack[MonitorArguments],
) -> TorchCarbon:
    """Measure the training of `model`, from now until the block ends or the program does.

    With `optimizer` every `optimizer.step()` is counted; of several optimizers pass the one that steps once an
    iteration. In a pipeline `model` is a stage's module and `pipeline` the schedule. The other arguments are those of
    `MonitorArguments`. Raises `SpecError` or `FootprintError` for arguments that cannot be used; nothing afterwards.
    """
    return TorchCarbon(model, optimizer, pipeline=pipeline, **arguments)


class TorchCarbon(TrainingLoop):
    """One training loop under measurement, whose optimizer's own hook counts steps until `close`."""

    def _attach(self) -> None:
        if self._optimizer is not None:
            self._handle = self._optimizer.register_step_post_hook(lambda *_: self.step())
