"""Megatron-core loops: `with watch(model, optimizer, site="FRA") as carbon:` once model chunks and optimizer are made.

It counts the steps of the optimizer, one an iteration, without those that the loss scaler skips. Megatron has no hooks
for evaluation and checkpoints: say `with carbon.phase("evaluation")`. Megatron-LM's own writers live on the last rank
and the figures on rank 0, so that `writer` is one of yours with `add_scalar`; `carbon.metrics()` has the same figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.settings import MonitorArguments
from carbon_plugin.monitor.wrapped import WrappedLoop

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MegatronCarbon", "watch"]


def watch(
    model: nn.Module | Sequence[nn.Module],
    optimizer: Any,
    *,
    writer: Any = None,
    **arguments: Unpack[MonitorArguments],
) -> MegatronCarbon:
    """Measure the training of a model, or of its chunks on this rank, from now until the block ends or the program
    does.

    `optimizer` is the one that the loop steps, Megatron's or torch's. The other arguments are those of
    `MonitorArguments`. Raises `CarbonPluginError` for arguments that cannot be used; nothing afterwards.
    """
    return MegatronCarbon(model, optimizer, writer=writer, **arguments)


class MegatronCarbon(WrappedLoop):
    """Model chunks of a Megatron job under measurement."""

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Any,
        *,
        writer: Any = None,
        **arguments: Unpack[MonitorArguments],
    ) -> None:
        self._writer = writer
        super().__init__(model, optimizer, package="megatron.core", **arguments)

    def _log(self, metrics: dict[str, float]) -> None:
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, self.monitor.step)
