"""Measure DeepSpeed: `with watch(engine, site="FRA") as carbon:` around the loop of an engine, plain or pipelined.

It counts the engine's global steps, marks `save_checkpoint` and a pipeline's `eval_batch`, and writes `carbon/*` to
the engine's own monitor (TensorBoard, W&B, CSV) where one is configured. `load_checkpoint` sets the step.
"""

from __future__ import annotations

from typing import Any, Unpack

from carbon_plugin.monitor.loops.loop import TrainingLoop
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

__all__ = ["DeepSpeedCarbon", "watch"]


@with_arguments
def watch(engine: Any, **arguments: Unpack[MonitorArguments]) -> DeepSpeedCarbon:
    """Measure the training of a `DeepSpeedEngine`, from now until the block ends or the program does.

    Args:
        engine (DeepSpeedEngine | PipelineEngine): The engine that `deepspeed.initialize` returned.
        **arguments: Those of `MonitorArguments`.

    Returns:
        The loop under measurement: a context manager with `phase(name)`, `metrics()` and `close()`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """
    return DeepSpeedCarbon(engine, **arguments)


class DeepSpeedCarbon(TrainingLoop):
    """The loop of a DeepSpeed engine under measurement."""

    def __init__(self, engine: Any, **arguments: Unpack[MonitorArguments]) -> None:
        self._engine, self._global_steps = engine, 0
        super().__init__(engine, getattr(engine, "optimizer", None), framework=engine, package="deepspeed", **arguments)

    def _attach(self) -> None:
        self.monitor.log_to(self._log)
        self._checkpoint_loaded()
        # The step of a pipeline is its batch; the engine refuses `step` there.
        self._after(self._engine, "train_batch" if hasattr(self._engine, "train_batch") else "step", self._stepped)
        self._after(self._engine, "load_checkpoint", self._checkpoint_loaded)
        self._around(self._engine, "save_checkpoint", "checkpoint")
        self._around(self._engine, "eval_batch", "evaluation")

    def _find_step(self, scheduled: int | None) -> None:
        """Do nothing, because `_attach` asks the engine for its step."""

    def _checkpoint_loaded(self) -> None:
        self._global_steps = int(self._engine.global_steps)
        if self.monitor.counted or not self.monitor.step_is_stated:
            self.monitor.resume_at(self._global_steps)

    def _stepped(self) -> None:
        """Count a step where the engine applied gradients. Its `step` is called for every micro-batch."""
        if self._engine.global_steps != self._global_steps:
            self._global_steps = self._engine.global_steps
            self._count_seen()

    def _log(self, metrics: dict[str, float], step: int) -> None:
        monitor = getattr(self._engine, "monitor", None)
        if monitor is not None and monitor.enabled:
            monitor.write_events([(name, value, self._engine.global_samples) for name, value in metrics.items()])
