"""Orders along one axis of a layout that anybody who runs such jobs would expect, on jobs from 7B to 671B."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.presets import load_preset
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.stack import STACKS
from carbon_plugin.spec.training import TrainingPlan


class Job(NamedTuple):
    """One job: what is trained on what, and the degrees beside which data parallelism takes the other devices."""

    model: str
    device: str
    devices: int
    batch: int
    stack: str
    degrees: dict[str, Any]


DENSE = [
    Job("llama2-7b", "h100-sxm", 8, 256, "megatron-core", {}),
    Job("llama3-8b", "h100-sxm", 512, 2048, "torchtitan", {}),
    Job("llama2-7b", "mi300x", 16, 512, "ordinary", {}),
    Job("llama3-70b", "b200-sxm", 512, 2048, "megatron-bridge", {"tp": 2}),
    Job("llama3-70b", "mi300x", 128, 1024, "ordinary", {"tp": 2}),
]
PIPELINES = [
    Job("llama3-70b", "h100-sxm", 1024, 2048, "megatron-core", {"tp": 4, "pp": 4}),
    Job("llama3-405b", "h100-sxm", 4096, 2048, "megatron-core", {"tp": 8, "pp": 8}),
    Job("llama3-405b", "mi300x", 4096, 4096, "ordinary", {"tp": 8, "pp": 8}),
    Job("mixtral-8x22b", "h100-sxm", 128, 512, "megatron-core", {"tp": 2, "pp": 4, "ep": 8}),
]
MIXTURES = [
    Job("mixtral-8x7b", "h100-sxm", 64, 512, "megatron-core", {"ep": 8}),
    Job("qwen3-235b-a22b", "b200-sxm", 256, 2048, "megatron-bridge", {"pp": 2, "ep": 8}),
    Job("deepseek-v3", "h100-sxm", 1024, 8192, "megatron-core", {"pp": 4, "ep": 8}),
]


HOW: tuple[dict[str, Any], ...] = ({}, {"recompute": "full", "recompute_share": 0.5}, {"recompute": "full"})


def time_s(job: Job, **changes: Any) -> float:
    """Return the seconds of a step of a job in a layout that differs from its own in `changes`."""
    degrees: dict[str, Any] = {"zero_stage": 1, "sequence_parallel": True, **job.degrees, **changes}
    taken = degrees.get("tp", 1) * degrees.get("pp", 1) * degrees.get("cp", 1) * degrees.get("dp_replicate", 1)
    device = load_accelerator(job.device)
    spec = RunSpec(
        name=job.model,
        model=load_preset(job.model),
        cluster=Cluster(accelerator=device, node=default_node_for(device), nodes=job.devices // 8, devices_per_node=8),
        training=TrainingPlan(seq_len=4096, global_batch_size=job.batch, steps=1),
        site=Site(zone="FR"),
        layout=ParallelLayout(dp_shard=job.devices // taken, **degrees),
        stack=STACKS[job.stack],
    )
    return float(predict_step(spec).step_time_s.value)


def rises(times_s: list[float], tied: float = 1.0) -> bool:
    """Return whether no time is below the one before it, but for ties."""
    return all(later * tied >= earlier for earlier, later in pairwise(times_s))


@pytest.mark.parametrize("job", DENSE)
def test_tensor_parallelism_of_a_model_that_needs_less_costs_time_and_most_over_two_nodes(job: Job) -> None:
    times_s = [time_s(job, tp=tp) for tp in (2, 4, 8)]
    assert rises(times_s)
    if job.devices > 8:
        assert time_s(job, tp=16) > times_s[-1]


@pytest.mark.parametrize("job", DENSE)
def test_larger_micro_batches_are_never_slower_where_nothing_waits_for_a_pipeline(job: Job) -> None:
    assert rises([time_s(job, micro_batch_size=size) for size in (4, 2, 1)])


@pytest.mark.parametrize("job", DENSE)
def test_the_more_is_sharded_the_longer_a_step_takes_in_software_that_hides_the_gradients(job: Job) -> None:
    # Ordinary software waits for the gradients of ZeRO-1 and hides those of ZeRO-2 behind its layers.
    tied = 1.0 if STACKS[job.stack].dp_overlap > 0 else 1.05
    assert rises([time_s(job, zero_stage=stage) for stage in (1, 2, 3)], tied)


@pytest.mark.parametrize("job", [*DENSE, *PIPELINES, *MIXTURES])
def test_recompute_costs_at_most_the_forward_pass_and_more_of_it_costs_more(job: Job) -> None:
    none, half, full = (time_s(job, **how) for how in HOW)
    assert none < half < full < 1.6 * none
    assert none < time_s(job, recompute="selective") < full
    assert none < time_s(job, recompute="operators") < full


@pytest.mark.parametrize("job", PIPELINES)
def test_a_better_schedule_or_cut_of_a_pipeline_is_never_slower(job: Job) -> None:
    plain = time_s(job)
    chunks = [time_s(job, pipeline_schedule="interleaved", virtual_stages=count) for count in (4, 2)]
    assert rises([*chunks, plain])
    assert time_s(job, pipeline_schedule="zero_bubble") < plain
    assert time_s(job, pipeline_schedule="gpipe") == pytest.approx(plain)
    assert time_s(job, balanced_stages=True) < plain
    assert rises([time_s(job, pipeline_rounds=rounds) for rounds in (1, 2, 4)])


@pytest.mark.parametrize("job", PIPELINES)
def test_hidden_traffic_and_split_sequences_are_never_slower(job: Job) -> None:
    assert time_s(job, async_tp=True) < time_s(job) < time_s(job, sequence_parallel=False)


@pytest.mark.parametrize("job", MIXTURES)
def test_experts_are_spread_over_a_node_before_they_are_split_or_spread_over_several(job: Job) -> None:
    node = time_s(job)
    assert node < time_s(job, ep=2)
    assert node < time_s(job, expert_tp=2)
    assert time_s(job, expert_overlap=True) < node
    if load_preset(job.model).moe.experts > 8:  # type: ignore[union-attr]
        assert node < time_s(job, ep=16)


@pytest.mark.parametrize("job", [*DENSE[1:], *PIPELINES])
def test_more_devices_with_as_much_work_for_each_are_never_faster(job: Job) -> None:
    twice = job._replace(devices=2 * job.devices, batch=2 * job.batch)
    assert rises([time_s(job), time_s(twice)], tied=1.002)  # half the states are left to update
