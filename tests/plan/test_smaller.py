"""A layout that does not fit is refused with changes with which it does, each of them predicted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.plan.forecast import make_forecast, require_fit
from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.plan.smaller import with_more_room
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec


def run(layout: dict[str, Any], **training: Any) -> RunSpec:
    return build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 1},
            "layout": layout,
            "training": {"seq_len": 2048, "global_batch_size": 64, "steps": 10, **training},
            "site": {"zone": "FRA"},
        }
    )


def changed(spec: RunSpec, **layout: Any) -> RunSpec:
    return msgspec.structs.replace(spec, layout=msgspec.structs.replace(spec.layout, **layout))


def test_each_change_that_is_named_alone_makes_the_layout_fit() -> None:
    spec = run({"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 4})

    assert not predict_step(spec).memory.fits
    assert with_more_room(spec) == ["micro_batch_size 2", "recompute full", "training.optimizer_offload: true"]
    assert predict_step(changed(spec, micro_batch_size=2)).memory.fits
    assert predict_step(changed(spec, recompute="full")).memory.fits


def test_changes_that_only_help_together_are_one() -> None:
    spec = run({"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 4}, seq_len=8192)

    assert with_more_room(spec) == ["micro_batch_size 1 and recompute full"]
    assert not predict_step(changed(spec, micro_batch_size=1)).memory.fits
    assert not predict_step(changed(spec, recompute="full")).memory.fits
    assert predict_step(changed(spec, micro_batch_size=1, recompute="full")).memory.fits


def test_nothing_is_named_where_nothing_that_is_tried_helps() -> None:
    spec = run({"dp_replicate": 8, "micro_batch_size": 1, "recompute": "full"}, optimizer_offload=True, seq_len=8192)
    larger = msgspec.structs.replace(spec, model=msgspec.structs.replace(spec.model, layers=320))

    assert with_more_room(larger) == []


def test_the_refusal_of_a_stated_layout_names_the_changes() -> None:
    spec = run({"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 4})
    with pytest.raises(InfeasibleLayoutError, match=r"it fits with micro_batch_size 2, or with recompute full, or"):
        require_fit(make_forecast(spec))


def test_a_search_that_finds_nothing_names_held_fields_and_shorter_sequences_that_would_do() -> None:
    with pytest.raises(InfeasibleLayoutError) as refused:
        search_layout(run({"tp": 1, "recompute": "none", "micro_batch_size": 8}))

    assert "layout.micro_batch_size left to the search" in str(refused.value)
    assert "layout.recompute left to the search" in str(refused.value)
    assert "training.seq_len: 1024" in str(refused.value)
