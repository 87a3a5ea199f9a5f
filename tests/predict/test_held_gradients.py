"""The type in which PyTorch holds gradients, read off its own data parallelism, beside the bytes that we count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.parameters import device_parameters
from carbon_plugin.predict.states import state_parts
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import LLAMA

SHARDS = 8


@pytest.fixture
def one_rank() -> Iterator[None]:
    distributed = pytest.importorskip("torch.distributed")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def counted_bytes(reduced_in: str, layout: ParallelLayout) -> float:
    """Return the bytes that we count for each gradient that a device holds under the layout."""
    stack = Stack(grad_reduce_dtype=reduced_in)  # type: ignore[arg-type]
    work = work_of(TrainingPlan(seq_len=128, global_batch_size=64, steps=1), stack)
    shape, case = shape_of(LLAMA), layout_of(layout)
    held = float(sum(device_parameters(shape, case)))
    held /= layout.dp_shard if layout.zero_stage >= 2 and layout.pp == 1 else 1
    return float(state_parts(shape, case, work)["gradients"]) / held


def fsdp(reduced_in: str) -> Any:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    types = {"bf16": torch.bfloat16, "fp32": torch.float32}
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=types[reduced_in])
    return fully_shard(torch.nn.Linear(8, 8), mesh=init_device_mesh("cpu", (1,)), mp_policy=policy)


def run(model: Any, times: int = 1) -> None:
    import torch

    for _ in range(times):
        model(torch.ones(2, 8)).sum().backward()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("reduced_in", ["bf16", "fp32"])
def test_gradients_of_shards_have_the_type_of_the_shards(reduced_in) -> None:
    model = fsdp(reduced_in)
    run(model)
    sizes = {parameter.grad.element_size() for parameter in model.parameters()}
    assert {counted_bytes(reduced_in, ParallelLayout(dp_shard=SHARDS, zero_stage=stage)) for stage in (2, 3)} == sizes


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("reduced_in", ["bf16", "fp32"])
def test_whole_gradients_that_wait_in_a_pipeline_have_the_type_of_the_reduction(reduced_in) -> None:
    model = fsdp(reduced_in)
    model.set_requires_gradient_sync(False)
    run(model, times=2)
    held = list(model._get_fsdp_state()._fsdp_param_group.fsdp_params)
    waiting = [one.unsharded_accumulated_grad for one in held if one.unsharded_accumulated_grad is not None]
    waiting += [one._unsharded_param.grad for one in held if one._unsharded_param.grad is not None]
    assert len(waiting) == len(held) == 2
    layout = ParallelLayout(pp=2, dp_shard=SHARDS, zero_stage=3)
    assert {counted_bytes(reduced_in, layout)} == {gradient.element_size() for gradient in waiting}


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("reduced_in", ["bf16", "fp32"])
def test_gradients_of_copies_have_the_type_of_their_weights(reduced_in) -> None:
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))
    if reduced_in == "bf16":
        model.register_comm_hook(None, fp16_compress_hook)  # that of bf16 differs in the type, and asks for a GPU
    with torch.autocast("cpu", torch.bfloat16):
        run(model)
    sizes = {parameter.grad.element_size() for parameter in model.parameters()}
    assert {counted_bytes(reduced_in, ParallelLayout(dp_replicate=SHARDS))} == sizes
