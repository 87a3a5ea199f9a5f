"""Plain PyTorch loops: a context manager with `step()`, or hands-free by the optimizer's own post-step hook.

    with watch(model, optimizer, site="FRA", total_steps=1000) as carbon:
        for batch in loader:
            ...
            optimizer.step()
            with carbon.phase("evaluation"): ...

Without an optimizer, call `carbon.step()` after each optimizer step. Metrics: `carbon.metrics()` on rank 0.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Unpack

from carbon_plugin.detect.devices import distributed_place
from carbon_plugin.detect.live import FirstStep
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.ranks import Ranks, ranks_from_environ
from carbon_plugin.monitor.settings import MonitorArguments

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TorchCarbon", "watch"]


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    pipeline: Any = None,
    **arguments: Unpack[MonitorArguments],
) -> TorchCarbon:
    """Measure the training of `model`, from now until the block ends or the program does.

    With `optimizer` every `optimizer.step()` is counted; of several optimizers pass the one that steps once an
    iteration. In a pipeline `model` is a stage's module and `pipeline` the schedule. The other arguments are those of
    `MonitorArguments`. Raises `SpecError` or `FootprintError` for arguments that cannot be used; nothing afterwards.
    """
    return TorchCarbon(model, optimizer, pipeline=pipeline, **arguments)


class TorchCarbon:
    """One training loop under measurement. After the first step it looks at model and optimizer once; from then on
    there is no hook but the optimizer's own, which goes with `close`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        pipeline: Any = None,
        **arguments: Unpack[MonitorArguments],
    ) -> None:
        self._ranks, unknown = _ranks()
        self.monitor = CarbonMonitor(ranks=self._ranks, **arguments)
        self._model, self._optimizer, self._pipeline = model, optimizer, pipeline
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

    def __enter__(self) -> TorchCarbon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unhook()
        self.monitor.__exit__(kind, error, trace)

    def _begin(self, unknown: Exception | None) -> None:
        if unknown is not None:
            self.monitor.fail("ranks", unknown)
        self.monitor.start(versions=_versions())
        if not self.monitor.active:
            return
        self._first = FirstStep(self._model, self._pipeline)
        if self._optimizer is not None:
            self._handle = self._optimizer.register_step_post_hook(lambda *_: self.step())

    def _look(self, first: FirstStep) -> None:
        self._first = None
        try:
            seen = first.look(self._model, world_size=self._ranks.world_size, optimizer=self._optimizer)
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


def _versions() -> dict[str, str]:
    import torch

    return {"python": sys.version.split()[0], "torch": str(torch.__version__)}
