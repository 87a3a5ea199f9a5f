"""Measure Lightning by a callback: `Trainer(callbacks=[CarbonCallback(site="FRA")])`, for `lightning` or
`pytorch_lightning`.

It counts optimizer steps, looks once at the strategy's model after the first step, and marks validation and
checkpoints. It logs `carbon/*` through the trainer's loggers on rank zero, and the totals at the end. `validate`,
`test` and `predict` alone have a record too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from carbon_plugin.detect.batch import called_module
from carbon_plugin.detect.batch_sizes import BatchSizes
from carbon_plugin.detect.live import FirstStep
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.readers.lightning import steps_left
from carbon_plugin.monitor.guard import harmless
from carbon_plugin.monitor.loops.methods import Methods
from carbon_plugin.monitor.loops.versions import versions_of
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.ranks import Ranks
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.documented import with_arguments
from carbon_plugin.monitor.trainings import reason_of

# The two packages have classes of their own, and a Trainer refuses a callback that is not of its own package.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")
if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    _imported = [name for name in PACKAGES if name in sys.modules]
    _installed = (name for name in PACKAGES if find_spec(name.partition(".")[0]) is not None)
    _bases = [import_module(name).Callback for name in _imported or [next(_installed)]]
    Callback = _bases[0] if len(_bases) == 1 else type("Callback", tuple(_bases), {})

_OF_THE_MODULE = ("log", "log_dict")
"""The methods of the module in training that a Trainer gives to each callback as attributes."""
_TEXT_LOGGERS = ("CSVLogger", "WandbLogger")
"""Loggers that take text among metrics; they get the head of the ledger too, as an anchor."""


@with_arguments
class CarbonCallback(Callback):
    """A callback that measures `fit`, `validate`, `test` and `predict`. docs/monitor.md lists the metrics.

    Args:
        **arguments: Those of `MonitorArguments`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """

    def __new__(cls, **arguments: Unpack[MonitorArguments]) -> Self:
        """Return a callback of each of the two packages that is imported by now, because either may have the
        Trainer.
        """
        imported = [sys.modules[name].Callback for name in PACKAGES if name in sys.modules]
        missing = tuple(base for base in imported if not issubclass(cls, base))
        own: Any = cls
        kind: Any = _joined(own, missing) if missing else own
        made: Self = super().__new__(kind)
        return made

    def __init__(self, **arguments: Unpack[MonitorArguments]) -> None:
        super().__init__()
        self.monitor = CarbonMonitor(**arguments)
        self._arguments: MonitorArguments = {**arguments, "log": self.monitor.loggers}
        self._trainer: Trainer | None = None
        self._first: FirstStep | None = None
        self._sizes = BatchSizes()
        self._methods = Methods()
        self._closed = self._saving = False
        self._global_step = self._row_step = 0
        self._reached = (0, 0)  # the steps of the trainer and of the run to which the last fit came
        self._loaded: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        """Return the key of this state in checkpoints. It is constant, so that a renamed class still finds
        its state.
        """
        return "carbon_plugin"

    @harmless
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure. The time until the first step counts as start-up. A second `fit` is a second attempt."""
        self._start(trainer, pl_module)

    @harmless
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the step of a resumed run, which the trainer does not know earlier."""
        self._resume(trainer)
        if self.monitor.active:
            self._first = FirstStep(called_module(pl_module))
            self._sizes = BatchSizes()
            self._methods.instead(trainer.strategy, "batch_to_device", self._moved)  # before, it is in host memory

    @harmless
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Return to the training phase if a checkpoint was written before this batch."""
        self._saved()

    @harmless
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step unless the batch only accumulated gradients, and look at the model after the first step."""
        stepped = trainer.global_step - self._global_step
        if not stepped:
            return
        self._global_step = trainer.global_step
        self._row_step = _log_step(trainer)
        self.monitor.step_end(self._sizes.of_step())
        if self.monitor.should_stop:
            self._stop(trainer)
        first, self._first = self._first, None
        if first is not None:
            model, optimizer = trainer.strategy.model or pl_module, next(iter(trainer.optimizers), None)
            try:
                seen = first.look(
                    model,
                    world_size=trainer.world_size,
                    optimizer=optimizer,
                    told=self._sizes.told(first.seq_len) | self._length(trainer, stepped),
                    framework=trainer,
                )
                self.monitor.observe(*seen)
            finally:
                first.remove()

    @harmless
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the evaluation phase, within a fit or alone. The sanity check before a fit is part of start-up."""
        self._saved()
        if not trainer.sanity_checking:
            self._evaluate(trainer, pl_module)

    @harmless
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Return to the training phase if a fit is running."""
        if not trainer.sanity_checking:
            self.monitor.enter("train" if _fits(trainer) else "idle")

    @harmless
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the evaluation phase, because a test is an evaluation."""
        self._evaluate(trainer, pl_module)

    @harmless
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the evaluation phase, because a prediction counts as one."""
        self._evaluate(trainer, pl_module)

    @harmless
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Begin the checkpoint phase. The checkpoint is gathered and written until the next hook is called."""
        self._saving = True
        self.monitor.enter("checkpoint")

    @harmless
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the training phase. What follows is no training."""
        self._saving = False
        self.monitor.enter("idle")

    @harmless
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the record after any exception that ends the training."""
        self._close(reason_of(exception), trainer)

    @harmless
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the record at the end of a fit or an evaluation, before the loggers are finished."""
        self._close("closed", trainer)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy or a pickle. It holds nothing of the training, which this object measures."""
        own = {"_trainer": None, "_first": None, "_sizes": BatchSizes(), "_methods": Methods(), "_saving": False}
        return {name: value for name, value in vars(self).items() if name not in _OF_THE_MODULE} | own

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for the trainer's checkpoint."""
        return self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint: the run continues at its step."""
        self.monitor.load_state_dict(state_dict)
        self._loaded = state_dict  # a second fit loads it before its monitor is made

    def _moved(self, move: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._count(args[0] if args else kwargs.get("batch"))
        return move(*args, **kwargs)

    @harmless
    def _count(self, batch: Any) -> None:
        if self._trainer is not None and self._trainer.training:
            self._sizes.see(batch)

    def _saved(self) -> None:
        if self._saving:
            self._saving = False
            self.monitor.enter("train")

    def _stop(self, trainer: Trainer) -> None:
        """End the fit after this step, with a checkpoint. All ranks come here after the same step."""
        if trainer.should_stop:
            return
        trainer.should_stop = True
        folder = getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir
        trainer.save_checkpoint(Path(folder) / f"budget-step={trainer.global_step}.ckpt")

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._closed:
            self.monitor, self._closed = CarbonMonitor(**self._arguments), False
            if self._loaded:
                self.monitor.load_state_dict(self._loaded)
        self.monitor.start(
            ranks=_ranks(trainer),
            versions=versions_of("torch", _package(trainer)),
            watched=(pl_module,),
            end=self._close,
        )
        self._trainer = trainer
        self.monitor.log_to(self._log)

    def _resume(self, trainer: Trainer) -> None:
        """Take the step of the run from our own state in a checkpoint, else from the fit before, else from the user,
        else from the trainer, which counts the steps of all optimizers.
        """
        loaded, self._loaded = self._loaded, {}
        self._global_step = trainer.global_step
        own, step = self._reached
        if loaded:
            return
        if own > trainer.global_step or not own:  # of another trainer, or of none
            own, step = 0, 0
            if self.monitor.step_is_stated:
                return
        self.monitor.resume_at(step + (trainer.global_step - own) // max(1, len(trainer.optimizers)))

    def _length(self, trainer: Trainer, stepped: int) -> dict[str, Observed]:
        left = steps_left(trainer, stepped)
        return {} if left is None else {"training.steps": Observed(self.monitor.step + left.value, left.source)}

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _fits(trainer):
            self._start(trainer, pl_module)
            self._resume(trainer)
        self.monitor.enter("evaluation")

    def _close(self, reason: str, trainer: Trainer | None = None) -> None:
        self._closed, self._trainer = True, trainer  # without one the loggers are finished
        if trainer is not None and _fits(trainer):
            self._reached = (self._global_step, self.monitor.step)
        self._methods.remove()
        if self._first is not None:
            self._first.remove()
        self.monitor.close(reason)
        self._trainer = None

    def _log(self, metrics: dict[str, float], step: int) -> None:
        head = self.monitor.head
        for logger in self._trainer.loggers if self._trainer is not None else ():
            takes_text = type(logger).__name__ in _TEXT_LOGGERS and head is not None
            row = {**metrics, "carbon/ledger_head": head} if takes_text else metrics
            logger.log_metrics(row, step=self._row_step)  # type: ignore[arg-type]


class AutomaticCarbonCallback(CarbonCallback):
    """The callback that a Trainer gets where the user has opted in. It does nothing if the user has added one too."""

    @property
    def state_key(self) -> str:
        """Return another key than that of a user's own callback, because a Trainer refuses two callbacks with
        one key.
        """
        return "carbon_plugin_auto"

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not any(isinstance(other, CarbonCallback) and other is not self for other in trainer.callbacks):  # type: ignore[attr-defined]
            super()._start(trainer, pl_module)


@cache
def _joined(base: Any, others: tuple[type, ...]) -> type[CarbonCallback]:
    """Return the callback as a class that also derives from other packages' callbacks. Its objects are pickled as those
    of `base`.
    """
    reduce = {"__reduce__": lambda self: (base.__new__, (base,), self.__getstate__()), "__doc__": base.__doc__}
    return type(base.__name__, (base, *others), {"__module__": base.__module__, **reduce})


def _package(trainer: Trainer) -> str:
    """Return the name of the package that a Trainer comes from, also where a script has derived a class from it."""
    modules = (one.__module__.partition(".")[0] for one in type(trainer).__mro__)
    return next((name for name in modules if name in ("lightning", "pytorch_lightning")), "lightning")


def _fits(trainer: Trainer) -> bool:
    return str(getattr(trainer.state.fn, "value", trainer.state.fn)) == "fit"


def _ranks(trainer: Trainer) -> Ranks:
    return Ranks(
        rank=trainer.global_rank,
        local_rank=trainer.local_rank,
        world_size=trainer.world_size,
        local_world_size=trainer.num_devices,
        node=trainer.node_rank,
        nodes=trainer.num_nodes,
    )


def _log_step(trainer: Trainer) -> int:
    """Return the step of Lightning's own rows: its private count of batches that stepped, or else the
    optimizer steps.
    """
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))
