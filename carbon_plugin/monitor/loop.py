"""A training loop under measurement, framework-free: what adapters of loops without callbacks have in common.

It holds the monitor, looks at model and optimizer once after the first step, and ends with the block or the program.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from carbon_plugin.detect.devices import distributed_place
from carbon_plugin.detect.live import FirstStep
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.ranks import Ranks, ranks_from_environ
from carbon_plugin.monitor.settings import MonitorArguments


class TrainingLoop:
    """One training loop. An adapter says in `_attach` what tells of steps and calls `step`; after the first one there
    is no hook on the model. `model` is what the loop calls, `framework` the object in which a framework keeps its
    layout, `package` its name. Arguments are those of `MonitorArguments`, which raise if they cannot be used; nothing
    raises afterwards."""

    def __init__(
        self,
        model: Any,
        optimizer: Any = None,
        *,
        pipeline: Any = None,
        framework: Any = None,
        package: str = "torch",
        **arguments: Unpack[MonitorArguments],
    ) -> None:
        self._ranks, unknown = _ranks()
        self.monitor = CarbonMonitor(ranks=self._ranks, **arguments)
        self._model, self._optimizer, self._pipeline = model, optimizer, pipeline
        self._framework, self._package = framework, package
        self._first: FirstStep | None = None
        self._handle: Any = None
        try:
            self._begin(unknown)
        except Exception as error:  # the training must start whatever happens here
            self.monitor.fail("adapter", error)

    def step(self, tokens: int | None = None) -> None:
        """An optimizer step ended; `tokens` of the whole job if they vary and the caller knows them."""
        self.monitor.step_end(tokens)
        if self._first is not None:
            self._look(self._first)

    def phase(self, name: Literal["evaluation", "checkpoint", "data_wait"]) -> AbstractContextManager[None]:
        """Context manager around evaluation, checkpointing, or waiting for data."""
        return self.monitor.phase(name)

    def metrics(self) -> dict[str, float]:
        """The latest `carbon/*` figures; empty on ranks other than 0 and before the first window."""
        return self.monitor.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Plain scalars for a checkpoint."""
        return self.monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint: steps are counted on from there."""
        self.monitor.load_state_dict(state)

    def close(self, reason: str = "closed") -> None:
        """End in an orderly way; also done at the end of the block and of the program."""
        self._unhook()
        self.monitor.close(reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unhook()
        self.monitor.__exit__(kind, error, trace)

    def _begin(self, unknown: Exception | None) -> None:
        if unknown is not None:
            self.monitor.fail("ranks", unknown)
        self.monitor.start(versions=_versions(self._package))
        if not self.monitor.active:
            return
        self._attach()  # first: what cannot be looked at can still be counted
        self._first = FirstStep(self._model, self._pipeline)

    def _attach(self) -> None:
        """Hook into what tells of steps, keeping the handle of such a hook; nothing if the script calls `step`."""

    def _look(self, first: FirstStep) -> None:
        self._first = None
        try:
            world, optimizer = self._ranks.world_size, self._optimizer
            seen = first.look(self._model, world_size=world, optimizer=optimizer, framework=self._framework)
            self.monitor.observe(*seen)
        except Exception as error:  # as in `__init__`
            self.monitor.fail("detection", error)
        finally:
            first.remove()

    def _unhook(self) -> None:
        for hook in (self._handle, self._first):
            if hook is not None:
                hook.remove()
        self._handle = self._first = None


def _ranks() -> tuple[Ranks, Exception | None]:
    """Ranks by the environment; by torch.distributed where a script numbered its processes itself; and what failed."""
    ranks = ranks_from_environ(os.environ)
    try:
        place = distributed_place()
    except Exception as error:
        return ranks, error
    if place is None or place[0] == ranks.world_size:
        return ranks, None
    world, rank = place
    return Ranks(rank=rank, local_rank=rank, world_size=world, local_world_size=world), None


def _versions(package: str) -> dict[str, str]:
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("torch", package)}
    known = {name: str(version) for name, version in found.items() if version is not None}
    return {"python": sys.version.split()[0], **known}
