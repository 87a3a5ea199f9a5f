"""Measure plain PyTorch loops, with `step()`, or without it through the optimizer's own post-step hook.

    with watch(model, optimizer, site="FRA", total_steps=1000) as carbon:
        for batch in loader:
            ...
            optimizer.step()
            with carbon.phase("evaluation"): ...

Without an optimizer, call `carbon.step()` after each optimizer step. The figures go to what is given as `log=`, once a
window; `carbon.metrics()` returns the latest ones. Both are on rank 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.loops.loop import TrainingLoop
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchCarbon", "watch"]


@with_arguments
def watch(
    model: nn.Module | Sequence[nn.Module],
    optimizer: Any = None,
    *,
    scheduler: Any = None,
    pipeline: Any = None,
    **arguments: Unpack[MonitorArguments],
) -> TorchCarbon:
    """Measure the training of a model, from now until the block ends or the program does.

        with watch(model, optimizer, site="FRA", run_dir="runs/a", log=writer) as carbon:
            for batch in loader: ...

    Args:
        model (nn.Module | list of nn.Module): What is trained, wrapped or not. In a pipeline: the module of this stage.
        optimizer (Optimizer | list | None, default None): Every `optimizer.step()` is one step of the run; of a list,
            every step of the first one. It may be one of torch's or a wrapper of one (Accelerate, Apex, DeepSpeed,
            Megatron). Without one, call `carbon.step()` after each optimizer step.
        scheduler (LRScheduler, default None): A scheduler that steps once a step of the run; a resumed run goes on at
            the step that it has counted. Without one: as the states of the optimizer have counted (docs/resume.md).
        pipeline (schedule of torch.distributed.pipelining, default None): The schedule, if the model is a stage.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The loop under measurement: a context manager with `step()`, `phase(name)`, `metrics()` and `close()`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """
    return TorchCarbon(model, optimizer, scheduler=scheduler, pipeline=pipeline, **arguments)


class TorchCarbon(TrainingLoop):
    """A plain training loop under measurement. A hook of its optimizer counts steps until `close`."""
