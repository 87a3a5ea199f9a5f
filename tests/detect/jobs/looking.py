"""What is seen of a job's first step, as plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import torch.distributed as dist
from torch import nn

from carbon_plugin.detect.live import FirstStep


def look(
    model: nn.Module, train: Callable[[], Any], *, framework: Any = None, called: nn.Module | None = None
) -> dict[str, Any]:
    """Watch `train`, which takes one step and returns the optimizer, and look at what it trained."""
    hooks = count_hooks(model)
    first = FirstStep(called or model)
    optimizer = train()
    found, _ = first.look(model, world_size=dist.get_world_size(), optimizer=optimizer, framework=framework)
    return {
        "axes": {axis: (value.value, value.source) for axis, value in found.layout.axes.items()},
        "unexplained": found.layout.unexplained,
        "fields": {name: msgspec.to_builtins(value.value) for name, value in found.fields.items()},
        "sources": {name: value.source for name, value in found.fields.items()},
        "model": found.model and msgspec.to_builtins(found.model.fields),
        "model_source": found.model and found.model.source,
        "parameters": found.model and found.model.parameters,
        "problems": found.problems,
        "hooks_left": count_hooks(model) - hooks,
    }


def count_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
