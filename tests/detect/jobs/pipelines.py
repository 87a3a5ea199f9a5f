"""Pipelines of torch over four gloo ranks: each returns the schedule, and what the script would hand to `watch`."""

from __future__ import annotations

import torch
import torch.distributed as dist
from tiny import Stage, mesh, sharded
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.nn.parallel import DistributedDataParallel

MICRO_BATCHES = 4
CPU = torch.device("cpu")


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.float().mean()


def pipeline(kind: type, indices: list[int], number: int, over: DeviceMesh, data: DeviceMesh | None = None) -> object:
    """Return a schedule over the mesh `over`, whose stages on this rank are `indices` of `number`."""
    group, stages = over.get_group(), []
    for index in indices:
        module: nn.Module = Stage(index, number)
        if data is not None:
            module = sharded(module, data)
        stages.append(PipelineStage(module, index, number, CPU, group=group))
    several = len(indices) > 1
    return kind(stages if several else stages[0], MICRO_BATCHES, loss_fn=loss)


def gpipe() -> object:
    return pipeline(ScheduleGPipe, [dist.get_rank()], 4, mesh((4,), "pp"))


def one_forward_one_backward() -> object:
    return pipeline(Schedule1F1B, [dist.get_rank()], 4, mesh((4,), "pp"))


def interleaved() -> object:
    return pipeline(ScheduleInterleaved1F1B, [dist.get_rank(), dist.get_rank() + 4], 8, mesh((4,), "pp"))


def interleaved_zero_bubble() -> object:
    return pipeline(ScheduleInterleavedZeroBubble, [dist.get_rank(), dist.get_rank() + 4], 8, mesh((4,), "pp"))


def v_shaped_zero_bubble() -> object:
    return pipeline(ScheduleZBVZeroBubble, [dist.get_rank(), 7 - dist.get_rank()], 8, mesh((4,), "pp"))


def pipeline_and_fsdp2() -> object:
    both = mesh((2, 2), "pp", "dp")
    return pipeline(Schedule1F1B, [both.get_local_rank("pp")], 2, both["pp"], both["dp"])


def pipeline_and_ddp() -> object:
    both = mesh((2, 2))
    index = both.get_coordinate()[0]
    stage = DistributedDataParallel(Stage(index, 2), process_group=both.get_group(1))
    return Schedule1F1B(PipelineStage(stage, index, 2, CPU, group=both.get_group(0)), MICRO_BATCHES, loss_fn=loss)


PIPELINES = (
    gpipe, one_forward_one_backward, interleaved, interleaved_zero_bubble, v_shaped_zero_bubble, pipeline_and_fsdp2,
    pipeline_and_ddp,
)  # fmt: skip
