"""Measure Megatron-core loops: `with watch(model, optimizer, site="FRA") as carbon:` once model chunks and optimizer
exist.

It counts the steps of the optimizer, one an iteration, without those that the loss scaler skips. Megatron has no hooks
for evaluation and checkpoints: write `with carbon.phase("evaluation"):` around them. Megatron-LM's own writers live on
the last rank and the figures on rank 0, so pass a logger of rank 0 as `log=`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.loops.loop import TrainingLoop
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MegatronCarbon", "watch"]


@with_arguments
def watch(
    model: nn.Module | Sequence[nn.Module], optimizer: Any, **arguments: Unpack[MonitorArguments]
) -> MegatronCarbon:
    """Measure the training of a model, from now until the block ends or the program does.

    Args:
        model (nn.Module | list of nn.Module): The model, or its chunks on this rank.
        optimizer (MegatronOptimizer | Optimizer): The optimizer that the loop steps, Megatron's or torch's.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The loop under measurement: a context manager with `phase(name)`, `metrics()` and `close()`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """
    return MegatronCarbon(model, optimizer, **arguments)


class MegatronCarbon(TrainingLoop):
    """The loop of a Megatron job under measurement."""

    def __init__(
        self, model: nn.Module | Sequence[nn.Module], optimizer: Any, **arguments: Unpack[MonitorArguments]
    ) -> None:
        super().__init__(model, optimizer, package="megatron.core", **arguments)
