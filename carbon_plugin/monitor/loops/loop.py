"""Define the class of training loops under measurement. The adapters of loops without callbacks derive from it.

It holds the monitor, reads model and optimizer once after the first step, and ends with its block or the program. It
knows no framework: an adapter names the methods of its framework that tell of steps and phases.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

from carbon_plugin.detect.compiling import opaque
from carbon_plugin.detect.devices import distributed_place
from carbon_plugin.detect.live import FirstStep
from carbon_plugin.detect.modules import Watched, watched
from carbon_plugin.detect.optimizers import prepares_states, steps_done, steps_scheduled
from carbon_plugin.detect.successor import StepKind, Successor, weakly
from carbon_plugin.detect.tensors import Arriving
from carbon_plugin.monitor.loops.measured import MeasuredTraining
from carbon_plugin.monitor.loops.methods import Methods
from carbon_plugin.monitor.loops.pairs import StepPairs
from carbon_plugin.monitor.loops.versions import versions_of
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.ranks import Ranks, ranks_from_environ, ranks_of_group
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.show.saying import say

NO_OPTIMIZER = (
    "no optimizer was handed over: a step is counted where the script calls step(), and without such calls only time "
    "and energy are recorded"
)


class TrainingLoop(MeasuredTraining):
    """Measures one training loop, from construction until the block ends or the program does.

    An adapter overrides `_attach`, which hooks into whatever tells of steps. After the first step no hook of this class
    is on the model any more.

    Args:
        model (nn.Module | list of nn.Module): What the loop calls.
        optimizer (Optimizer | list | None, default None): What steps. Of a list, the first one steps once a step of the
            run. Without one, the script calls `step`.
        scheduler (LRScheduler, default None): A scheduler that steps once a step of the run.
        pipeline (schedule, default None): The schedule of a pipeline, of which `model` is a stage.
        framework (object, default None): The object in which a framework keeps its layout.
        package (str, default "torch"): The package whose version is recorded beside that of torch.
        ranks (Ranks, default None): The place of this process, where a framework knows it better than the environment.
        **arguments: Those of `MonitorArguments`.

    Raises:
        CarbonPluginError: An argument cannot be used. Nothing is raised afterwards.
    """

    monitor: CarbonMonitor
    _pipeline: Any
    _framework: Any
    _first: FirstStep | None
    _arriving: tuple[Arriving, int] | None
    _handles: list[Any]
    _optimizers: list[Callable[[], Any]]

    def __init__(
        self,
        model: Any,
        optimizer: Any = None,
        *,
        scheduler: Any = None,
        pipeline: Any = None,
        framework: Any = None,
        package: str = "torch",
        ranks: Ranks | None = None,
        **arguments: Unpack[MonitorArguments],
    ) -> None:
        self._ranks, unknown = place_of_process() if ranks is None else (ranks, None)
        self.monitor = CarbonMonitor(ranks=self._ranks, **arguments)
        self._hold_nothing()
        self._pipeline, self._framework, self._package = pipeline, framework, package
        if not self.monitor.enabled:
            return
        self._seen = watched(model, optimizer)
        scheduled = None if scheduler is None else steps_scheduled(scheduler)
        self._begin(unknown, scheduled)

    def step(self, tokens: int | None = None) -> None:
        """Count an optimizer step that has ended. Where a hook counts it too, the same step is not counted twice, and
        only its tokens are taken.

        Args:
            tokens: Tokens that the whole job processed in it. Default: None, where they do not vary or nobody knows.
        """
        if self._pairs.said():
            self._count(tokens)
        elif tokens is not None:
            self.monitor.tell_tokens(tokens)

    def _count_seen(self) -> None:
        """Count a step that a hook of the optimizer or the framework tells of."""
        if self._first is not None and prepares_states():
            return
        if self._pairs.seen():
            self._count(None)

    def _count(self, tokens: int | None) -> None:
        self.monitor.step_end(tokens)
        if self._first is not None:
            self._look(self._first)
        if self._arriving is not None:
            self._arrive(*self._arriving)

    def state_dict(self) -> dict[str, Any]:
        """Return the step, the energy and the run directory as plain values, for a checkpoint."""
        return self.monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint: the run goes on at its step.

        Args:
            state: What `state_dict` returned.
        """
        self._arriving = None
        self.monitor.load_state_dict(state)

    def close(self, reason: str = "closed") -> None:
        """Write the last window and the closing record, and unhook. The end of the block and of the program do this
        too.

        Args:
            reason: What the closing record says. Default: "closed".
        """
        self._unhook()
        super().close(reason)

    def __reduce__(self) -> tuple[Callable[[CarbonMonitor], TrainingLoop], tuple[CarbonMonitor]]:
        """Reduce a copy or a pickle to a loop that measures nothing, because measuring belongs to this process."""
        return _copied, (self.monitor,)

    def _hold_nothing(self) -> None:
        """Set all references to the training to nothing, as before the start."""
        self._pipeline = self._framework = None
        self._first = None
        self._arriving = None
        self._handles, self._optimizers = [], []
        self._methods = Methods()
        self._pairs = StepPairs()
        self._seen = Watched(model=None, called=None, optimizers=())

    def _begin(self, unknown: Exception | None, scheduled: int | None) -> None:
        try:
            if unknown is not None:
                self.monitor.fail("ranks", unknown)
            self.monitor.start(
                versions=versions_of("torch", self._package), watched=self._seen.identities, end=self.close
            )
            if not self.monitor.active:
                return
            for function in (type(self).step, type(self).phase, type(self).metrics):
                opaque(function)
            self._attach()  # first, because steps can be counted even if the objects cannot be read
            self._find_step(scheduled)
            self._first = FirstStep(self._seen.called, self._pipeline)
        except Exception as error:  # the training must start whatever happens here
            self.monitor.fail("adapter", error)

    def _attach(self) -> None:
        """Count each step of the optimizer that was handed over, through a hook on it."""
        stepping = self._seen.stepping
        if stepping is None:
            if self._ranks.rank == 0 and not self.monitor.quiet:
                say(NO_OPTIMIZER)
            return

        def stepped(*_: Any) -> None:
            self._count_seen()

        def called(result: Any) -> None:
            if not stepping.skipped(result):
                self._safely(self._count_seen)

        opaque(stepped)
        opaque(called)
        if stepping.hooked:
            self._handles.append(stepping.owner.register_step_post_hook(stepped))
            successor = Successor(stepping.owner, self._seen.optimizers, self._seen.modules)
            self._handles.append(successor.follow(self._other_stepped, partial(self.monitor.fail, "adapter")))
        else:
            self._methods.after(stepping.owner, "step", called)

    def _other_stepped(self, step: StepKind, name: str, handed_over: str) -> None:
        if step is StepKind.IGNORED:
            said = (
                f"steps of {name} are not counted, because {handed_over} was handed over and has not stepped for long"
            )
            self.monitor.warn("optimizer", f"{said}: hand over the optimizer that steps, or call step() yourself")
            return
        if step is StepKind.FIRST:
            said = f"{handed_over}, which was handed over, is gone: from here on, a step of the run is one of {name}"
            self.monitor.note("optimizer", said)
        self._count_seen()

    def _after(self, owner: Any, name: str, then: Callable[[], None]) -> None:
        """Call `then` after each call of a method that returns."""

        def after(_: Any) -> None:
            self._safely(then)

        opaque(after)
        self._methods.after(owner, name, after)

    def _around(self, owner: Any, name: str, phase: str) -> None:
        """Count the calls of a method as a phase. The phase before goes on after each call."""
        self._methods.within(owner, name, lambda: self.monitor.phase(phase))

    def _safely(self, then: Callable[[], None]) -> None:
        try:
            then()
        except Exception as error:  # as in `_begin`
            self.monitor.fail("adapter", error)

    def _find_step(self, scheduled: int | None) -> None:
        """Find the step at which the run is, and follow it when states are loaded into the optimizer.

        It is the step that the user stated, else the one that the scheduler has counted, else the one that the states
        of the optimizer have counted.
        """
        if not self._seen.optimizers:
            if scheduled and not self.monitor.step_is_stated:
                self.monitor.resume_at(scheduled)
            return
        stepping = self._seen.stepping
        if stepping is not None and stepping.hooked:
            self._handles.append(stepping.owner.register_load_state_dict_post_hook(lambda _: self._loaded()))
            self._optimizers = [weakly(optimizer) for optimizer in self._seen.optimizers]
        if self.monitor.step_is_stated:
            return
        if scheduled is not None:
            self.monitor.resume_at(scheduled)
        else:
            self._resume(steps_done(self._seen.optimizers))

    def _loaded(self) -> None:
        """Take the step from states that were loaded into the optimizer."""
        try:
            if self.monitor.counted or not self.monitor.step_is_stated:
                alive = [optimizer for reference in self._optimizers if (optimizer := reference()) is not None]
                self._resume(steps_done(alive))
        except Exception as error:  # as in `_begin`
            self.monitor.fail("resume", error)

    def _resume(self, done: int | Arriving | None) -> None:
        self._arriving = None
        if isinstance(done, Arriving):
            self._arriving = (done, self.monitor.counted)
        elif done is not None and done != self.monitor.step:
            self.monitor.resume_at(done)

    def _arrive(self, done: Arriving, counted: int) -> None:
        """Take a step count that was copied from a GPU, and add the steps of the time of the copy."""
        number = done.read()
        if number is not None:
            self._arriving = None
            self.monitor.resume_at(int(number) + self.monitor.counted - counted)

    def _look(self, first: FirstStep) -> None:
        self._first = None
        try:
            world, optimizer = self._ranks.world_size, next(iter(self._seen.optimizers), None)
            seen = first.look(self._seen.model, world_size=world, optimizer=optimizer, framework=self._framework)
            self.monitor.observe(*seen)
        except Exception as error:  # as in `_begin`
            self.monitor.fail("detection", error)
        finally:
            first.remove()
            self._let_go()

    def _let_go(self) -> None:
        """Release the objects of the training, so that a script that no longer uses them gets their memory back."""
        self._pipeline = self._framework = None
        self._seen = Watched(model=None, called=None, optimizers=())

    def _unhook(self) -> None:
        for hook in (*self._handles, self._first):
            if hook is not None:
                hook.remove()
        self._methods.remove()
        self._handles, self._first, self._arriving = [], None, None


def place_of_process() -> tuple[Ranks, Exception | None]:
    """Return the place of this process, and the exception if torch.distributed could not tell it.

    torch.distributed tells the place where a script numbered its processes itself. Otherwise the environment does.
    """
    ranks = ranks_from_environ(os.environ)
    try:
        place = distributed_place()
    except Exception as error:
        return ranks, error
    return ranks if place is None else ranks_of_group(ranks, rank=place[1], world=place[0]), None


def _copied(monitor: CarbonMonitor) -> TrainingLoop:
    """Return a loop whose calls do nothing, because its monitor has not started."""
    loop = TrainingLoop.__new__(TrainingLoop)
    loop.monitor = monitor
    loop._hold_nothing()
    return loop
