"""What is seen of a job's first step, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from tiny import LENGTH, VOCAB
from torch import nn

from carbon_plugin.detect.live import FirstStep
from carbon_plugin.detect.observed import Detected


class Look:
    """A look that begins before a job's first step and is taken after it."""

    def __init__(self, model: nn.Module, *, called: nn.Module | None = None) -> None:
        self._model, self._hooks = model, count_hooks(model)
        self._first = FirstStep(called or model)

    def take(self, optimizer: Any, *, model: nn.Module | None = None, framework: Any = None) -> dict[str, Any]:
        """Return what is detected. `model` is the wrapped model where the loop has wrapped it since."""
        world = dist.get_world_size()
        found, _ = self._first.look(model or self._model, world_size=world, optimizer=optimizer, framework=framework)
        return as_plain_data(found) | {"hooks_left": count_hooks(self._model) - self._hooks}


def as_plain_data(found: Detected) -> dict[str, Any]:
    """Return what was detected, with the source of each value."""
    return {
        "axes": {axis: (value.value, value.source) for axis, value in found.layout.axes.items()},
        "unexplained": found.layout.unexplained,
        "fields": {name: msgspec.to_builtins(value.value) for name, value in found.fields.items()},
        "sources": {name: value.source for name, value in found.fields.items()},
        "model": found.model and msgspec.to_builtins(found.model.fields),
        "model_source": found.model and found.model.source,
        "parameters": found.model and found.model.parameters,
        "partial": found.model and found.model.partial,
        "problems": found.problems,
    }


def look(model: nn.Module, train: Callable[[], Any], *, framework: Any = None) -> dict[str, Any]:
    """Watch `train`, which takes one step and returns the optimizer, and look at what it trained."""
    looking = Look(model)
    return looking.take(train(), framework=framework)


def one_step(model: nn.Module) -> Callable[[], torch.optim.Optimizer]:
    """Return what trains a model for one step and returns its optimizer."""

    def train() -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        out = model(torch.randint(VOCAB, (2, LENGTH)))
        getattr(out, "logits", out).sum().backward()
        optimizer.step()
        return optimizer

    return train


def count_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
