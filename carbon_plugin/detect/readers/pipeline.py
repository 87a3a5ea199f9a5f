"""Read a pipeline of PyTorch: stages know their number, the schedule knows its kind and its micro-batches.

The schedule is what the script hands over: `watch(model, pipeline=schedule)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.observed import Observed
from carbon_plugin.detect.shape.parameters import count_parameters
from carbon_plugin.detect.shape.structure import repeated_blocks
from carbon_plugin.detect.stages import STAGES, StagePart
from carbon_plugin.spec.numbers.amounts import plural

if TYPE_CHECKING:
    from torch import nn

_KIND_OF_CLASS = {
    "ScheduleGPipe": "gpipe",
    "Schedule1F1B": "1f1b",
    "ScheduleInterleaved1F1B": "interleaved",
    "ScheduleLoopedBFS": "interleaved",
    "ScheduleInterleavedZeroBubble": "zero_bubble",
    "ScheduleZBVZeroBubble": "zero_bubble",
    "ScheduleDualPipeV": "zero_bubble",
}
_PREDICTED_AS = {
    "ScheduleLoopedBFS": "its micro-batches run breadth first; predicted as interleaved 1F1B",
    "ScheduleDualPipeV": "forward and backward passes of two directions overlap; predicted as zero bubble",
}


def read(job: Job) -> Findings | None:
    """Return degree, schedule, virtual stages and micro-batches of a pipeline, or None without one."""
    schedule = job.pipeline
    stages = _stages(schedule)
    if not stages:
        return None
    name = type(schedule).__name__
    fields = {
        "layout.pp": Observed(int(stages[0].group_size), f"{name} over {plural(stages[0].num_stages, 'stage')}"),
        STAGES: Observed(tuple(map(_part, stages)), f"modules of {name} on this rank"),
    }
    if hasattr(schedule, "_n_microbatches"):  # a stage alone knows of no schedule
        number = int(schedule._n_microbatches)
        fields["layout.virtual_stages"] = Observed(len(stages), f"stages of {name} on this rank")
        # Before its first micro-batch a stage runs once to send shapes to its neighbours, so only whole rounds count.
        rounds = max(1, (job.batch.calls if job.batch else 0) // number)
        said = f"{name} of {number} micro-batches, {rounds} a step"
        fields["training.micro_batches"] = Observed(number * rounds, said)
        fields["layout.pipeline_rounds"] = Observed(rounds, said)
    kind = next((_KIND_OF_CLASS[c.__name__] for c in type(schedule).__mro__ if c.__name__ in _KIND_OF_CLASS), None)
    if kind is not None:
        fields["layout.pipeline_schedule"] = Observed(kind, f"class {name}")
    remark = _PREDICTED_AS.get(name)
    return Findings(fields=fields, problems=(("pipeline", f"{name}: {remark}"),) if remark else ())


def stage_modules(pipeline: Any) -> list[nn.Module]:
    """Return the modules that a schedule or a stage runs on this rank, in order."""
    return [stage.submod for stage in _stages(pipeline)]


def _stages(pipeline: Any) -> list[Any]:
    """Return the stages on this rank, of a schedule with several or one, or of a stage itself."""
    if hasattr(pipeline, "_stages"):
        return list(pipeline._stages)
    stage = getattr(pipeline, "_stage", pipeline)
    return [stage] if hasattr(stage, "submod") and hasattr(stage, "num_stages") else []


def _part(stage: Any) -> StagePart:
    blocks = repeated_blocks(stage.submod)
    total, trainable = count_parameters(stage.submod)
    return StagePart(
        number=int(stage.stage_index),
        of=int(stage.num_stages),
        parameters=total,
        trainable_parameters=trainable,
        layers=len(blocks.modules) if blocks else 0,
    )
