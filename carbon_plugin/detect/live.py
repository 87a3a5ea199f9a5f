"""One look at a live training job: layout, model, batch, precision. Called once, on the training thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from carbon_plugin.detect.batch import BatchWatch
from carbon_plugin.detect.devices import computing_gpus
from carbon_plugin.detect.layout import detect_layout
from carbon_plugin.detect.model import detect_model
from carbon_plugin.detect.observed import Detected, Observed
from carbon_plugin.detect.step import detect_optimizer, detect_precision, detect_recompute
from carbon_plugin.detect.wrappers import data_parallel

if TYPE_CHECKING:
    from torch import nn

BUDGET_S = 2.0
"""Longest time that counting an unknown module may take; reading objects takes milliseconds."""

T = TypeVar("T")


class FirstStep:
    """A look at a job that is taken once, after its first optimizer step, when wrappers and lazy state have settled.

    From its creation until then a temporary hook on `called`, the module that gets the batches, sees their shapes.
    """

    def __init__(self, called: nn.Module) -> None:
        self._batches = BatchWatch(called)

    def look(
        self, model: nn.Module, *, world_size: int, optimizer: Any = None, told: dict[str, Observed] | None = None
    ) -> tuple[Detected, tuple[str, ...]]:
        """What live objects show, and the UUIDs of the GPUs that hold `model`. Leaves no hook behind."""
        self.remove()
        detected = detect(model, world_size=world_size, optimizer=optimizer, batch=self._batches, told=told)
        return detected, computing_gpus(model)

    def remove(self) -> None:
        """Take the hook away without a look."""
        self._batches.remove()


def detect(
    model: nn.Module,
    *,
    world_size: int,
    optimizer: Any = None,
    batch: BatchWatch | None = None,
    told: dict[str, Observed] | None = None,
    budget_s: float = BUDGET_S,
) -> Detected:
    """Everything that live objects show. What cannot be read is a problem in the result, never an exception.

    `batch` watched the first step's calls. `told` are fields that a framework's own objects state; they win.
    """
    start_s = time.monotonic()
    problems: list[tuple[str, str]] = []

    def attempt(what: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except Exception as error:  # private attributes differ between releases; the rest must still be read
            problems.append(("not_detected", f"{what}: {type(error).__name__}: {error}"))
            return None

    layout = attempt("layout", lambda: detect_layout(model, world_size=world_size, optimizer=optimizer))
    fields = {f"layout.{axis}": value for axis, value in layout.axes.items()} if layout else {}
    if layout is not None:
        problems += [("layout_conflict", sentence) for sentence in layout.conflicts]
    wrapper = attempt("data-parallel wrapper", lambda: data_parallel(model))
    stages = layout.axes["pp"].value if layout and "pp" in layout.axes else 1
    shape = attempt(
        "model",
        lambda: detect_model(
            model,
            example=batch.example if batch else None,
            pipeline_stages=stages,
            deadline_s=start_s + budget_s,
        ),
    )
    dtype, autocast = wrapper.param_dtype if wrapper else None, batch.autocast_dtype if batch else None
    precision = attempt("precision", lambda: detect_precision(model, dtype, autocast))
    recompute, remark = attempt("recompute", lambda: detect_recompute(model)) or (None, None)
    kind = attempt("optimizer", lambda: detect_optimizer(optimizer)) if optimizer is not None else None
    seen = {"training.precision": precision, "layout.recompute": recompute, "training.optimizer": kind}
    fields |= {name: value for name, value in seen.items() if value is not None}
    fields |= batch.observed() if batch else {}
    fields |= told or {}
    problems += [("recompute", remark)] if remark else []
    problems += [("batch_not_seen", batch.reason)] if batch and batch.reason else []
    return Detected(
        layout=layout,
        model=shape,
        fields=fields,
        device_kind=next((parameter.device.type for parameter in model.parameters()), None),
        problems=tuple(problems),
        duration_s=time.monotonic() - start_s,
    )
