"""The search over layouts: valid candidates, the same answer as trying them one at a time, help when nothing fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.plan.search.feasibility import inputs_of
from carbon_plugin.plan.search.fullness import SLOWDOWN_AT_LIMIT, expected_slowdown, slowdown_of_a_run
from carbon_plugin.plan.search.layouts import search, search_layout
from carbon_plugin.plan.search.pareto import STEP, front
from carbon_plugin.plan.search.slow_network import expected_on_networks, slow
from carbon_plugin.plan.search.space import (
    EVERYTHING,
    MAX_CHUNKS,
    MAX_MICRO_BATCH,
    USUAL,
    complexity,
    layout_at,
    schedules,
)
from carbon_plugin.predict.case.from_spec import layout_of
from carbon_plugin.predict.case.inputs import stack_cases
from carbon_plugin.predict.step import predict_step
from carbon_plugin.predict.time.schedule import step_time
from carbon_plugin.predict.uncertainty.fit import fit_probability
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.presets import load_preset
from carbon_plugin.spec.run import RunSpec, check_layout, with_layout

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
    """Yield all layouts of a small cluster that the rules of the spec allow, tried one by one."""
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
    expected = time * expected_slowdown(need / (2.2 * 2**30), spec.stack.population)
    kept = front(expected, expected * power, effort)

    found = search(spec, EVERYTHING)
    assert 0 < found.fitting == len(fitting) < found.considered == len(layouts)
    assert found.front.expected_time_s == pytest.approx(expected[kept], rel=STEP)
    assert found.front.expected_time_s * found.front.power_w == pytest.approx((expected * power)[kept], rel=STEP)


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
    less, more = (search_layout(with_memory(spec, size)).expected_time_s for size in gib)
    assert more <= less * (1 + STEP)


def test_more_devices_never_make_the_best_step_slower() -> None:
    assert search_layout(spec_of("llama3-8b", 4)).step_time_s < search_layout(spec_of("llama3-8b", 2)).step_time_s


def test_everything_is_never_slower_than_the_usual() -> None:
    spec = spec_of("llama3-70b", 8)
    usual, everything = (search(spec, space).front.expected_time_s[0] for space in (USUAL, EVERYTHING))
    assert everything <= usual * (1 + STEP)


def test_progress_rises_to_the_end() -> None:
    told: list[float] = []
    search(spec_of("mixtral-8x7b", 4), EVERYTHING, told.append)
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_model_that_fits_nowhere_says_the_smallest_need_and_what_would_help() -> None:
    with pytest.raises(
        InfeasibleLayoutError,
        match=r"^memory: none of [\d,]+ layouts of llama3-405b .* fits in 80 GiB of h100-sxm; the smallest needs "
        r"[\d.]+ GiB \(.*recompute \w+\); to make room: (\d+) nodes",
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


# What fills the memory nearly up ------------------------------------------------------------------------------------


def test_the_layout_that_is_taken_is_the_one_of_least_expected_time_and_not_of_least_predicted_time() -> None:
    spec = spec_of("llama3-70b", 4, seq_len=8192)
    inputs, times, slow_times, needs = inputs_of(spec), [], [], []
    for grid, _ in inputs.grids(USUAL):
        need = inputs.need_bytes(grid)
        fits = np.flatnonzero(need <= inputs.capacity_bytes)
        step = step_time(inputs.shape, grid.at(fits), inputs.work, inputs.rates)
        slowly = step_time(inputs.shape, grid.at(fits), inputs.work, slow(inputs.rates))
        times.append(np.broadcast_to(step.total, fits.shape))
        slow_times.append(np.broadcast_to(slowly.total, fits.shape))
        needs.append(need.ravel()[fits])
    predicted, fill = np.concatenate(times), np.concatenate(needs) / inputs.capacity_bytes
    on_networks = expected_on_networks(predicted, np.concatenate(slow_times))
    expected = on_networks * expected_slowdown(fill, spec.stack.population)

    found = search_layout(spec)

    assert predicted[expected.argmin()] > 1.001 * predicted.min()  # another one is the fastest by the equations alone
    assert found.expected_time_s == pytest.approx(expected.min(), rel=STEP)
    assert found.memory_bytes < fill[predicted.argmin()] * inputs.capacity_bytes


@pytest.mark.parametrize(
    ("model", "accelerator", "nodes"),
    [
        ("llama3-8b", "h100-sxm", 1), ("llama3-8b", "h100-sxm", 16), ("llama3-70b", "h100-sxm", 8),
        ("llama3-70b", "a100-sxm-80gb", 8), ("llama3-70b", "b200-sxm", 4), ("mixtral-8x7b", "h100-sxm", 4),
        ("mixtral-8x7b", "mi300x", 4), ("llama3-405b", "h100-sxm", 256), ("gpt2", "a100-sxm-40gb", 1),
        ("llama3-8b", "tpu-v5p", 16), ("llama3-8b", "h200-sxm", 2), ("deepseek-v3", "h100-sxm", 256),
    ],
)  # fmt: skip
def test_no_plan_fills_its_memory_where_another_layout_is_as_fast_with_room(
    model: str, accelerator: str, nodes: int
) -> None:
    training = {"seq_len": load_preset(model).made_for_seq_len or 4096, "global_batch_size": 1024, "steps": 100}
    cluster = {"accelerator": accelerator, "nodes": nodes}
    spec = build_run_spec(
        {"model": model, "cluster": cluster, "training": training, "site": {"zone": "FRA"}}, origin="t"
    )

    found = search_layout(spec)

    fill = found.memory_bytes / spec.cluster.accelerator.memory_bytes.value
    assert fit_probability(fill, spec.stack.population) > 0.8, (fill, found.layout)


def test_the_expected_slowdown_rises_from_nothing_to_what_not_fitting_costs() -> None:
    fills = np.linspace(0.2, 2.2, 400)
    for population in ("tuned", "ordinary"):
        factors = expected_slowdown(fills, population)
        assert (np.diff(factors) >= 0).all()
        assert factors[0] == pytest.approx(1, abs=0.01)
        assert factors[-1] == pytest.approx(1 + 1 / 3, abs=0.02)
    assert expected_slowdown(0.9, "tuned") <= expected_slowdown(0.9, "ordinary")  # whose peaks are no surer


def test_a_layout_that_ran_loses_no_more_than_a_full_memory_costs() -> None:
    fills = np.linspace(0.2, 1.0, 100)
    ran, unknown = slowdown_of_a_run(fills, "tuned"), expected_slowdown(fills, "tuned")
    assert (np.diff(ran) >= 0).all()
    assert (ran <= unknown).all()
    assert ran[0] == pytest.approx(1, abs=1e-5)
    assert ran[-1] < 1 + SLOWDOWN_AT_LIMIT


@pytest.mark.parametrize(("layers", "chunks"), [(126, 8), (128, 8), (125, 4), (94, 6)])
def test_embedding_and_head_may_take_the_place_of_layers_in_a_chunk(layers: int, chunks: int) -> None:
    model = msgspec.structs.replace(load_preset("llama3-405b"), layers=layers)

    assert max(v for _, v in schedules(model, 16, USUAL)) == chunks


# What is held of a layout -------------------------------------------------------------------------------------------

HELD = [
    {"tp": 8}, {"pp": 4}, {"cp": 2}, {"dp_shard": 8}, {"dp_replicate": 4}, {"dp_replicate": 2, "zero_stage": 2},
    {"zero_stage": 3}, {"micro_batch_size": 2}, {"recompute": "full"}, {"tp": 2, "pp": 2},
    {"pipeline_schedule": "zero_bubble", "pp": 2}, {"pipeline_schedule": "gpipe", "pp": 2}, {"virtual_stages": 2},
    {"sequence_parallel": False, "tp": 2}, {"async_tp": True, "tp": 2}, {"balanced_stages": True, "pp": 2},
    {"pipeline_rounds": 2, "pp": 2}, {"pipeline_rounds": 2, "pp": 2, "virtual_stages": 2},
    {"context_parallel_kind": "all_to_all", "cp": 2}, {"recompute_reentrant": True, "recompute": "full"},
    {"recompute": "selective", "recompute_modules": ("core_attn", "layernorm")},
    {"recompute": "full", "recompute_share": 0.5}, {"recompute_share": 0.25},
]  # fmt: skip


@pytest.mark.parametrize("held", HELD, ids=str)
def test_a_search_keeps_to_what_is_stated_of_a_layout(held: dict[str, Any]) -> None:
    spec = msgspec.structs.replace(spec_of("llama3-8b", 4), layout_held=held)

    found = search_layout(spec)

    assert {name: getattr(found.layout, name) for name in held} == held
    check_layout(spec.model, spec.cluster, found.layout)
    alone = predict_step(with_layout(spec, found.layout))
    assert alone.step_time_s.value == pytest.approx(found.step_time_s, rel=1e-12)
    assert alone.memory.total_bytes == pytest.approx(found.memory_bytes, rel=1e-12)


@pytest.mark.parametrize("held", [{"ep": 4}, {"ep": 2, "expert_tp": 2}, {"expert_overlap": True, "ep": 8}], ids=str)
def test_a_search_keeps_to_what_is_stated_of_the_experts(held: dict[str, Any]) -> None:
    spec = msgspec.structs.replace(spec_of("mixtral-8x7b", 4), layout_held=held)

    found = search_layout(spec)

    assert {name: getattr(found.layout, name) for name in held} == held
    alone = predict_step(with_layout(spec, found.layout))
    assert alone.step_time_s.value == pytest.approx(found.step_time_s, rel=1e-12)


def test_the_best_layout_with_a_degree_is_the_best_of_all_that_have_it() -> None:
    spec = with_memory(spec_of(TINY_MOE, 1, devices_per_node=2, global_batch_size=8), 4)
    expected = {}
    for layout in every_layout(spec):
        usual = layout.pipeline_schedule in USUAL.schedules and layout.cp == 1
        prediction = predict_step(with_layout(spec, layout))
        if usual and prediction.memory.fits:
            slower = float(
                expected_slowdown(prediction.memory.total_bytes / prediction.memory.capacity_bytes, "ordinary")
            )
            expected[layout] = prediction.step_time_s.value * slower
    for held in ({"tp": 2}, {"pp": 2}, {"zero_stage": 3}, {"micro_batch_size": 4}, {"recompute": "full"}):
        best = min(time for layout, time in expected.items() if all(getattr(layout, n) == v for n, v in held.items()))
        found = search_layout(msgspec.structs.replace(spec, layout_held=held))
        assert found.expected_time_s == pytest.approx(best, rel=STEP)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"tp": 3}, "layout: tp 3 does not divide the 32 devices"),
        ({"tp": 8, "pp": 8}, r"layout: tp 8 \* pp 8 = 64 does not divide the 32 devices"),
        ({"pp": 64}, "layout: pp 64 does not divide the 32 devices"),
        ({"ep": 4}, "layout: ep 4, but llama3-8b has no experts"),
        ({"micro_batch_size": 3}, "global_batch_size 256 is not a multiple of"),
        ({"dp_shard": 2, "zero_stage": 0}, "shards nothing while zero_stage is 0"),
        ({"expert_tp": 2}, "expert_tp 2 needs ep above 1"),
    ],
    ids=str,
)
def test_what_is_held_and_cannot_be_says_which_rule_it_breaks(held: dict[str, Any], message: str) -> None:
    with pytest.raises(InfeasibleLayoutError, match=message):
        search_layout(msgspec.structs.replace(spec_of("llama3-8b", 4), layout_held=held))
