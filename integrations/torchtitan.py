"""torchtitan: `with watch(trainer, site="FRA"): trainer.train()`.

It counts `trainer.train_step`, marks validation, and logs `carbon/*` with the trainer's metrics logger, which writes
on its own metrics rank: under pipelines that is not rank 0, where the figures are, and `carbon.metrics()` has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from carbon_plugin.monitor.settings import MonitorArguments
from carbon_plugin.monitor.wrapped import WrappedLoop

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchTitanCarbon", "watch"]


def watch(trainer: Any, **arguments: Unpack[MonitorArguments]) -> TorchTitanCarbon:
    """Measure the training of a `torchtitan.trainer.Trainer`, from now until the block ends or the program does.

    Arguments are those of `MonitorArguments`. Raises `SpecError` or `FootprintError` for arguments that cannot be
    used; nothing afterwards.
    """
    return TorchTitanCarbon(trainer, **arguments)


class TorchTitanCarbon(WrappedLoop):
    """A trainer under measurement."""

    def __init__(self, trainer: Any, **arguments: Unpack[MonitorArguments]) -> None:
        self._trainer, self._resumed = trainer, False
        super().__init__(
            _one_module(trainer.model_parts),
            next(iter(trainer.optimizers), None),
            pipeline=getattr(trainer, "pp_schedule", None),
            framework=trainer,
            package="torchtitan",
            **arguments,
        )

    def _attach(self) -> None:
        self._after(self._trainer, "train_step", self._stepped)
        self._around(getattr(self._trainer, "validator", None), "validate", "evaluation")

    def _stepped(self) -> None:
        if not self._resumed:  # `train` loads a checkpoint before its first step, which it has counted already
            self._resumed = True
            self.monitor.resume_at(int(self._trainer.step) - 1)
        self.step()

    def _log(self, metrics: dict[str, float]) -> None:
        self._trainer.metrics_processor.logger.log(metrics, self.monitor.step)


def _one_module(parts: list[nn.Module]) -> nn.Module:
    from torch import nn

    return parts[0] if len(parts) == 1 else nn.ModuleList(parts)
