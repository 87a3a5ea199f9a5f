"""Layouts of a model that is known only by its counts: data-parallel, the best of them, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.plan.search.data_parallel import data_parallel_layouts
from carbon_plugin.plan.search.fullness import expected_slowdown
from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec, with_layout


def spec_of(parameters: int = 25_557_032, batch: int = 1024, **held: Any) -> RunSpec:
    model = {
        "type": "counted", "name": "resnet", "parameters": parameters, "trainable_parameters": parameters,
        "forward_flops_per_sample": 8.2e9, "activation_bytes_per_sample": 9e7, "kernels": 160,
    }  # fmt: skip
    training = {"seq_len": 1, "global_batch_size": batch, "steps": 100}
    cluster = {"accelerator": "a100-sxm-80gb", "nodes": 1}
    mapping = {
        "model": model,
        "cluster": cluster,
        "training": training,
        "site": {"zone": "FRA"},
        "layout": held or "auto",
    }
    return build_run_spec(mapping, origin="t")


def test_a_counted_model_without_a_layout_takes_the_data_parallel_one_of_least_expected_time() -> None:
    spec = spec_of()
    candidates = data_parallel_layouts(spec)

    found = search_layout(spec)

    assert {one.layout.world_size for one in candidates} == {8}
    assert {one.layout.dp for one in candidates} == {8}
    assert {one.layout.micro_batch_size for one in candidates} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert found.expected_time_s == pytest.approx(min(one.expected_time_s for one in candidates), rel=2e-3)
    alone = predict_step(with_layout(spec, found.layout))
    slower = float(expected_slowdown(alone.memory.total_bytes / alone.memory.capacity_bytes, "ordinary"))
    assert alone.step_time_s.value * slower == pytest.approx(found.expected_time_s)
    assert (
        make_forecast(spec).layout_source == f"auto: fastest of {found.fitting} that fit, of {len(candidates)} layouts"
    )


def test_states_are_sharded_where_replicas_do_not_fit() -> None:
    found = search_layout(spec_of(parameters=8_000_000_000))

    assert found.layout.dp_shard == 8
    assert found.layout.zero_stage > 0


@pytest.mark.parametrize("held", [{"micro_batch_size": 4}, {"dp_shard": 8}, {"zero_stage": 3}, {"recompute": "full"}])
def test_a_counted_models_layout_keeps_to_what_is_stated(held: dict[str, Any]) -> None:
    found = search_layout(spec_of(**held))

    assert {name: getattr(found.layout, name) for name in held} == held


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (spec_of(batch=12), r"batch: global_batch_size 12 is not a multiple of the 8 devices.* 16 would do"),
        (spec_of(parameters=10**12), r"memory: none of \d+ layouts of resnet fits in 80 GiB of a100"),
        (spec_of(tp=2), "can only be data-parallel, but the layout is to have tp 2"),
    ],
    ids=["batch", "memory", "tp"],
)  # fmt: skip
def test_what_cannot_be_says_why(spec: RunSpec, message: str) -> None:
    with pytest.raises(InfeasibleLayoutError, match=message):
        search_layout(spec)


def test_a_model_of_the_same_counts_is_found_the_same_layout_every_time() -> None:
    first, second = (msgspec.json.encode(search_layout(spec_of()).layout) for _ in range(2))

    assert first == second
