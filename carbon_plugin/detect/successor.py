"""Notice an optimizer that has taken the place of the one that a script handed over.

A script that fine-tunes in stages, or that begins anew with another learning rate, makes an optimizer in the middle of
its training. Its steps would not be counted, because the hook that counts is on the first one.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from carbon_plugin.detect.compiling import opaque
from carbon_plugin.detect.optimizers import parts
from carbon_plugin.detect.primary import TAKE_OVER


def weakly(thing: Any) -> Callable[[], Any]:
    """Return a function that returns an object while it lives, and None afterwards. Objects without weak references are
    kept alive.
    """
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


class StepKind(enum.Enum):
    """Says how a step of an optimizer counts for the run.

    `OTHER` is none of its steps, or one that the hook of the optimizer handed over has counted. `COUNTS` is a step, and
    `FIRST` the first one of the optimizer that has taken the place. `IGNORED` is told once: an optimizer has stepped
    `TAKE_OVER` times while the one handed over lives and did not step, so that no step of the training is counted.
    """

    OTHER = enum.auto()
    COUNTS = enum.auto()
    FIRST = enum.auto()
    IGNORED = enum.auto()


class Successor:
    """Tells of each optimizer step of a process whether it counts beside those of the optimizer that was handed over.

    It holds none of the objects. While the optimizer that was handed over lives, no other one counts, because the
    script has said which one does. Where it is gone, the next one that trains parameters of the model takes its place.

    Args:
        owner: The optimizer of torch whose own hook counts.
        given: All optimizers that the script handed over.
        modules: The modules that are trained.
    """

    def __init__(self, owner: Any, given: Sequence[Any], modules: Sequence[Any]) -> None:
        self._owner = weakly(owner)
        self._given = [weakly(part) for optimizer in given for part in parts(optimizer)]
        self._modules = [weakly(module) for module in modules]
        self._chosen: Callable[[], Any] = lambda: None
        self._waiting: dict[int, int] = {}
        self._said = False
        self._name = type(owner).__name__

    def follow(self, tell: Callable[[StepKind, str, str], None], fail: Callable[[Exception], None]) -> Any:
        """Call `tell` after each optimizer step of the process that is not `OTHER`, with the class of the optimizer and
        of the one handed over, and `fail` with an exception of that. Return a handle with `remove`."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        def stepped(optimizer: Any, *_: Any) -> None:
            try:
                step = self.of(optimizer)
                if step is not StepKind.OTHER:
                    tell(step, type(optimizer).__name__, self._name)
            except Exception as error:  # the training must go on whatever happens here
                fail(error)

        opaque(stepped)
        return register_optimizer_step_post_hook(stepped)

    def of(self, optimizer: Any) -> StepKind:
        """Return how the step that this optimizer has just done counts for the run."""
        owner = self._owner()
        if optimizer is owner:  # its own hook has counted
            if self._waiting:
                self._waiting.clear()
            return StepKind.OTHER
        if owner is not None:
            return self._beside(optimizer)
        if self._chosen() is None and self._trains(optimizer):
            self._chosen = weakly(optimizer)
            return StepKind.FIRST
        return StepKind.COUNTS if optimizer is self._chosen() else StepKind.OTHER

    def _beside(self, optimizer: Any) -> StepKind:
        waited = self._waiting[id(optimizer)] = self._waiting.get(id(optimizer), 0) + 1
        if waited != TAKE_OVER or self._said or not self._trains(optimizer):
            return StepKind.OTHER
        self._said = True
        return StepKind.IGNORED

    def _trains(self, optimizer: Any) -> bool:
        if any(optimizer is given() for given in self._given):
            return False
        alive = [module for reference in self._modules if (module := reference()) is not None]
        watched = {id(parameter) for module in alive for parameter in module.parameters()}
        return any(id(parameter) in watched for group in optimizer.param_groups for parameter in group["params"])
