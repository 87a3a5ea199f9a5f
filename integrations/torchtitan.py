"""Measure torchtitan: `with watch(trainer, site="FRA"): trainer.train()`.

It counts calls of `trainer.train_step`, marks validation, and writes `carbon/*` to the trainer's metrics logger. That
logger writes on one rank only. Under pipeline parallelism this is not rank 0, which has the figures; pass a logger of
your own as `log=` there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from carbon_plugin.monitor.loops.loop import TrainingLoop
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

__all__ = ["TorchTitanCarbon", "watch"]


@with_arguments
def watch(trainer: Any, **arguments: Unpack[MonitorArguments]) -> TorchTitanCarbon:
    """Measure the training of a `torchtitan.trainer.Trainer`, from now until the block ends or the program does.

    Args:
        trainer (torchtitan.trainer.Trainer): The trainer, before its `train()`.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The loop under measurement: a context manager with `phase(name)`, `metrics()` and `close()`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """
    return TorchTitanCarbon(trainer, **arguments)


class TorchTitanCarbon(TrainingLoop):
    """The loop of a torchtitan trainer under measurement."""

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
        self.monitor.log_to(self._log)
        self._after(self._trainer, "train_step", self._stepped)
        self._around(getattr(self._trainer, "validator", None), "validate", "evaluation")
        # After an agreed stop the trainer saves this step as its last one, and begins no other.
        self._methods.instead(self._trainer, "should_continue_training", self._goes_on)
        self._methods.instead(getattr(self._trainer, "checkpointer", None), "save", self._saved)

    def _find_step(self, scheduled: int | None) -> None:
        """Do nothing, because the trainer knows its step only when its first step has ended."""

    def _stepped(self) -> None:
        # `train` loads a checkpoint before its first step, which it has counted already.
        if not (self._resumed or self.monitor.step_is_stated):
            self._resumed = True
            self.monitor.resume_at(int(self._trainer.step) - 1)
        self._count_seen()

    def _goes_on(self, asked: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return not self.should_stop and asked(*args, **kwargs)

    def _saved(self, save: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return save(*args, **(kwargs | {"last_step": True} if self.should_stop else kwargs))

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._trainer.metrics_processor.logger.log(metrics, step)
