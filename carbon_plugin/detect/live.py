"""Read layout, model, batch and precision of a live training job, once and on the training thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from carbon_plugin.detect.batch import BatchWatch
from carbon_plugin.detect.devices import computing_gpus
from carbon_plugin.detect.job import Job
from carbon_plugin.detect.observed import AXES, Detected, Observed
from carbon_plugin.detect.readers.layout import complete_layout, holds_all_experts
from carbon_plugin.detect.readers.order import read_all
from carbon_plugin.detect.readers.pipeline import stage_modules
from carbon_plugin.detect.shape.model import EXPERTS, STAGE, detect_model
from carbon_plugin.printable import brief

if TYPE_CHECKING:
    from torch import nn

BUDGET_S = 2.0
"""The CPU time in seconds that counting an unknown module may take; reading objects takes milliseconds. It is not wall
time, so that a busy host sees as much as an idle one."""


class FirstStep:
    """One instance looks at a job once, after its first optimizer step, when wrappers and lazy state have settled.

    From its creation until then temporary hooks on `called`, the module that gets the batches, see their shapes. For a
    pipeline (schedule or stage) this module is its first stage on this rank.
    """

    def __init__(self, called: nn.Module, pipeline: Any = None) -> None:
        self._pipeline = pipeline
        self._batches = BatchWatch(next(iter(stage_modules(pipeline)), called))

    @property
    def seq_len(self) -> int | None:
        """Return the length of the sequences that the model was called with so far, or None where none was seen."""
        seen = self._batches.observed().get("training.seq_len")
        return None if seen is None else int(seen.value)

    def look(
        self,
        model: nn.Module,
        *,
        world_size: int,
        optimizer: Any = None,
        told: dict[str, Observed] | None = None,
        framework: Any = None,
    ) -> tuple[Detected, tuple[str, ...]]:
        """Return what live objects show and the UUIDs of the GPUs that hold `model`. No hook is left behind."""
        self.remove()
        detected = detect(
            model,
            world_size=world_size,
            optimizer=optimizer,
            batch=self._batches,
            told=told,
            pipeline=self._pipeline,
            framework=framework,
        )
        try:
            return detected, computing_gpus(model.parameters())
        except Exception as error:  # some builds of torch know no UUIDs; all else was seen
            unknown = ("not_detected", f"GPUs of this rank: {brief(error)}")
            return msgspec.structs.replace(detected, problems=(*detected.problems, unknown)), ()

    def remove(self) -> None:
        """Remove the hooks without looking at the job."""
        self._batches.remove()


def detect(
    model: nn.Module,
    *,
    world_size: int,
    optimizer: Any = None,
    batch: BatchWatch | None = None,
    told: dict[str, Observed] | None = None,
    pipeline: Any = None,
    framework: Any = None,
    budget_s: float = BUDGET_S,
) -> Detected:
    """Return everything that live objects show. What cannot be read is a problem in the result, never an exception.

    `batch` watched the first step's calls. `told` are fields that an adapter states; they win. `pipeline` and
    `framework` are those of a `Job`.
    """
    start_s = time.monotonic()
    model = _all_stages(model, pipeline)
    job = Job(
        model=model,
        world_size=world_size,
        optimizer=optimizer,
        pipeline=pipeline,
        framework=framework,
        batch=batch,
        known=told or {},
        deadline_s=time.thread_time() + budget_s,
    )
    seen = read_all(job)
    axes = {axis: seen.fields[f"layout.{axis}"] for axis in AXES if f"layout.{axis}" in seen.fields}
    layout = complete_layout(axes, world_size)
    problems = list(seen.problems)
    shape = None
    try:
        shape = detect_model(
            model,
            example=batch.example if batch else None,
            elsewhere=_elsewhere(model, axes, counted=seen.parameters is not None),
            parameters=seen.parameters,
            deadline_s=job.deadline_s,
            stated=seen.shape,
            irregular=batch.irregular() if batch else "",
        )
    except Exception as error:  # a problem is recorded, as for the readers
        problems.append(("not_detected", f"model: {brief(error)}"))
    return Detected(
        layout=layout,
        model=shape,
        fields={**seen.fields, **{f"layout.{axis}": value for axis, value in layout.axes.items()}},
        device_kind=next((parameter.device.type for parameter in model.parameters()), None),
        problems=tuple(problems),
        duration_s=time.monotonic() - start_s,
    )


def _all_stages(model: nn.Module, pipeline: Any) -> nn.Module:
    """Return the model, or all stages that this rank holds where the script's model is one of them."""
    from torch import nn

    modules = stage_modules(pipeline)
    if not modules:
        return model
    own = {id(parameter) for parameter in model.parameters()}
    if all(id(parameter) in own for module in modules for parameter in module.parameters()):
        return model
    return nn.ModuleList(modules)


def _elsewhere(model: nn.Module, axes: dict[str, Observed], *, counted: bool) -> frozenset[str]:
    """Return the fields of the model's shape that this rank's part of the model does not show.

    `counted` says that a framework has counted all experts.
    """
    several = {axis for axis in ("pp", "ep") if axis in axes and axes[axis].value > 1}
    local_experts = "ep" in several and not counted and not holds_all_experts(model)
    return (STAGE if "pp" in several else frozenset()) | (EXPERTS if local_experts else frozenset())
