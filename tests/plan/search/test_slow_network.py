"""What a slow network may cost a layout, by which layouts that are predicted alike are ranked."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.plan.search.slow_network import MOST, expected_on_networks, network_slowdown
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import STACKS

SHARDED = {"dp_shard": 128, "zero_stage": 3, "micro_batch_size": 2, "recompute": "none"}
HYBRID = SHARDED | {"dp_shard": 4, "dp_replicate": 32}


def spec_of(layout: dict[str, Any], nodes: int = 32) -> RunSpec:
    return build_run_spec(
        {
            "model": {
                "name": "gpt-2.7b", "layers": 32, "hidden": 2560, "ffn": 10240, "heads": 32, "vocab": 50304,
                "gated": False,
            },
            "cluster": {"accelerator": "a100-sxm-80gb", "nodes": nodes, "devices_per_node": 4},
            "layout": layout,
            "training": {"seq_len": 4096, "global_batch_size": 8 * nodes, "steps": 10, "precision": "bf16"},
            "site": {"zone": "ITA"},
        }
    )  # fmt: skip


def test_what_hides_more_traffic_between_nodes_may_lose_more() -> None:
    # On 128 A100 of Leonardo full sharding took 39 % longer (Modalities); both are predicted within a few percent.
    sharded, hybrid = (
        msgspec.structs.replace(spec_of(layout), stack=STACKS["compiled"]) for layout in (SHARDED, HYBRID)
    )
    predicted = [predict_step(spec).step_time_s.value for spec in (sharded, hybrid)]
    slower = [network_slowdown(spec, step_s) for spec, step_s in zip((sharded, hybrid), predicted, strict=True)]

    assert predicted[0] == pytest.approx(predicted[1], rel=0.06)
    assert 1 < slower[1] < slower[0] <= MOST


def test_one_node_has_no_network_to_be_slow() -> None:
    assert network_slowdown(spec_of(SHARDED | {"dp_shard": 4}, nodes=1), 1.0) == 1


def test_a_step_of_nothing_but_traffic_loses_the_most() -> None:
    assert expected_on_networks(np.ones(2), np.array([1.0, 2.0])) == pytest.approx([1, MOST])


def test_the_search_ranks_by_it() -> None:
    spec = spec_of(HYBRID)

    held = {"tp": 1, "cp": 1, "pp": 1, "zero_stage": 3, "micro_batch_size": 2, "recompute": "none"}
    found = search_layout(msgspec.structs.replace(spec, layout=None, layout_held=held))

    alone = msgspec.structs.replace(spec, layout=found.layout)
    assert found.layout.dp_replicate > 1
    slower = network_slowdown(alone, found.step_time_s)
    assert found.expected_time_s == pytest.approx(found.step_time_s * slower, rel=2e-3)
