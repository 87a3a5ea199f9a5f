"""Plain PyTorch loops: a context manager with `step()`, or hands-free by the optimizer's own post-step hook.

    with watch(model, optimizer, site="FRA", total_steps=1000) as carbon:
        for batch in loader:
            ...
            optimizer.step()
            with carbon.phase("evaluation"): ...

Without an optimizer, call `carbon.step()` after each optimizer step. Metrics: `carbon.metrics()` on rank 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.loop import TrainingLoop
from carbon_plugin.monitor.settings import MonitorArguments

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchCarbon", "watch"]


def watch(
    model: nn.Module | Sequence[nn.Module],
    optimizer: Any = None,
    *,
    scheduler: Any = None,
    pipeline: Any = None,
    **arguments: Unpack[MonitorArguments],
) -> TorchCarbon:
    """Measure the training of `model`, from now until the block ends or the program does.

    With `optimizer` every `optimizer.step()` is a step of the run; of a list of optimizers each step of the first one
    is. It may be one of torch's or a wrapper of one (Accelerate, Apex, DeepSpeed, Megatron). A resumed run goes on at
    the step that the states of the optimizer have counted, or `step`, or `scheduler`, if that steps as often
    (docs/resume.md). In a pipeline `model` is a stage's module and `pipeline` the schedule. The other arguments are
    those of `MonitorArguments`. Raises `CarbonPluginError` for arguments that cannot be used; nothing afterwards.
    """
    return TorchCarbon(model, optimizer, scheduler=scheduler, pipeline=pipeline, **arguments)


class TorchCarbon(TrainingLoop):
    """One training loop under measurement, whose optimizer's own hook counts steps until `close`."""
