"""Loops of frameworks without callbacks: methods of their live objects tell of steps and phases, until `close`.

The adapters of Accelerate, DeepSpeed, Megatron and torchtitan are this class with the names of those methods.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

from carbon_plugin.monitor.loop import TrainingLoop


class WrappedLoop(TrainingLoop):
    """A loop under measurement whose framework logs `carbon/*` on rank 0, at the step after a window ended."""

    _wrapped: tuple[tuple[Any, str, Callable[..., Any]], ...] = ()
    _logs = True

    def step(self, tokens: int | None = None) -> None:
        """An optimizer step ended; the adapter calls it. What is new goes to the framework's own logger."""
        super().step(tokens)
        metrics = self.monitor.fresh_metrics() if self._logs else {}
        if not metrics:
            return
        try:
            self._log(metrics)
        except Exception as error:  # a tracker that is full or gone is no reason not to train
            self._logs = False
            self.monitor.fail("logging", error)

    def _log(self, metrics: dict[str, float]) -> None:
        """Hand figures to the framework's logger."""
        raise NotImplementedError

    def _after(self, owner: Any, name: str, then: Callable[[], None]) -> None:
        """Call `then` after each call of a method that returned."""

        def make(method: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(method)
            def called(*args: Any, **kwargs: Any) -> Any:
                result = method(*args, **kwargs)
                self._safely(then)
                return result

            return called

        self._wrap(owner, name, make)

    def _around(self, owner: Any, name: str, phase: Literal["evaluation", "checkpoint"]) -> None:
        """Count the calls of a method as a phase; the phase before goes on after them."""

        def make(method: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(method)
            def called(*args: Any, **kwargs: Any) -> Any:
                with self.monitor.phase(phase):
                    return method(*args, **kwargs)

            return called

        self._wrap(owner, name, make)

    def _wrap(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        method = getattr(owner, name, None)
        if method is None:  # this release of the framework has no such method, so that nobody calls it
            return
        called = make(method)
        setattr(owner, name, called)
        self._wrapped = (*self._wrapped, (owner, name, called))

    def _safely(self, then: Callable[[], None]) -> None:
        try:
            then()
        except Exception as error:  # as in `step`
            self.monitor.fail("adapter", error)

    def _unhook(self) -> None:
        super()._unhook()
        for owner, name, called in reversed(self._wrapped):
            if vars(owner).get(name) is called:  # else somebody wrapped it again, and ours passes calls on
                delattr(owner, name)
        self._wrapped = ()
