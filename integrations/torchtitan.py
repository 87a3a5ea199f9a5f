"""torchtitan: `with watch(trainer, site="FRA"): trainer.train()`.

It counts `trainer.train_step`, marks validation, and logs `carbon/*` with the trainer's metrics logger, which writes
on its own metrics rank: under pipelines that is not rank 0, where the figures are, and `carbon.metrics()` has them.
"""

from __future__ import annotations

from typing import Any, Unpack

from carbon_plugin.monitor.settings import MonitorArguments
from carbon_plugin.monitor.wrapped import WrappedLoop

__all__ = ["TorchTitanCarbon", "watch"]


def watch(trainer: Any, **arguments: Unpack[MonitorArguments]) -> TorchTitanCarbon:
    """Measure the training of a `torchtitan.trainer.Trainer`, from now until the block ends or the program does.

    Arguments are those of `MonitorArguments`. Raises `CarbonPluginError` for arguments that cannot be
    used; nothing afterwards.
    """
    return TorchTitanCarbon(trainer, **arguments)


class TorchTitanCarbon(WrappedLoop):
    """A trainer under measurement."""

    def __init__(self, trainer: Any, **arguments: Unpack[MonitorArguments]) -> None:
        self._trainer, self._resumed = trainer, False
        super().__init__(
            trainer.model_parts,
            list(trainer.optimizers),
            pipeline=getattr(trainer, "pp_schedule", None),
            framework=trainer,
            package="torchtitan",
            **arguments,
        )

    def _attach(self) -> None:
        self._after(self._trainer, "train_step", self._stepped)
        self._around(getattr(self._trainer, "validator", None), "validate", "evaluation")

    def _find_step(self, scheduled: int | None) -> None:
        """The trainer knows, once its first step has ended."""

    def _stepped(self) -> None:
        # `train` loads a checkpoint before its first step, which it has counted already.
        if not (self._resumed or self.monitor.step_is_stated):
            self._resumed = True
            self.monitor.resume_at(int(self._trainer.step) - 1)
        self.step()

    def _log(self, metrics: dict[str, float]) -> None:
        self._trainer.metrics_processor.logger.log(metrics, self.monitor.step)
