"""The layout search: valid candidates, the fastest that fits, and a useful answer when nothing does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.plan.search import candidates, evaluate, layout_at, search_layout
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec, check_layout


def spec_of(model: str, nodes: int, **training: object) -> RunSpec:
    plan = {"seq_len": 4096, "global_batch_size": 256, "steps": 100, **training}
    return build_run_spec(
        {
            "model": model,
            "cluster": {"accelerator": "h100-sxm", "nodes": nodes},
            "training": plan,
            "site": {"zone": "FRA"},
        },
        origin="test",
    )


@pytest.mark.parametrize(("model", "nodes"), [("llama3-8b", 1), ("llama3-70b", 8), ("mixtral-8x7b", 4)])
def test_every_candidate_is_a_layout_that_the_model_and_cluster_allow(model: str, nodes: int) -> None:
    spec = spec_of(model, nodes)
    layouts = candidates(spec.model, spec.cluster, spec.training)
    picks = np.random.default_rng(0).choice(layouts.tp.size, size=min(200, layouts.tp.size), replace=False)
    for index in picks:
        layout = layout_at(layouts, int(index))
        check_layout(spec.model, spec.cluster, layout)
        layout.micro_batches(spec.training.global_batch_size)


def test_the_found_layout_is_the_fastest_that_fits_and_is_predicted_the_same_alone() -> None:
    spec = spec_of("llama3-70b", 8)
    found = search_layout(spec)
    layouts = candidates(spec.model, spec.cluster, spec.training)
    times, needs = evaluate(spec, layouts)
    capacity = spec.cluster.accelerator.memory_bytes.value
    assert found.memory_bytes <= capacity
    assert found.step_time_s == pytest.approx(float(times[needs <= capacity].min()))
    alone = predict_step(msgspec.structs.replace(spec, layout=found.layout))
    assert alone.step_time_s.value == pytest.approx(found.step_time_s)
    assert alone.memory.total_bytes == pytest.approx(found.memory_bytes)
    assert alone.memory.fits


def test_a_model_that_fits_nowhere_says_the_smallest_need_and_what_would_help() -> None:
    with pytest.raises(InfeasibleLayoutError, match=r"none of \d+ layouts .* fits in 80\.0 GiB.*smallest needs"):
        search_layout(spec_of("llama3-405b", 1))


def test_more_devices_never_make_the_best_step_slower() -> None:
    assert search_layout(spec_of("llama3-8b", 4)).step_time_s < search_layout(spec_of("llama3-8b", 2)).step_time_s
