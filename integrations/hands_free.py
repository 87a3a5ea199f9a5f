"""Measure programs that nobody edits: `carbon-plugin run --site FRA -- torchrun --nproc-per-node 8 train.py`.

It counts steps through the hook that torch has for the optimizers of a whole process, and meters energy. A process is
measured from its first optimizer step on. Launchers, data loaders and compile workers do no step and therefore leave no
record. Neither models nor batches are read. A program that measures itself, by `watch` or a callback, is left alone.

A budget that is exceeded ends a program that handles SIGTERM, as programs do that save when a scheduler takes their
machine away. All ranks get the signal after the same step. If a rank has no handler, no rank gets the signal.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from carbon_plugin.detect.compiling import opaque
from carbon_plugin.detect.devices import computing_gpus
from carbon_plugin.detect.observed import Detected, DetectedLayout, Observed
from carbon_plugin.detect.optimizers import innermost, prepares_states, steps_done
from carbon_plugin.detect.primary import Primary
from carbon_plugin.integrations.entry_points import ARGUMENTS_VARIABLE
from carbon_plugin.monitor.loops.loop import place_of_process
from carbon_plugin.monitor.loops.measured import MeasuredTraining
from carbon_plugin.monitor.loops.pairs import StepPairs
from carbon_plugin.monitor.loops.versions import versions_of
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.show.saying import say

NOT_SEEN = (
    "steps are counted by the optimizer alone. Tokens, model and layout are not seen, nor is the time before the first "
    "step under carbon-plugin run. Nothing is predicted without a plan (--planned). An adapter in the script sees all "
    "of them"
)
STOPS = "the budget ends this training by SIGTERM, which its script handles, after a step on which all ranks agree"
ONLY_WARNS = "the budget can only warn, because this script has no handler of SIGTERM that would save its state"


def install(optimizers: Any, environ: Mapping[str, str]) -> HandsFree:
    """Watch the optimizers of this process from now on.

    Args:
        optimizers (module): The module `torch.optim.optimizer`.
        environ: The variables of this process; `ARGUMENTS_VARIABLE` holds the arguments of the monitor.

    Returns:
        The watch, which measures nothing before the first step.
    """
    arguments = msgspec.json.decode(environ.get(ARGUMENTS_VARIABLE, "") or "{}", type=dict[str, Any])
    return HandsFree(arguments, optimizers)  # type: ignore[arg-type]


class HandsFree(MeasuredTraining):
    """Counts the optimizer steps of one process, from the first one until the program ends.

    If there are several optimizers, `Primary` chooses the one whose steps count.
    """

    def __init__(self, arguments: MonitorArguments, optimizers: Any) -> None:
        self._arguments = arguments
        self._primary = Primary()
        self.monitor = None
        self._stepped = self._looked = self._unedited = self._signalled = False
        self._pairs = StepPairs()
        for function in (type(self)._before, type(self)._after):
            opaque(function)
        self._handles = [
            optimizers.register_optimizer_step_pre_hook(self._before),
            optimizers.register_optimizer_step_post_hook(self._after),
        ]

    def _before(self, optimizer: Any, *_: Any) -> None:
        """Begin to measure before the first step, so that the record contains its time and energy."""
        if self._stepped or prepares_states():
            return
        self._stepped = True
        try:
            if self.monitor is None:
                self._start(gives_way=True)
            self._find_step(optimizer)
        except Exception as error:  # the constructor of a monitor may raise, and there is no script to tell
            sys.stderr.write(f"carbon_plugin: this training is not measured; {type(error).__name__}: {error}\n")

    def _after(self, optimizer: Any, *_: Any) -> None:
        """Count a step of the chosen optimizer."""
        monitor = self.monitor
        if monitor is None or not monitor.active:
            return  # the hooks stay, because torch raises where one is removed while it calls them
        try:
            if self._primary.counts(optimizer):
                first = not self._looked
                self._looked = True
                if self._pairs.seen():
                    monitor.step_end()
                if first:
                    monitor.observe(*_seen(optimizer, self._world_size))
        except Exception as error:  # the training must go on whatever happens here
            monitor.fail("hands-free", error)
        if self._unedited and not self._signalled and monitor.should_stop:
            self._signalled = True
            signal.raise_signal(signal.SIGTERM)  # what the script's own handler raises is the script's

    def step(self, tokens: int | None = None) -> None:
        """Take the tokens of the optimizer step that has just ended, or count one of which no optimizer tells.

        Args:
            tokens: Tokens that the whole job processed in it. Default: None, where they do not vary or nobody knows.
        """
        if self.monitor is None:
            return
        if self._pairs.said():
            self.monitor.step_end(tokens)
        elif tokens is not None:
            self.monitor.tell_tokens(tokens)

    def begin(self) -> HandsFree:
        """Begin to measure now, and not only at the first step. Raises `CarbonPluginError` as `watch` does, and then
        leaves no hook."""
        try:
            self._start(gives_way=False)
        except BaseException:
            self._unhook()
            raise
        return self

    def _start(self, *, gives_way: bool) -> None:
        ranks, unknown = place_of_process()
        self._unedited = gives_way
        monitor = self.monitor = CarbonMonitor(ranks=ranks, **self._arguments)
        self._world_size = ranks.world_size
        if unknown is not None:
            monitor.fail("ranks", unknown)
        hindrance = _no_handler if gives_way else lambda: None  # a decorated function asks for `should_stop`
        monitor.start(versions=versions_of("torch"), end=self.close, gives_way=gives_way, hindrance=hindrance)
        if monitor.active and ranks.rank == 0 and not monitor.quiet:
            say(NOT_SEEN)
            if gives_way and monitor.may_stop:
                say(STOPS if _no_handler() is None else ONLY_WARNS)

    def _find_step(self, optimizer: Any) -> None:
        monitor = self.monitor
        if monitor is not None and not monitor.step_is_stated:
            done = steps_done([optimizer])
            if isinstance(done, int):
                monitor.resume_at(done)

    def close(self, reason: str = "closed") -> None:
        """Write the last window and the closing record, and remove the hooks. The end of the program does this too.

        Args:
            reason: What the closing record says. Default: "closed".
        """
        self._unhook()
        super().close(reason)

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()


def _no_handler() -> str | None:
    """Return why SIGTERM would only kill this process, or None where the script handles the signal."""
    if callable(signal.getsignal(signal.SIGTERM)):
        return None
    return "has no handler of SIGTERM, so that a stop would lose what was done since its last checkpoint"


def _seen(optimizer: Any, world_size: int) -> tuple[Detected, tuple[str, ...]]:
    """Return what the first step shows: the optimizer, and the devices of the parameters that it trains."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    name = type(innermost(optimizer)).__name__
    source = f"the first optimizer that stepped, {name} of {sum(p.numel() for p in parameters):,} values on this rank"
    detected = Detected(
        layout=DetectedLayout(axes={}, world_size=world_size),
        model=None,
        fields={"step_counter": Observed(name, source)},
        device_kind=next((parameter.device.type for parameter in parameters), None),
        problems=(("not_detected", NOT_SEEN),),
    )
    return detected, computing_gpus(parameters)
