"""The search over layouts: valid candidates, the same answer as trying them one at a time, help when nothing fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.plan.feasibility import NEARLY_FULL, inputs_of
from carbon_plugin.plan.pareto import STEP, front_with_room
from carbon_plugin.plan.search import search, search_layout
from carbon_plugin.plan.space import EVERYTHING, MAX_CHUNKS, MAX_MICRO_BATCH, USUAL, complexity, layout_at
from carbon_plugin.predict.case import layout_of, stack_cases
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec, check_layout

TINY_MOE = {
    "layers": 4, "hidden": 512, "heads": 4, "kv_heads": 2, "ffn": 1024, "vocab": 4096,
    "moe": {"experts": 4, "top_k": 2, "expert_ffn": 512, "first_dense_layers": 1},
}  # fmt: skip


def spec_of(model: object, nodes: int, devices_per_node: int = 8, **training: object) -> RunSpec:
    plan = {"seq_len": 4096, "global_batch_size": 256, "steps": 100, **training}
    cluster = {"accelerator": "h100-sxm", "nodes": nodes, "devices_per_node": devices_per_node}
    return build_run_spec({"model": model, "cluster": cluster, "training": plan, "site": {"zone": "FRA"}}, origin="t")


def with_memory(spec: RunSpec, gib: float) -> RunSpec:
    device = spec.cluster.accelerator
    memory = msgspec.structs.replace(device.memory_bytes, value=gib * 2**30)
    device = msgspec.structs.replace(device, memory_bytes=memory)
    return msgspec.structs.replace(spec, cluster=msgspec.structs.replace(spec.cluster, accelerator=device))


def every_layout(spec: RunSpec) -> Iterator[ParallelLayout]:
    """All layouts of a small cluster that spec's own rules allow, tried one by one."""
    world = spec.cluster.devices
    degrees = [d for d in range(1, world + 1) if world % d == 0]
    kinds = [("1f1b", 1), ("zero_bubble", 1), ("dualpipe", 1), *(("interleaved", v) for v in range(2, MAX_CHUNKS + 1))]
    recomputes = ("none", "selective", "operators", "full")
    for tp, cp, pp, replicate, shard in itertools.product(degrees, repeat=5):
        if tp * cp * pp * replicate * shard != world or (replicate > 1 and shard > 1):
            continue  # one island: hybrid sharding has nothing to keep inside
        for context, (schedule, chunks), stage, ep, size, recompute in itertools.product(
            ("ring", "all_to_all"), kinds, range(4), range(1, 5), range(1, MAX_MICRO_BATCH + 1), recomputes
        ):
            plain_pipeline = pp == 1 and schedule != "1f1b"
            if plain_pipeline or (cp == 1 and context != "ring") or (shard == 1) != (stage == 0):
                continue
            if context == "all_to_all" and (
                spec.model.heads % (tp * cp) or (spec.model.kv_heads % (tp * cp) and (tp * cp) % spec.model.kv_heads)
            ):
                continue
            stages = -(-spec.model.layers // pp)
            if chunks > 1 and stages % chunks:
                continue
            try:
                layout = ParallelLayout(
                    tp=tp, cp=cp, pp=pp, dp_replicate=replicate, dp_shard=shard, ep=ep, zero_stage=stage,
                    sequence_parallel=tp > 1, context_parallel_kind=context, pipeline_schedule=schedule,
                    virtual_stages=chunks, micro_batch_size=size, recompute=recompute,
                )  # fmt: skip
                check_layout(spec.model, spec.cluster, layout)
                rounds = layout.micro_batches(spec.training.global_batch_size)
            except InfeasibleLayoutError:
                continue
            in_rounds = chunks == 1 or rounds % pp == 0
            from_both_ends = schedule != "dualpipe" or (rounds % 2 == 0 and rounds >= 2 * pp)
            if in_rounds and from_both_ends:
                yield layout


def all_found(spec: RunSpec) -> list[ParallelLayout]:
    found = []
    for grid, _ in inputs_of(spec).grids(EVERYTHING):
        layouts = grid.at(np.flatnonzero(grid.valid))
        found += [layout_at(layouts, index) for index in range(layouts.tp.size)]
    return found


def test_the_search_finds_what_trying_every_layout_alone_finds() -> None:
    spec = with_memory(spec_of(TINY_MOE, 1, devices_per_node=2, global_batch_size=8), 2.2)
    layouts = list(every_layout(spec))
    assert set(map(msgspec.json.encode, all_found(spec))) == set(map(msgspec.json.encode, layouts))

    alone = [predict_step(msgspec.structs.replace(spec, layout=layout)) for layout in layouts]
    fitting = [index for index, prediction in enumerate(alone) if prediction.memory.fits]
    time = np.array([alone[index].step_time_s.value for index in fitting])
    power = np.array([alone[index].gpu_power_w.value for index in fitting])
    effort = complexity(stack_cases([layout_of(layouts[index]) for index in fitting]))
    need = np.array([alone[index].memory.total_bytes for index in fitting])
    kept = front_with_room(time, time * power, effort, need > NEARLY_FULL * 2.2 * 2**30)

    found = search(spec, EVERYTHING)
    assert 0 < found.fitting == len(fitting) < found.considered == len(layouts)
    assert found.front.step_time_s == pytest.approx(time[kept], rel=STEP)
    assert found.front.step_time_s * found.front.power_w == pytest.approx((time * power)[kept], rel=STEP)


@pytest.mark.parametrize(("model", "nodes"), [("llama3-8b", 1), ("llama3-70b", 8), ("mixtral-8x7b", 4)])
def test_every_candidate_is_a_layout_that_the_model_and_cluster_allow(model: str, nodes: int) -> None:
    spec = spec_of(model, nodes)
    random = np.random.default_rng(0)
    for grid, _ in inputs_of(spec).grids(EVERYTHING):
        flat = np.flatnonzero(grid.valid)
        layouts = grid.at(random.choice(flat, size=min(10, flat.size), replace=False))
        for index in range(layouts.tp.size):
            layout = layout_at(layouts, index)
            check_layout(spec.model, spec.cluster, layout)
            layout.micro_batches(spec.training.global_batch_size)


def test_no_layout_is_considered_twice() -> None:
    layouts = all_found(spec_of("mixtral-8x7b", 1, global_batch_size=8))
    assert len({msgspec.json.encode(layout) for layout in layouts}) == len(layouts)


@pytest.mark.parametrize(("model", "nodes"), [("llama3-70b", 8), ("mixtral-8x7b", 4), ("deepseek-v3", 64)])
def test_members_of_the_front_are_predicted_the_same_alone(model: str, nodes: int) -> None:
    spec = spec_of(model, nodes)
    found = search(spec, EVERYTHING).front
    for index in range(found.step_time_s.size):
        alone = predict_step(msgspec.structs.replace(spec, layout=found.layout(index)))
        assert alone.step_time_s.value == pytest.approx(found.step_time_s[index], rel=1e-12)
        assert alone.gpu_power_w.value == pytest.approx(found.power_w[index], rel=1e-12)
        assert alone.memory.total_bytes == pytest.approx(found.memory_bytes[index], rel=1e-12)
        assert alone.memory.fits


def test_the_search_is_the_same_every_time() -> None:
    spec = spec_of("mixtral-8x7b", 4)
    first, second = (search(spec, EVERYTHING).front for _ in range(2))
    assert [first.layout(i) for i in range(first.step_time_s.size)] == [
        second.layout(i) for i in range(second.step_time_s.size)
    ]


@given(st.tuples(st.floats(30, 200), st.floats(30, 200)).map(sorted))
@settings(max_examples=10)
def test_more_memory_never_makes_the_best_step_slower(gib: list[float]) -> None:
    spec = spec_of("llama3-8b", 1)
    less, more = (search_layout(with_memory(spec, size)).step_time_s for size in gib)
    assert more <= less * (1 + STEP)


def test_more_devices_never_make_the_best_step_slower() -> None:
    assert search_layout(spec_of("llama3-8b", 4)).step_time_s < search_layout(spec_of("llama3-8b", 2)).step_time_s


def test_everything_is_never_slower_than_the_usual() -> None:
    spec = spec_of("llama3-70b", 8)
    usual, everything = (search(spec, space).front.step_time_s[0] for space in (USUAL, EVERYTHING))
    assert everything <= usual * (1 + STEP)


def test_progress_rises_to_the_end() -> None:
    told: list[float] = []
    search(spec_of("mixtral-8x7b", 4), EVERYTHING, told.append)
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_model_that_fits_nowhere_says_the_smallest_need_and_what_would_help() -> None:
    with pytest.raises(
        InfeasibleLayoutError,
        match=r"^memory: none of [\d,]+ layouts of llama3-405b .* fits in 80\.0 GiB of h100-sxm; the smallest needs "
        r"[\d.]+ GiB \(.*recompute full\); to make room: (\d+) nodes",
    ) as raised:
        search_layout(spec_of("llama3-405b", 1))
    assert "\n" not in str(raised.value)
    nodes = int(str(raised.value).split("to make room: ")[1].split()[0])
    assert search_layout(spec_of("llama3-405b", nodes)).fitting > 0


def test_a_batch_that_nothing_divides_says_the_next_one_that_would_do() -> None:
    with pytest.raises(InfeasibleLayoutError, match=r"^batch: global_batch_size 7 is not a multiple") as raised:
        search_layout(spec_of("llama3-8b", 64, global_batch_size=7))
    enough = int(str(raised.value).split("global_batch_size ")[-1].split()[0])
    assert search_layout(spec_of("llama3-8b", 64, global_batch_size=enough)).fitting > 0
