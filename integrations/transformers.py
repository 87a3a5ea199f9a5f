"""Measure the Hugging Face Trainer by a callback: `Trainer(..., callbacks=[CarbonCallback(site="FRA")])`.

It counts optimizer steps, looks once at the wrapped model after the first step, and marks evaluation, checkpoints and
the generation of TRL's online trainers. It adds `carbon/*` to the rows that the trainer logs, in its history and for
every reporter. To do this, it moves itself before the reporters. It takes the tokens that the trainer counts, also
those of TRL's trainers. An evaluation alone has a record.
"""

from __future__ import annotations

import gc
from typing import Any, Unpack

from transformers import Trainer, TrainerCallback

from carbon_plugin.detect.live import FirstStep
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.trainer_tokens import TrainerTokens
from carbon_plugin.detect.wrappers import unwrapped
from carbon_plugin.monitor.guard import harmless
from carbon_plugin.monitor.loops.methods import Methods
from carbon_plugin.monitor.loops.versions import versions_of
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.running import LEFT, RunningCall
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments

_LAST_ROW = {"train_runtime", "train_loss"}
"""Keys of the trainer's own last row; the rows before it have a "loss"."""


@with_arguments
class CarbonCallback(TrainerCallback):
    """A callback that measures `train`, `evaluate` and `predict`. docs/monitor.md lists the metrics.

    Each `train` is an attempt of the run, also after one that an exception ended (`auto_find_batch_size` tries again).
    So is each evaluation outside of a training. The record of a training that an exception ended ends within some
    windows, also in a notebook, whose process goes on.

    Args:
        **arguments: Those of `MonitorArguments`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """

    def __init__(self, **arguments: Unpack[MonitorArguments]) -> None:
        self.monitor = CarbonMonitor(**arguments)
        self._arguments: MonitorArguments = {**arguments, "log": self.monitor.loggers}
        self._first: FirstStep | None = None
        self._trainer: Any = None
        self._tokens: TrainerTokens | None = None
        self._methods = Methods()
        self._begun = self._training = self._evaluating = False
        self._before = 0  # the steps of the run that the trainer does not count

    @harmless
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to measure, at the step of the checkpoint if there is one."""
        self._start(state, kwargs["model"], RunningCall(Trainer.__module__, "train"))
        self._training = True
        if self.monitor.active:
            self._first = FirstStep(kwargs["model"])
            self._trainer = _trainer_of(self)
            self._tokens = TrainerTokens(state, once=_counts_once(args, kwargs["model"]), ranks=int(args.world_size))
            if self._trainer is not None:
                _before_reporters(self, self._trainer)
                self._methods.after(self._trainer, "get_batch_samples", self._batches)
                # TRL's trainers that learn from what the model writes (GRPO, RLOO, online DPO) have this method.
                self._methods.within(self._trainer, "_generate", lambda: self.monitor.phase("generation"))

    @harmless
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Enter the training phase, whatever phase came before. The first step is part of start-up."""
        self._train()

    @harmless
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step. The trainer logs, evaluates and saves after it."""
        self.monitor.step_end(self._tokens.of_step(state, self._trainer) if self._tokens is not None else None)
        if self.monitor.should_stop:  # on all ranks after the same step
            control.should_training_stop = control.should_save = True
        first, self._first = self._first, None
        if first is not None:
            self._look(first, args, state, kwargs)
        self._next_phase(control)

    @harmless
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Enter the phase of the evaluation or the checkpoint that follows an epoch."""
        self._next_phase(control)

    @harmless
    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Enter the evaluation phase at a batch of an evaluation or a prediction. Outside of a training the first batch
        begins a record.
        """
        if self._training and self.monitor.was_left:  # an exception has ended it
            self._close(LEFT)
        if not self._training and not self._evaluating:
            self._start(state, kwargs.get("model"))
            self._evaluating = True
        self.monitor.enter("evaluation")

    @harmless
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the evaluation phase. A checkpoint may follow."""
        if self._training:
            if control.should_save:
                self.monitor.enter("checkpoint")
            else:
                self._train()
        else:
            self._close("closed")

    @harmless
    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        """Close the record of a prediction outside of a training."""
        if not self._training:
            self._close("closed")

    @harmless
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Return to the training phase after a checkpoint was written."""
        self._train()

    @harmless
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add the figures to a row, both for the reporters and in the history. The trainer's own last row closes the
        record first, so that it contains the totals.
        """
        if self._training and logs is not None and logs.keys() >= _LAST_ROW:
            self._close("closed")
        metrics = self.monitor.fresh_metrics()
        if metrics and logs is not None:
            logs.update(metrics)
            if state.log_history:
                state.log_history[-1].update(metrics)

    @harmless
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the record."""
        self._close("closed")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy or a pickle. It holds nothing of the training, which this object measures."""
        own = {"_trainer": None, "_first": None, "_tokens": None, "_methods": Methods()}
        return vars(self) | own | dict.fromkeys(("_begun", "_training", "_evaluating"), False)

    def _start(self, state: Any, model: Any, call: RunningCall | None = None) -> None:
        if self._begun:
            self._close("another training began")
            self.monitor = CarbonMonitor(**self._arguments)
        elif self.monitor.step_is_stated:
            self._before = self.monitor.step - int(state.global_step)
        self._begun = True
        self.monitor.start(
            versions=versions_of("torch", "transformers"),
            watched=() if model is None else (unwrapped(model),),
            end=self._close,
            call=call,
        )
        self.monitor.resume_at(int(state.global_step) + self._before)

    def _close(self, reason: str) -> None:
        self._trainer = self._tokens = None
        self._training = self._evaluating = False
        self._methods.remove()
        if self._first is not None:
            self._first.remove()
        self.monitor.close(reason)

    def _batches(self, result: Any) -> None:
        try:
            if self._tokens is not None:
                self._tokens.see(result[0])
        except Exception as error:  # as in the hooks
            self.monitor.fail("tokens", error)

    def _look(self, first: FirstStep, args: Any, state: Any, kwargs: dict[str, Any]) -> None:
        trainer = self._trainer  # it has the wrapped model; hooks are given the one inside
        model, accelerator = (trainer.model_wrapped, trainer.accelerator) if trainer else (kwargs["model"], None)
        steps = int(state.max_steps) + self._before
        told = {"training.steps": Observed(steps, "state.max_steps")} if state.max_steps > 0 else {}
        accumulated = Observed(int(args.gradient_accumulation_steps), "args.gradient_accumulation_steps")
        told["training.micro_batches"] = accumulated
        if self._tokens is not None and self._tokens.source is not None:
            told["tokens"] = Observed("step by step", self._tokens.source)
        try:
            world, optimizer = int(args.world_size), kwargs.get("optimizer")
            seen = first.look(model, world_size=world, optimizer=optimizer, told=told, framework=accelerator)
            self.monitor.observe(*seen)
        finally:
            first.remove()

    def _train(self) -> None:
        self.monitor.enter("train" if self.monitor.counted else "startup")

    def _next_phase(self, control: Any) -> None:
        if control.should_evaluate:
            self.monitor.enter("evaluation")
        elif control.should_save:
            self.monitor.enter("checkpoint")


def _counts_once(args: Any, model: Any) -> bool:
    """Return whether the Trainer counts each token once. It adds up all ranks, of which some may share a batch."""
    return getattr(args, "parallelism_config", None) is None and (getattr(model, "_tp_size", None) or 1) == 1


def _trainer_of(callback: CarbonCallback) -> Any:
    """Return the trainer that holds a callback, or None. Hooks are not told which trainer calls them."""
    for thing in gc.get_objects():
        # The type, not isinstance: that would ask the proxies among all these objects for their class.
        handler = getattr(thing, "callback_handler", None) if Trainer in type(thing).__mro__ else None
        if handler is not None and callback in handler.callbacks:
            return thing
    return None


def _before_reporters(callback: CarbonCallback, trainer: Any) -> None:
    """Move the callback right behind the trainer's own flow control, so that reporters get rows that contain the
    figures.
    """
    callbacks = trainer.callback_handler.callbacks
    callbacks.remove(callback)
    callbacks.insert(1, callback)
